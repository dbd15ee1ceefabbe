"""A run of MLflow by what people call it: its id or name, its job, its experiment, or a registered
model that was made of it."""

import errno
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import Any, NamedTuple, TypeVar

from adapt.checkpoint.run_folder import SPEC
from adapt.config.strict_yaml import parse_yaml
from adapt.errors import MAX_SHOWN, JobError, got
from adapt.evaluation.protocol import AGREEMENT, WITH_LABELS, sign
from adapt.spec.job_spec import JobSpec
from adapt.spec.loading import parse_spec
from adapt.tracking.mlflow_database import require_database
from adapt.tracking.mlflow_errors import REFUSALS, be_brief, code_of, failures, first_line, fix_of
from adapt.tracking.mlflow_run import BEST_CHOSEN_BY_TAG, BEST_URI_TAG, JOB_TAG
from adapt.tracking.names import legal_name
from adapt.tracking.registry import BEST_ALIAS, VERSION
from storage.errors import StoreError
from storage.retry import Retry
from storage.uris import without_password

_SEARCHED = 1000
"""The newest runs, among whose names a mistyped one is searched."""
_Answer = TypeVar("_Answer")


class FoundRun(NamedTuple):
    """A run, its job spec, and its tags, with the best checkpoint's of the version that was asked
    for."""

    run_id: str
    name: str
    job: JobSpec
    tags: Mapping[str, str]
    texts: Mapping[str, str]


def find_run(
    wanted: str,
    tracking_uri: str,
    metric: str | None = None,
    *,
    best: bool = True,
    texts: Sequence[str] = (),
) -> FoundRun:
    """The run that `wanted` names: by id, as an experiment, by job, by name, or as a registered
    model, `NAME` (its best version), `models:/NAME@ALIAS` or `models:/NAME/VERSION`.

    Of an experiment the run with the best `metric`, by default the score by which its runs chose
    their checkpoints, miou where they differ. `best`: it needs a best checkpoint. `texts`:
    artifacts to read, where they are there. Raises `JobError` where MLflow knows none, several of
    that name, or several whose scores do not compare, and `StoreError`. MLflow is asked again where
    it fails in passing.
    """
    require_database(tracking_uri)
    be_brief()
    from mlflow import MlflowClient

    def found() -> FoundRun:
        client = MlflowClient(tracking_uri)
        run, more = _find(client, wanted, metric, tracking_uri, best)
        read = {name: _text(client, run, name) for name in (SPEC, *texts)}
        kept = {name: text for name, text in read.items() if text is not None}
        job = _spec_of(kept.get(SPEC), run)
        return FoundRun(run.info.run_id, run.info.run_name, job, {**run.data.tags, **more}, kept)

    return asked(found, tracking_uri)


def asked(ask: Callable[[], _Answer], tracking_uri: str) -> _Answer:
    """MLflow's answer; asked three times where it fails in passing. Raises `JobError`, and
    `StoreError` where the disk is full."""
    try:
        return Retry(3, on=failures(), transient=_may_pass).call(ask)
    except failures() as error:
        if getattr(error, "errno", None) == errno.ENOSPC:
            raise StoreError(f"{gettempdir()}: the disk is full", "free space there") from error
        raise JobError(
            f"{without_password(tracking_uri)}: expected an answer of MLflow, got: "
            f"{first_line(error)}",
            fix_of(error),
        ) from error


def score_tag(metric: str) -> str:
    """The tag with the best checkpoint's value of a metric."""
    return legal_name(f"best_checkpoint_{metric}")


def _may_pass(error: Exception) -> bool:
    """Return whether MLflow may answer when it is asked again."""
    return code_of(error) not in REFUSALS and getattr(error, "errno", None) != errno.ENOSPC


def _find(
    client: Any, wanted: str, metric: str | None, tracking_uri: str, best: bool
) -> tuple[Any, Mapping[str, str]]:
    """The run, and the tags of the registered version that names it."""
    experiments = client.search_experiments()
    ids = [experiment.experiment_id for experiment in experiments]
    named = [e.experiment_id for e in experiments if e.name == wanted]
    quoted = f'"{wanted}"' if "'" in wanted else f"'{wanted}'"
    by_id = client.search_runs(ids, f"attributes.run_id = {quoted}") if ids else []
    by_name = client.search_runs(ids, f"attributes.run_name = {quoted}") if ids else []
    by_job = client.search_runs(ids, f"tags.`{JOB_TAG}` = {quoted}") if ids else []
    runs = by_id or (client.search_runs(named, max_results=1000) if named else [])
    runs = runs or by_job or by_name
    if runs is by_name and len({run.info.experiment_id for run in runs}) > 1:
        listed = ", ".join(run.info.run_id for run in runs)
        raise JobError(
            f"{wanted}: expected a run of one name, got runs of several experiments",
            fix=f"name one by its id ({listed})",
        )
    if not runs:
        version = _registered(client, wanted)
        if version is not None:
            return client.get_run(version.run_id), version.tags
        raise _unknown(client, wanted, experiments, without_password(tracking_uri))
    scored = [run for run in runs if BEST_URI_TAG in run.data.tags or not best]
    if not scored:
        raise JobError(
            f"{wanted}: expected a run with a best checkpoint, got none",
            fix="wait for the first evaluation, which marks one",
        )
    by = metric or _chosen_by(scored)
    if by == AGREEMENT and len(scored) > 1:
        raise JobError(
            f"{wanted}: expected one run, got {len(scored)} that chose by {AGREEMENT}, which "
            "compares checkpoints of one run",
            "name one of them, or choose among their checkpoints: segadapt choose SPEC "
            "--checkpoint A --checkpoint B",
        )
    return max(scored, key=lambda run: _score(run, by)), {}


