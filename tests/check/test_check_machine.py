"""The machine: shared memory, disk, GPU memory."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from adapt.check import Subject
from adapt.check.data import SplitReport, check_split
from adapt.check.machine import (
    disk_findings,
    gpu_findings,
    gpu_model_findings,
    shm_findings,
)
from adapt.check.memory import Peak
from adapt.check.spec import spec_findings
from adapt.errors import JobError
from adapt.platforms.platform import (
    Finding,
    Profile,
    Promised,
)
from tests.check.subjects import assert_green, assert_red, subject


def promising(one: Subject, **more: object) -> Subject:
    """The subject with a profile that promises more than the common one's keys."""

    class Promising(Profile):
        shm_gb: float | None = None
        scratch_gb: float | None = None

        def promised_gb(self) -> Promised:
            return Promised(self.shm_gb, self.scratch_gb)

    assert one.profile is not None
    values = {**one.profile.model_dump(mode="json"), **more}
    return Subject(one.job, one.place, Promising.from_values(values, "profile"))


def test_too_little_shared_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    two = subject(tmp_path, profile={"gpus": 2})
    cure = "docker run --shm-size=1g, or shm_gb of the profile"
    small = shm_findings(promising(two, shm_gb=0.064))
    assert_red(small, "/dev/shm", 2, "0.06 GB for 2 ranks, 1 GB needed", cure)
    assert_green(shm_findings(promising(two, shm_gb=1)), "/dev/shm", "1.00 GB for 2 ranks")
    assert_green(shm_findings(two), "/dev/shm", "checked only there")
    assert_green(shm_findings(subject(tmp_path, profile={})), "/dev/shm", "one rank a node")
    here = subject(tmp_path)
    here = Subject(here.job, replace(here.place, processes=2))
    monkeypatch.setattr("adapt.check.machine.SHM_BYTES", 10**15)
    assert_red(shm_findings(here), "/dev/shm", 2, "GB for 2 ranks, 1000000 GB needed", cure)


def fetched(*shard_gb: float) -> Callable[[], dict[str, SplitReport]]:
    sizes = tuple(int(size * 1e9) for size in shard_gb)
    return lambda: {"source": SplitReport((), sizes, None, remote=True)}


def test_too_little_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = promising(subject(tmp_path, profile={}), scratch_gb=11)
    assert_green(disk_findings(there, fetched(4, 4)), "disk", "11.0 GB free for 8.0 GB of shards")
    partly = list(disk_findings(there, fetched(*[4] * 10)))
    assert_green(
        partly, "disk", "25% of 40.0 GB of shards stay on it, the others are fetched again"
    )
    message = "11.0 GB free, 13.1 GB needed at least; make room, or set SEGADAPT_SCRATCH_DIR"
    assert_red(disk_findings(there, fetched(12)), "disk", 2, message)
    unknown = subject(tmp_path, profile={})
    assert_green(disk_findings(unknown, fetched(12)), "disk", "checked only there")
    monkeypatch.setattr("adapt.check.machine.RESERVE_BYTES", 10**15)
    here = list(disk_findings(subject(tmp_path), dict))
    assert_red(here, "disk", 2, f"GB free in {tmp_path}/scratch, 1000000.0 GB needed at least")


def test_a_step_that_needs_more_memory_than_the_gpu_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peak = Peak(10**9, 10**9, 2 * 10**9, 6 * 10**9)
    monkeypatch.setattr("adapt.check.machine.predicted_bytes", lambda *_: peak)
    monkeypatch.setattr("adapt.check.outgrowing.predicted_bytes", lambda *_: peak)

    def found(**profile: object) -> list[Finding]:
        return list(gpu_findings(subject(tmp_path, profile=profile), dict))

    parts = "12.5 GB of 11.0 GB: parameters 1.00, gradients 1.00, optimizer 2.00, activations 6.00"
    cure = "margin 2.50; lower batch_size or augment.crop_hw, or take a larger GPU: no option"
    assert_red(found(gpu_memory_gb=11), "GPU memory", 2, parts, cure)
    assert_green(found(gpu_memory_gb=12.5), "GPU memory", "12.5 GB of 12.5 GB")
    assert_green(found(), "GPU memory", "a GPU of unknown memory (no gpu_memory_gb in the profile)")
    if not torch.cuda.is_available():
        here = gpu_findings(subject(tmp_path), dict)
        assert_green(here, "GPU memory", "12.5 GB of a GPU, which this machine lacks")


