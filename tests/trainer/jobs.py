"""Tiny jobs, run in this process."""

from pathlib import Path
from threading import Event
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from adapt.config.strict_yaml import with_overrides
from adapt.errors import Interrupted
from adapt.places import Place
from adapt.spec.job_spec import JobSpec
from adapt.spec.loading import parse_spec
from adapt.trainer.outcome import Outcome
from adapt.trainer.progress import JobProgress
from adapt.trainer.run import run_job


def job_of(values: dict[str, Any], *overrides: str) -> JobSpec:
    return parse_spec(with_overrides(values, overrides), "tiny")


def run(
    job: JobSpec, place: Place, stop_at: int | None = None, fresh: bool = False
) -> tuple[Outcome, list[JobProgress]]:
    stop, seen = Event(), []

    def watch(progress: JobProgress) -> None:
        seen.append(progress)
        if progress.step == stop_at:
            stop.set()

    return run_job(job, place, stop, watch, fresh), seen


def last_folder(job: JobSpec) -> Path:
    return max((Path(job.checkpoint.uri) / job.name).glob("step-*"))


def last_weights(job: JobSpec) -> dict[str, torch.Tensor]:
    return load_file(last_folder(job) / "weights.safetensors")


def assert_same_weights(one: JobSpec, other: JobSpec) -> None:
    """All files of weights in both jobs' last checkpoints are the same, bit for bit."""
    expected, found = (
        {path.name: load_file(path) for path in last_folder(job).glob("*.safetensors")}
        for job in (one, other)
    )
    assert expected.keys() == found.keys() and expected
    for file, weights in expected.items():
        assert weights.keys() == found[file].keys()
        for key, value in weights.items():
            assert torch.equal(found[file][key], value), (file, key)


def stopped_and_calm(
    values: dict[str, Any], place: Place, folder: Path, *overrides: str, stops: tuple[int, ...]
) -> tuple[JobSpec, JobSpec]:
    """A job that is stopped and resumed at these steps, which has the losses, metrics and weights
    of one that runs through, bit for bit, with another number of threads."""
    calm = job_of(values, *overrides, f"checkpoint.uri={folder / 'calm'}")
    job = job_of(values, *overrides, f"checkpoint.uri={folder / 'stopped'}", "stream.threads=1")
    expected, losses = run(calm, place)
    for stop_at in stops:
        with pytest.raises(Interrupted, match=f"step {stop_at}, everything is saved"):
            run(job, place, stop_at)
    outcome, seen = run(job, place)
    assert [one.losses for one in seen] == [one.losses for one in losses[stops[-1] :]]
    assert outcome.metrics == expected.metrics
    assert_same_weights(calm, job)
    return job, calm
