"""Model FLOPs utilisation of a job: counted once a shape, said once, left out where not known."""

import logging
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from adapt.accelerator import Properties
from adapt.batch import Batch
from adapt.engine.flops import Flops
from adapt.engine.peak import Peak
from adapt.places import Place
from adapt.trainer import utilisation
from adapt.trainer.utilisation import MAX_SHAPES, Rates, Utilisation, si
from tests.conftest import tiny_values
from tests.trainer.jobs import job_of, run

CPU = torch.device("cpu")
PEAK = Peak(1e12, 5e11, "stated")


def batch(side: int = 32, size: int = 2) -> Batch:
    return Batch(torch.empty(size, 3, side, side), None, ("k",) * size)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counter[Any]:
    """Steps cost 3 TFLOP of convolutions and 1 of products for each pixel of 32 in a row; the
    peak is `PEAK`."""
    calls: Counter[Any] = Counter()

    def flops(_job: Any, source: Batch, _target: Batch | None) -> Flops:
        side = source.images.shape[-1]
        calls[side] += 1
        if side == 7:
            raise NotImplementedError("Cannot copy out of meta tensor; no data!")
        return Flops(3 * 10**12 * side // 32, 10**12 * side // 32)

    monkeypatch.setattr(utilisation, "flops_of", flops)
    monkeypatch.setattr(utilisation, "peak_of", lambda *_: PEAK)
    return calls


def test_steps_of_several_sizes_are_summed(counted: Counter[Any]) -> None:
    meter = Utilisation(job_of(tiny_values("data", "runs")), CPU)
    for side in (32, 32, 64, 32):
        meter.note(batch(side), None)
    assert meter.has_new and not counted, "the first steps do not wait for it"
    ideal_s = 5 * (3 + 1 / 0.5)
    assert meter.take(50.0) == Rates(pytest.approx(20e12 / 50), pytest.approx(ideal_s / 50))
    assert counted == {32: 1, 64: 1} and not meter.has_new
    assert meter.take(1.0) == Rates(), "no step since"
    meter.note(batch(), None)
    assert not meter.has_new
    meter.restart()
    assert meter.take(1.0) == Rates() and counted == {32: 1, 64: 1}


def test_the_step_and_its_peak_are_said_once(
    counted: Counter[Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    meter = Utilisation(job_of(tiny_values("data", "runs")), CPU)
    for _ in range(3):
        meter.note(batch(), batch())
        meter.take(1.0)
    assert caplog.messages == [
        "a step is 4 TFLOP on each rank; its peak in fp32 is 500 GFLOP/s and 1 TFLOP/s (stated)"
    ]


def test_operations_are_said_by_thousands() -> None:
    said = [si(value) for value in (6.8558727e12, 2.5e9, 390.5e6, 12)]
    assert said == ["6.856 T", "2.5 G", "390.5 M", "12 "]


@pytest.mark.usefixtures("counted")
def test_a_gpu_that_the_table_lacks_is_named_and_has_no_mfu(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(utilisation, "peak_of", lambda *_: None)
    known = Properties("NVIDIA RTX A2000", 0)
    monkeypatch.setattr(utilisation, "properties_of", lambda _device: known)
    meter = Utilisation(job_of(tiny_values("data", "runs")), CPU)
    meter.note(batch(), None)
    meter.note(batch(), None)
    rates = meter.take(2.0)
    assert rates == Rates(4e12, None) and rates.metrics() == {"speed/tflop_per_s": 4.0}
    (said,) = caplog.messages
    assert said.endswith("; mfu is not known: NVIDIA RTX A2000 has no peak for fp32 in our table")


def test_a_step_that_cannot_be_counted_leaves_both_out(
    counted: Counter[Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    meter = Utilisation(job_of(tiny_values("data", "runs")), CPU)
    meter.note(batch(), None)
    for _ in range(2):
        meter.note(batch(7), None)
        assert meter.take(1.0) == Rates() and Rates().metrics() == {}
    assert counted[7] == 1
    assert caplog.messages[1:] == [
        "mfu is not known: a step cannot be counted (Cannot copy out of meta tensor; no data!)"
    ]
    meter.note(batch(), None)
    assert meter.take(4.0).flop_per_s == 1e12, "the next stretch is known again"


def test_batches_of_ever_new_sizes_are_counted_no_longer(
    counted: Counter[Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    meter = Utilisation(job_of(tiny_values("data", "runs")), CPU)
    for size in range(1, MAX_SHAPES + 3):
        meter.note(batch(size=size), None)
    assert meter.take(1.0) == Rates() and counted[32] == MAX_SHAPES
    assert "mfu is not known from here on: batches of over 16 sizes" in caplog.messages


def test_a_job_shows_its_mfu_and_keeps_it_for_the_report(
    tiny_job: dict[str, Any], place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(utilisation, "peak_of", lambda *_: PEAK)
    from adapt.report.history import TRAIN
    from adapt.report.run_record import read_run
    from storage.stores import Stores

    job = job_of(tiny_job)
    _, seen = run(job, place)
    shown = [one.mfu for one in seen]
    assert all(mfu is not None and 0 < mfu < 1 for mfu in shown)
    kept = read_run(Stores().open(str(Path(job.checkpoint.uri) / job.name))).history.curves[TRAIN]
    for progress, values in zip(seen, kept.rows.values(), strict=True):
        assert values["speed/mfu"] == pytest.approx(progress.mfu, rel=1e-5)
        assert values["speed/tflop_per_s"] == pytest.approx(progress.mfu, rel=1e-5)


def test_a_resnet_101_is_what_its_arithmetic_says() -> None:
    """AdvEnt on GTA5 -> Cityscapes: forward passes of 1.25 and 0.91 TFLOP and the
    discriminators', three times for those that learn."""
    from adapt.spec.loading import load_spec

    job = load_spec("gta5_to_cityscapes/advent")
    images = (torch.empty(1, 3, *hw, device="meta") for hw in ((720, 1280), (512, 1024)))
    source, target = (
        Batch(one, torch.empty(1, *one.shape[2:], dtype=torch.int64), ("",)) for one in images
    )
    found = utilisation.flops_of(job, source, target._replace(labels=None))
    assert found.total == 6_855_872_708_608 and found.products == 0