def test_the_option_that_makes_it_fit_is_the_fix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peak, less = Peak(activations=10**10), Peak(activations=10**9)
    monkeypatch.setattr("adapt.check.machine.predicted_bytes", lambda *_: peak)
    monkeypatch.setattr("adapt.check.outgrowing.predicted_bytes", lambda *_: less)
    found = gpu_findings(subject(tmp_path, profile={"gpu_memory_gb": 11}), dict)
    cure = "set train.accumulate: 2, with which 2.6 GB are needed; or lower batch_size or"
    assert_red(found, "GPU memory", 2, "12.5 GB of 11.0 GB", cure)


def test_the_gpus_of_the_profiles_machines(tmp_path: Path) -> None:
    old = subject(tmp_path, profile={"gpu": "V100"})
    said = "expected compute capability 7.5 or later"
    assert_red(gpu_model_findings(old), "GPU model", 2, said, "--build-arg CUDA=12")
    new = subject(tmp_path, profile={"gpu": "A100", "driver": 580})
    assert_green(gpu_model_findings(new), "GPU model", "A100, compute capability 8.0; driver 580")
    assert list(gpu_model_findings(subject(tmp_path, profile={"gpus": 0}))) == []


def test_the_gpu_of_this_machine_is_a_line_only_where_it_does_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert list(gpu_model_findings(subject(tmp_path))) == []

    def refuse(*_: object) -> None:
        raise JobError("driver: expected 580, got 470")

    monkeypatch.setattr("adapt.check.machine.check_gpu", refuse)
    assert_red(gpu_model_findings(subject(tmp_path)), "GPU model", 2, "expected 580, got 470")


def test_batches_that_do_not_fit_the_ranks_are_one_red_line(tmp_path: Path) -> None:
    one = subject(tmp_path, "packed", profile={"gpus": 3})
    assert list(gpu_findings(one, dict)) == []
    assert_red(spec_findings(one), "batches", 2, "expected a multiple of 3")


def test_sizes_that_only_the_shards_know(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = subject(tmp_path, "packed", "source.size_hw=null")
    message = "source.size_hw: expected a size, by which the memory of a step is predicted"
    assert_red(gpu_findings(one, dict), "GPU memory", 2, message)
    wrong = {"source": check_split(one, "source")}
    assert_red(wrong["source"].findings, "source", 4, "packed/train/manifest.json")
    unknown = gpu_findings(one, lambda: wrong)
    assert_green(unknown, "GPU memory", "not predicted: the images of source have an error")
    asked: list[Any] = []
    monkeypatch.setattr(
        "adapt.check.machine.predicted_bytes", lambda *args: asked.append(args[2]) or Peak()
    )
    looked = {"source": SplitReport((), (), (48, 64)), "target": SplitReport(())}
    assert_green(gpu_findings(one, lambda: looked), "GPU memory", "margin 1.50")
    assert asked == [{"source": (48, 64)}]


def test_a_network_that_cannot_be_predicted_is_no_reason_to_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch._subclasses.fake_tensor import DynamicOutputShapeException

    def unpredictable(*_: object) -> Peak:
        raise DynamicOutputShapeException("aten.nonzero")

    monkeypatch.setattr("adapt.check.machine.predicted_bytes", unpredictable)
    found = gpu_findings(subject(tmp_path), dict)
    assert_green(found, "GPU memory", "not predicted", "aten.nonzero")
