"""A job is opened, or refused before training."""

import logging
import os
from dataclasses import replace
from pathlib import Path
from threading import Event, Timer
from typing import Any

import pytest

from adapt.errors import DataError, Interrupted, JobError
from adapt.places import Place
from adapt.platforms.local_stack import S3Server
from adapt.stream.config import StreamConfig
from adapt.trainer.opening import decoding_threads, open_job, stores_awaited
from adapt.trainer.run import run_job
from storage.errors import StoreError
from storage.store import Store
from tests.conftest import tiny_values
from tests.servers import stores_of
from tests.storage.broken_answers import Reset
from tests.storage.faults import FaultProxy
from tests.trainer.jobs import job_of, run


@pytest.mark.parametrize(
    ("override", "error", "message"),
    [
        ("source.uri=s3-less/nowhere", DataError, "pack"),
        ("source.dataset=band", JobError, "expected ids for dataset 'band'"),
        ("source.uri=gopher://x/y", JobError, "source.uri: expected a known scheme, got 'gopher'"),
        ("model.start_uri=nothing.safetensors", StoreError, "nothing.safetensors"),
        ("model.encoder=resnet19", JobError, "did you mean 'resnet18'"),
        ("method.weight_adv=[1.0, 1.0, 1.0]", JobError, "at most one weight for each head"),
    ],
)
def test_what_does_not_fit_is_refused_before_training(
    tiny_job: dict[str, Any], place: Place, override: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        run(job_of(tiny_job, override), place)


def test_ranks_share_a_node_s_cores_for_decoding(place: Place) -> None:
    cores = len(os.sched_getaffinity(0))
    assert decoding_threads(StreamConfig(), place) == max(2, min(16, cores))
    assert decoding_threads(StreamConfig(), replace(place, local_ranks=cores)) == 2
    assert decoding_threads(StreamConfig(threads=5), replace(place, local_ranks=cores)) == 5


def test_another_dataset_than_packed_is_refused(tiny_job: dict[str, Any], place: Place) -> None:
    overrides = [f"classes.{index}.ids.other=[{index}]" for index in range(4)]
    with pytest.raises(DataError, match="expected dataset 'other', got shards packed as 'tiny'"):
        run(job_of(tiny_job, *overrides, "source.dataset=other"), place)


def test_absent_classes_are_named(
    tiny_job: dict[str, Any], place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    tiny_job["classes"] = [
        *tiny_job["classes"],
        {"name": "train", "colour": [1, 2, 3], "ids": {"tiny": [9]}},
    ]
    with caplog.at_level(logging.WARNING):
        run(job_of(tiny_job, "train.steps=1"), place)
    assert "expected pixels of every class, got none of train, not learned" in caplog.text
    tiny_job["classes"] = [
        {"name": str(i), "colour": [i, 0, 0], "ids": {"tiny": [50 + i]}} for i in range(2)
    ]
    with pytest.raises(
        DataError,
        match=r"expected pixels of the job's classes, got none of any. Fix: correct `classes`",
    ):
        run(job_of(tiny_job, "name=none"), place)


def test_the_target_s_labels_are_never_opened(
    tiny_job: dict[str, Any], place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    from adapt.trainer import opening

    opened = {}
    original = opening.open_data

    def spy(*args: Any) -> Any:
        data = original(*args)
        opened["tables"] = [None if split is None else split.id_table for split in data]
        return data

    monkeypatch.setattr(opening, "open_data", spy)
    run(job_of(tiny_job, "train.steps=1"), place)
    source, target, validation = opened["tables"]
    assert source is not None and target is None and validation is not None


@pytest.fixture
def remote_job(
    tiny_uri: str, s3_server: S3Server, s3_uri: str, proxy: FaultProxy, place: Place
) -> tuple[dict[str, Any], Place]:
    """A job whose data and runs lie in a store behind the proxy, and its place with the keys."""
    direct = stores_of(s3_server)
    _copy(tiny_uri, direct.open(f"{s3_uri}/packed"))
    config = direct.configs["s3"].model_copy(update={"endpoint_url": proxy.endpoint_url})
    values = tiny_values(f"{s3_uri}/packed", f"{s3_uri}/runs")
    values["stores"] = {"s3": config.model_dump(exclude_defaults=True)}
    return values, replace(place, environment=direct.environment)


def _copy(folder: str, store: Store) -> None:
    for path in Path(folder).rglob("*"):
        if path.is_file():
            store.put_file(path.relative_to(folder).as_posix(), path)


@pytest.mark.slow
def test_a_job_starts_although_its_store_is_away(
    remote_job: tuple[dict[str, Any], Place], proxy: FaultProxy, caplog: pytest.LogCaptureFixture
) -> None:
    values, place = remote_job
    proxy.outage(1.5)
    outcome, _ = run(job_of(values, "train.steps=1"), place)
    assert outcome.step == 1
    waited = [line for line in caplog.messages if line.endswith("; retrying for up to 600 s")]
    assert len(waited) == 1 and "/packed/train/manifest.json: the store at http" in waited[0]


@pytest.mark.slow
def test_a_job_starts_although_its_first_requests_are_reset(
    remote_job: tuple[dict[str, Any], Place], proxy: FaultProxy
) -> None:
    values, place = remote_job
    beats: list[None] = []
    proxy.order(Reset(), times=3)
    with (
        stores_awaited(Event(), lambda: beats.append(None)),
        open_job(job_of(values), place) as job,
    ):
        assert len(job.data.source) == 22
    assert len(beats) == 3, "a wait is no stall"


def test_a_stop_ends_the_wait_for_a_store(
    remote_job: tuple[dict[str, Any], Place], proxy: FaultProxy
) -> None:
    values, place = remote_job
    stop = Event()
    with proxy.away():
        Timer(0.5, stop.set).start()
        message = r"stopped while waiting for a store: s3://.*manifest.json: the store at .*broke"
        with pytest.raises(Interrupted, match=message):
            run_job(job_of(values), place, stop)
