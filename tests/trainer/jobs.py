"""Tiny jobs, run in this process."""

from pathlib import Path
from threading import Event
from typing import Any

import torch
from safetensors.torch import load_file

from adapt.config.strict_yaml import with_overrides
from adapt.places import Place
from adapt.spec.job_spec import JobSpec, parse_spec
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


def last_weights(job: JobSpec) -> dict[str, torch.Tensor]:
    folders = sorted((Path(job.checkpoint.uri) / job.name).glob("step-*"))
    return load_file(folders[-1] / "weights.safetensors")
