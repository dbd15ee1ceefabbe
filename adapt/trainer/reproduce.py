"""The content of a run, and the differences if it were run again here."""

import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from adapt.checkpoint.run_folder import SPEC
from adapt.data.packed.packed_split import SplitConfig
from adapt.data.packed.split_files import read_manifest
from adapt.errors import DataError, JobError
from adapt.places import Place
from adapt.spec.job_spec import JobSpec
from adapt.stream.domains import DOMAINS
from adapt.tracking.mlflow_run import BEST_SHA256_TAG, BEST_URI_TAG
from adapt.trainer.environment import ENVIRONMENT, environment
from adapt.trainer.found_run import FoundRun, find_run
from storage.errors import StoreError
from storage.files import file_errors
from storage.stores import Stores

RECORD = "run.json"
_WEIGHTS = ("model.", "method.")


class Difference(NamedTuple):
    """A fact that is not as it was: of the run, and here."""

    what: str
    then: str
    now: str

    def __str__(self) -> str:
        return f"{self.what}: {self.then} then, {self.now} now"


class Reproduced(NamedTuple):
    """The files that were written, and what would differ here."""

    spec_path: Path
    record_path: Path
    run_id: str
    differences: list[Difference]


def reproduce(
    wanted: str, out: Path, tracking_uri: str, place: Place, stores: Stores | None = None
) -> Reproduced:
    """Write `spec.yaml` and `run.json` (fingerprints of data, environment, best checkpoint) of the
    run that `wanted` names (`find_run`) into `out`, and compare them with what is here.

    Raises `JobError` where MLflow knows no such run, and `StoreError` where `out` cannot be
    written; data and weights that cannot be read are differences.
    """
    found = find_run(wanted, tracking_uri, best=False, texts=[ENVIRONMENT])
    stores = stores or Stores(found.job.stores, place.environment)
    then = json.loads(found.texts.get(ENVIRONMENT, "{}"))
    splits = _splits(found.job)
    data = {
        key: {"uri": one.uri, "split": one.split, "fingerprint": found.tags.get(f"segadapt.{key}")}
        for key, one in splits.items()
    }
    best = {"uri": found.tags.get(BEST_URI_TAG), "sha256": found.tags.get(BEST_SHA256_TAG)}
    record = {"run_id": found.run_id, "data": data, "environment": then, "best": best}
    with file_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        (out / SPEC).write_text(found.texts[SPEC])
        (out / RECORD).write_text(json.dumps(record, indent=1) + "\n")
    differences = [*_versions(then), *_data(found, splits, stores), *_weights(found, stores)]
    return Reproduced(out / SPEC, out / RECORD, found.run_id, differences)


def _versions(then: Mapping[str, Any]) -> Iterator[Difference]:
    if not then:
        yield Difference("environment", "not recorded", "known")
        return
    now = environment()
    for name in then:
        if str(then[name]) != str(now.get(name, "unknown")):
            yield Difference(name, str(then[name]), str(now.get(name, "unknown")))


def _data(
    found: FoundRun, splits: Mapping[str, SplitConfig], stores: Stores
) -> Iterator[Difference]:
    for key, one in splits.items():
        then = found.tags.get(f"segadapt.{key}", "not recorded")
        now = _read(partial(_fingerprint, one, stores))
        if now != then:
            yield Difference(f"{key} ({one.uri}, {one.split})", then, now)


def _fingerprint(one: SplitConfig, stores: Stores) -> str:
    return read_manifest(stores.open(one.uri), one.split)[0].dataset_id


def _weights(found: FoundRun, stores: Stores) -> Iterator[Difference]:
    """Weights that the run started from, or made, and that are not there any more."""
    uris = {key: uri for key, uri in found.job.uris().items() if key.startswith(_WEIGHTS)}
    if BEST_URI_TAG in found.tags:
        uris["best checkpoint"] = found.tags[BEST_URI_TAG]
    for key, uri in uris.items():
        now = _read(partial(_presence, uri, stores))
        if now != "there":
            yield Difference(f"{key} ({uri})", "there", now)


def _presence(uri: str, stores: Stores) -> str:
    """`there` for a file, or for a folder that is not empty; else `missing`."""
    folder, _, name = uri.rpartition("/")
    store = stores.open(folder or ".")
    found = store.exists(name) or any(True for _ in store.list(f"{name}/"))
    return "there" if found else "missing"


def _splits(job: JobSpec) -> dict[str, SplitConfig]:
    """The packed splits by the key that the run's tags have."""
    parts = [part for domain in DOMAINS if job.datasets(domain) for part in job.parts(domain)]
    splits: dict[str, SplitConfig] = {part.name.replace(" ", "_"): part.config for part in parts}
    return splits if job.validation is None else {**splits, "validation": job.validation}


def _read(read: Callable[[], str]) -> str:
    try:
        return read()
    except (StoreError, DataError, JobError) as error:
        return f"unreadable ({error.problem})"
