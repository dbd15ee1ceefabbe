"""A job is opened, or refused before training."""

import logging
import os
from dataclasses import replace
from typing import Any

import pytest

from adapt.errors import DataError, JobError
from adapt.places import Place
from adapt.stream.config import StreamConfig
from adapt.trainer.opening import decoding_threads
from storage.errors import StoreError
from tests.trainer.jobs import job_of, run


@pytest.mark.parametrize(
    ("override", "error", "message"),
    [
        ("source.uri=s3-less/nowhere", DataError, "pack"),
        ("source.dataset=band", JobError, "expected ids for dataset 'band'"),
        ("source.uri=gopher://x/y", StoreError, "no store for the scheme 'gopher'"),
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
