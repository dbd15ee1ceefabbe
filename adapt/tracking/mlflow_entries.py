"""Sends the entries of a spool to a run in MLflow, kind by kind: a row of SENDERS each.

Sending an entry twice does no harm, so a delivery that was cut off is repeated.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from adapt.tracking.logged_models import send_models
from adapt.tracking.mlflow_errors import code_of
from adapt.tracking.mlflow_run import MlflowRun
from adapt.tracking.names import legal_name
from adapt.tracking.registry import register_best
from adapt.tracking.spool import Entry
from storage.uris import split_uri

ERROR_TAG = "segadapt.error"
RESUMED_TAG = "segadapt.resumed_at_step"
CHANGED_PARAM_TAG = "segadapt.changed_param."


def _send_start(run: MlflowRun, entries: list[Entry]) -> None:
    if run.is_past(entries[-1]):
        return
    run.client.update_run(run.id, status="RUNNING")
    if ERROR_TAG in run.tags():
        run.client.delete_tag(run.id, ERROR_TAG)
    if entries[-1]["resume_step"] is not None:
        run.client.set_tag(run.id, RESUMED_TAG, str(entries[-1]["resume_step"]))


def _send_metrics(run: MlflowRun, entries: list[Entry]) -> None:
    from mlflow.entities import Metric

    for key in list(_named(entries[-1]))[:1]:
        run.notice_others(key)
    new: dict[tuple[str, int], Any] = {}
    for entry in entries:
        step, time_ms = entry["step"], entry["time_ms"]
        for key, value in _named(entry).items():
            if step not in run.steps_of(key):
                new.setdefault((key, step), Metric(key, value, time_ms, step))
    for part in _parts(list(new.values()), 1000):
        run.client.log_batch(run.id, metrics=part)
        for metric in part:
            run.steps_of(metric.key).add(metric.step)


def _send_params(run: MlflowRun, entries: list[Entry]) -> None:
    from mlflow.entities import Param

    values = {key: value for entry in entries for key, value in _named(entry).items()}
    new = {key: value for key, value in values.items() if key not in run.params}
    for part in _parts([Param(key, value) for key, value in new.items()], 100):
        run.client.log_batch(run.id, params=part)
        run.params |= {param.key: param.value for param in part}
    changed = {key: value for key, value in values.items() if value != run.params[key]}
    _set_tags(run, {CHANGED_PARAM_TAG + key: value for key, value in changed.items()})


def _send_tags(run: MlflowRun, entries: list[Entry]) -> None:
    values = {key: value for entry in entries for key, value in _named(entry).items()}
    if run.is_past(entries[-1]):
        has = run.tags()
        values = {key: value for key, value in values.items() if key not in has}
    _set_tags(run, values)


def _set_tags(run: MlflowRun, tags: Mapping[str, str]) -> None:
    from mlflow.entities import RunTag

    named = [RunTag(legal_name(key), value) for key, value in tags.items()]
    for part in _parts(named, 100):
        run.client.log_batch(run.id, tags=part)


def _named(entry: Entry) -> dict[str, Any]:
    """The values under names that MLflow takes: earlier versions wrote others into spools."""
    return {legal_name(key): value for key, value in entry["values"].items()}


def _send_datasets(run: MlflowRun, entries: list[Entry]) -> None:
    from mlflow.exceptions import MlflowException

    inputs = [_dataset_input(**facts) for entry in entries for facts in entry["datasets"]]
    try:
        run.client.log_inputs(run.id, datasets=inputs)
    except MlflowException as error:
        if code_of(error) != "ENDPOINT_NOT_FOUND":  # a server that has no datasets yet
            raise


def _dataset_input(name: str, digest: str, uri: str, context: str, num_samples: int) -> Any:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    kind = split_uri(uri)[0].replace("file", "local")
    dataset = Dataset(
        name, digest, kind, json.dumps({"uri": uri}), profile=json.dumps({"samples": num_samples})
    )
    return DatasetInput(dataset, [InputTag("mlflow.data.context", context)])


def _send_text(run: MlflowRun, entries: list[Entry]) -> None:
    for entry in entries:
        run.client.log_text(run.id, entry["text"], entry["artifact_path"])


def _send_file(run: MlflowRun, entries: list[Entry]) -> None:
    for entry in entries:
        path, folder = Path(entry["file"]), str(PurePosixPath(entry["artifact_path"]).parent)
        if not path.exists():  # sent before a kill that came ahead of the mark
            continue
        run.client.log_artifact(run.id, str(path), None if folder == "." else folder)
        path.unlink()


def _send_register(run: MlflowRun, entries: list[Entry]) -> None:
    register_best(run, entries[0]["name"])


def _send_finish(run: MlflowRun, entries: list[Entry]) -> None:
    last = entries[-1]
    if run.is_past(last):
        return
    if last.get("error"):
        _set_tags(run, {ERROR_TAG: last["error"]})
    run.client.set_terminated(run.id, last["status"], end_time=last["time_ms"])


def halves(entries: list[Entry]) -> tuple[list[Entry], ...]:
    """The entries, or the values of a single one, in two parts; none where there is one value."""
    if len(entries) > 1:
        middle = len(entries) // 2
        return entries[:middle], entries[middle:]
    values = list(entries[0].get("values", {}).items())
    if len(values) < 2:
        return ()
    middle = len(values) // 2
    return tuple(
        [entries[0] | {"values": dict(half)}] for half in (values[:middle], values[middle:])
    )


def name_of(entry: Entry) -> str:
    """The artifact of an entry, or its values' names, for a message."""
    return str(entry.get("artifact_path") or ", ".join(entry.get("values", {})))


def _parts(items: list[Any], size: int) -> Iterator[list[Any]]:
    for first in range(0, len(items), size):
        yield items[first : first + size]


SENDERS: dict[str, Callable[[MlflowRun, list[Entry]], None]] = {
    "start": _send_start,
    "metrics": _send_metrics,
    "params": _send_params,
    "tags": _send_tags,
    "datasets": _send_datasets,
    "text": _send_text,
    "file": _send_file,
    "models": send_models,
    "register": _send_register,
    "finish": _send_finish,
}
"""By the `kind` of an entry. Each takes an attached run and entries of its kind, and may raise what
`mlflow_errors.failures()` lists."""
