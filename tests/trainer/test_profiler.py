"""The profile of a job: its files, its numbers, and nothing of it without the option."""

import gzip
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from adapt.errors import Interrupted
from adapt.places import Place
from adapt.profiling.timeline import BACKWARD, DATA, DISCRIMINATORS, FORWARD, OPTIMIZER
from adapt.spec.job_spec import JobSpec
from adapt.trainer import profiler
from adapt.trainer.profiler import Plan, planned
from adapt.trainer.trainer import Trainer
from storage.errors import StoreError
from storage.local import LocalStore
from tests.trainer.jobs import assert_same_weights, job_of, run


def files(job: JobSpec) -> list[str]:
    folder = Path(job.checkpoint.uri) / job.name / "profile"
    return sorted(one.name for one in folder.glob("*"))


def profiling_modules() -> list[str]:
    return [one for one in sys.modules if re.match(r"adapt\.(profiling|trainer\.profile)", one)]


def test_the_steps_that_are_traced() -> None:
    assert planned(0, 1000, 5) == Plan(2, 10, 5)
    assert planned(400, 1000, 5) == Plan(402, 410, 5)
    assert planned(0, 12, 5) == Plan(2, 7, 5)
    assert planned(0, 3, 5) == Plan(0, 1, 2)
    assert planned(7, 8, 5) == Plan(7, 7, 1)


@pytest.mark.slow
def test_a_profiled_job_leaves_its_trace_and_its_page_and_trains_the_same(
    tiny_job: dict[str, Any], place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages = []
    monkeypatch.setattr(profiler, "profile_page", lambda found: pages.append(found) or "page")
    job = job_of(tiny_job, "train.steps=4", "train.profile_steps=2")
    run(job, place)
    assert files(job) == ["step-00000002.html", "step-00000002.trace.json.gz"]
    folder = Path(job.checkpoint.uri) / job.name / "profile"
    trace = json.loads(gzip.decompress((folder / "step-00000002.trace.json.gz").read_bytes()))
    names = [event.get("name") for event in trace["traceEvents"]]
    assert names.count("segadapt: step") == 2 and "segadapt: discriminators" in names
    first, last = pages
    assert first.spent_s == last.spent_s and (first.first_step, first.steps) == (2, 2)
    assert {FORWARD, BACKWARD, DISCRIMINATORS, OPTIMIZER, DATA} <= set(first.spent_s)
    assert sum(map(first.share, first.spent_s)) == pytest.approx(1)
    assert first.share(BACKWARD) > 0.1 and first.share(FORWARD) > 0.1
    assert first.idle is None and first.kernels == [] and first.operators[0].own_s > 0
    assert first.step_s > 0 and 0 < first.mfu < 1
    assert "evaluation" in last.start_s and last.start_s["start-up"] > 0
    assert sum(last.start_s.values()) > sum(first.start_s.values())
    assert first.machine.batch_sizes == {"source": 2, "target": 2}
    plain = job_of(tiny_job, "train.steps=4", f"checkpoint.uri={tmp_path / 'plain'}")
    run(plain, place)
    assert_same_weights(job, plain)
    assert files(plain) == []


def test_without_the_option_nothing_of_it_is_imported_or_made(
    tiny_job: dict[str, Any], place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [
        one for one in sys.modules if re.match(r"adapt\.(profiling|trainer\.profile)", one)
    ]:
        monkeypatch.delitem(sys.modules, name)
    kinds = []
    trained = Trainer.run
    monkeypatch.setattr(Trainer, "run", lambda self: kinds.append(type(self)) or trained(self))
    run(job_of(tiny_job, "train.steps=1", "validation=null"), place)
    assert kinds == [Trainer]
    assert profiling_modules() == []


def test_a_store_that_takes_no_profile_costs_a_warning(
    tiny_job: dict[str, Any],
    place: Place,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    put = LocalStore.put

    def refuse(self: LocalStore, key: str, content: bytes) -> None:
        if key.startswith("profile/"):
            raise StoreError("full")
        put(self, key, content)

    monkeypatch.setattr(LocalStore, "put", refuse)
    job = job_of(tiny_job, "train.steps=1", "train.profile_steps=5", "validation=null")
    outcome, _ = run(job, place)
    assert outcome.step == 1 and files(job) == []
    assert "the profile is not stored: full" in caplog.text
    assert "the profile is not complete: full" in caplog.text


@pytest.mark.slow
def test_a_stop_within_the_trace_is_a_stop(tiny_job: dict[str, Any], place: Place) -> None:
    job = job_of(tiny_job, "train.profile_steps=3")
    with pytest.raises(Interrupted):
        run(job, place, stop_at=4)
    assert files(job) == []
    run(job, place)
    assert files(job) == ["step-00000005.html", "step-00000005.trace.json.gz"]
