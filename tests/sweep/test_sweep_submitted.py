"""Trials on a platform that lives in this process: submitted once, found again, asked over
outages."""

from pathlib import Path
from typing import Any

import pytest

from adapt.config.validation import validate
from adapt.errors import JobError
from adapt.places import Place, find_place
from adapt.platforms import PLATFORMS
from adapt.platforms.docker.profile import DockerProfile
from adapt.platforms.platform import JobStatus, Platform
from adapt.platforms.records import find_record, records_path
from adapt.spec.loading import parse_spec
from adapt.sweep.submitted import PlatformRunner, seen_from_here
from storage.errors import StoreUnavailable
from tests.conftest import tiny_values
from tests.platforms.test_submit import Pretend, PretendProfile, request

JOB = parse_spec(tiny_values("data", "s3://bucket/runs"), "tiny")


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Pretend:
    platform = Pretend([JobStatus("", "running")])
    row = Platform(
        PretendProfile, request, lambda *_: platform, lambda _: 60.0, lambda _: False, lambda *_: {}
    )
    monkeypatch.setitem(PLATFORMS, "pretend", row)
    return platform


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return find_place({"XDG_STATE_HOME": str(tmp_path)}, tmp_path)


def runner(place: Place) -> PlatformRunner:
    values = {"platform": "pretend", "image": "segadapt:1", "gpus": 0}
    return PlatformRunner(validate(PretendProfile, values), place, 2)


def named(number: int) -> Any:
    return JOB.model_copy(update={"name": f"a-long-name-of-a-run-that-is-cut-t{number:04d}"})


def test_a_trial_is_submitted_once_and_found_by_the_next_start(
    pretend: Pretend, place: Place
) -> None:
    notes: dict[str, Any] = {}
    trial = runner(place).start(named(1), 0, notes)
    assert trial.ended() is None and len(pretend.requests) == 1
    assert notes["platform_job"] == "pretend-1"
    assert find_record(records_path(place.environment), "pretend-1").run == named(1).name
    again = runner(place).start(named(1), 0, notes)
    assert len(pretend.requests) == 1
    pretend.endings[0] = JobStatus("", "done")
    ending = again.ended()
    assert ending is not None and ending.state == "done"


def test_a_job_that_was_reclaimed_or_stopped_is_submitted_again(
    pretend: Pretend, place: Place
) -> None:
    notes: dict[str, Any] = {}
    runner(place).start(named(1), 0, notes)
    pretend.endings[0] = JobStatus("", "interrupted", "reclaimed", 75)
    pretend.endings.append(JobStatus("", "failed", "no memory", 137))
    trial = runner(place).start(named(1), 0, notes)
    assert len(pretend.requests) == 2 and notes["attempt"] == 2
    assert pretend.requests[1]["name"].endswith("-r2")
    ending = trial.ended()
    assert ending is not None and ending == ("failed", "exit code 137: no memory")
    runner(place).start(named(1), 0, notes)
    assert len(pretend.requests) == 2, "what failed is not submitted again"


def test_a_kill_between_the_submission_and_its_note(
    pretend: Pretend, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes: dict[str, Any] = {}
    runner(place).start(named(1), 0, notes)
    notes["platform_job"] = ""
    monkeypatch.setattr(
        pretend, "jobs", lambda: [JobStatus("pretend-1", "running", notes["label"])]
    )
    runner(place).start(named(1), 0, notes)
    assert len(pretend.requests) == 1 and notes["platform_job"] == "pretend-1"
    monkeypatch.setattr(pretend, "jobs", list)
    runner(place).start(named(1), 0, {**notes, "platform_job": ""})
    assert len(pretend.requests) == 2


def test_labels_of_trials_differ(pretend: Pretend, place: Place) -> None:
    one = runner(place)
    for number in range(2):
        one.start(named(number), 0, {})
    assert len({request["name"] for request in pretend.requests}) == 2


def test_an_outage_is_no_ending_and_a_stop_is_passed_on(pretend: Pretend, place: Place) -> None:
    trial = runner(place).start(named(1), 0, {})
    pretend.outages = 2
    assert trial.ended() is None and trial.ended() is None and pretend.outages == 0
    trial.stop()
    assert pretend.stopped == ["pretend-1"]
    pretend.stop = lambda _job: (_ for _ in ()).throw(StoreUnavailable("away"))  # type: ignore[method-assign]
    trial.stop()


def test_scores_have_to_be_readable_from_here() -> None:
    values = {"platform": "pretend", "image": "segadapt:1"}
    profile = validate(PretendProfile, values)
    assert seen_from_here(JOB, profile) == JOB
    there = JOB.model_copy(
        update={"checkpoint": JOB.checkpoint.model_copy(update={"uri": "/mnt/runs"})}
    )
    with pytest.raises(JobError, match=r"checkpoint\.uri: .*got /mnt/runs of pretend's machines"):
        seen_from_here(there, profile)
    mounts = [{"source": "/home/me/runs", "target": "/mnt/runs"}]
    docker = validate(DockerProfile, {**values, "platform": "docker", "mounts": mounts})
    assert seen_from_here(there, docker).checkpoint.uri == "/home/me/runs"