def _chosen_by(runs: Sequence[Any]) -> str:
    """The score by which all of these runs chose their checkpoints, miou where they differ."""
    names = {run.data.tags.get(BEST_CHOSEN_BY_TAG, WITH_LABELS) for run in runs}
    return str(names.pop()) if len(names) == 1 else WITH_LABELS


def _registered(client: Any, wanted: str) -> Any:
    """The version of a registered model that was made of a run; None where there is none."""
    from mlflow.exceptions import MlflowException

    match = VERSION.fullmatch(wanted)
    name, alias, number = match.groups() if match else (wanted, BEST_ALIAS, None)
    try:
        if number is not None:
            version = client.get_model_version(name, number)
        else:
            version = client.get_model_version_by_alias(name, alias)
    except MlflowException as error:
        if code_of(error) not in REFUSALS:
            raise
        return None
    return version if version.run_id else None


def _score(run: Any, metric: str) -> float:
    """A run's score, greater is better; a run without a number counts least."""
    score = sign(metric) * float(run.data.tags.get(score_tag(metric), "nan"))
    return score if score == score else -math.inf


def _unknown(client: Any, wanted: str, experiments: Sequence[Any], server: str) -> JobError:
    """The error that lists what there is: experiments, registered models, and the newest runs with
    their jobs."""
    ids = [experiment.experiment_id for experiment in experiments]
    runs = client.search_runs(ids, max_results=_SEARCHED) if ids else []
    names = {
        "experiments": [experiment.name for experiment in experiments],
        "runs": [run.info.run_name for run in runs],
        "jobs": [run.data.tags[JOB_TAG] for run in runs if JOB_TAG in run.data.tags],
        "registered models": [one.name for one in client.search_registered_models()],
    }
    if wanted in names["registered models"]:
        return JobError(
            f"{wanted}: expected a registered model with the alias {BEST_ALIAS} at {server}, got "
            "one without it",
            f"name a version, models:/{wanted}/1, or give it the alias in MLflow",
        )
    known = [name for kind in names.values() for name in kind]
    listed = [f"{kind}: {_first(kept)}" for kind, kept in names.items() if kept]
    return JobError(
        f"{wanted}: expected a run id, a run name, a job, an experiment or a registered model of "
        f"MLflow at {server}, {got(wanted, known)} ({'; '.join(listed)})",
        "name one of them, or another server with --tracking-uri",
    )


def _first(names: Sequence[str]) -> str:
    """The first few names, each once."""
    once = list(dict.fromkeys(names))
    more = f" and {len(once) - MAX_SHOWN} more" if len(once) > MAX_SHOWN else ""
    return ", ".join(once[:MAX_SHOWN]) + more


def _text(client: Any, run: Any, name: str) -> str | None:
    """An artifact's text; None where the run has none of that name."""
    if not any(one.path == name for one in client.list_artifacts(run.info.run_id)):
        return None
    with TemporaryDirectory(prefix="segadapt-spec-") as folder:
        return Path(client.download_artifacts(run.info.run_id, name, folder)).read_text()


def _spec_of(text: str | None, run: Any) -> JobSpec:
    if text is None:
        raise JobError(
            f"{run.info.run_name}: expected the run of a job, got one without {SPEC}, as of an "
            "imported network",
            "name its weights, or models:/NAME@best, to predict, serve, export or import-model",
        )
    try:
        return parse_spec(parse_yaml(text, "the run's spec.yaml"), run.info.run_name)
    except JobError as error:
        best = run.data.tags.get(BEST_URI_TAG, "by its URI")
        raise JobError(
            f"{run.info.run_name}: expected a job spec of this version of SegAdapt, got the run's "
            f"{SPEC} with {error.problem}",
            f"name its checkpoint, {best}, to predict, serve, export or import-model; use the "
            "version that trained it for the rest",
        ) from error
