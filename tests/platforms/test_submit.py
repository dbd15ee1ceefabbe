"""Jobs handed to a platform, through the commands and a platform that lives in this process."""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml

from adapt.config.strict_yaml import parse_yaml
from adapt.config.validation import validate
from adapt.platforms import PLATFORMS
from adapt.platforms.cost import price_of
from adapt.platforms.platform import (
    Finding,
    JobStatus,
    Platform,
    Profile,
    Request,
    State,
    Submission,
)
from adapt.platforms.submit import prepare_job, priced
from adapt.spec.loading import parse_spec
from storage.errors import StoreUnavailable
from tests.commands import ROOT, Ended, call
from tests.conftest import tiny_values
from tests.platforms.quick import quick_retries


class PretendProfile(Profile):
    """A platform's profile with a key of its own."""

    platform: Literal["pretend"]
    site: str = "here"


class Limited(PretendProfile):
    """One whose platform ends jobs after a while."""

    max_hours: float | None = None


class Pretend:
    """A platform whose jobs end one after another as `endings` says."""

    def __init__(self, endings: list[JobStatus]) -> None:
        self.endings, self.requests, self.stopped = endings, [], []  # type: ignore[var-annotated]
        self.outages = 0

    def submit(self, request: Request) -> str:
        self.requests.append(request)
        return f"pretend-{len(self.requests)}"

    def status(self, job: str) -> JobStatus:
        if self.outages:
            self.outages -= 1
            raise StoreUnavailable("pretend: does not answer")
        return self.endings[int(job.rpartition("-")[2]) - 1]._replace(job=job)

    def logs(self, job: str, follow: bool) -> Iterator[str]:
        yield f"log of {job}"

    def stop(self, job: str) -> None:
        self.stopped.append(job)

    def jobs(self) -> list[JobStatus]:
        return [self.status("pretend-1")]

    def check(self, request: Request) -> Iterator[Finding]:
        yield Finding("site", True, "here")


def request(submission: Submission, profile: PretendProfile) -> Request:
    environment = submission.environment(profile, 60)
    steps = submission.job.train.profile_steps
    return {
        "name": submission.name,
        "site": profile.site,
        "environment": environment,
        "profile_steps": steps,
    }


@pytest.fixture
def platform(monkeypatch: pytest.MonkeyPatch) -> Pretend:
    pretend = Pretend([JobStatus("", "done", "well", 0)])

    def connect(profile: PretendProfile, environment: Mapping[str, str]) -> Pretend:
        if profile.site == "away":
            raise StoreUnavailable("pretend: does not answer")
        return pretend

    row = Platform(PretendProfile, request, connect, lambda _: 60.0, lambda _: False, lambda *_: {})
    monkeypatch.setitem(PLATFORMS, "pretend", row)
    return pretend


def submit(folder: Path, *argv: str, **keys: Any) -> Ended:
    values = tiny_values("data", "runs")
    profile = {"platform": "pretend", "image": "segadapt:1", "gpus": 2, "price_per_hour": 3.5}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(values))
    (folder / "profile.yaml").write_text(yaml.safe_dump({**profile, "nodes": 1, **keys}))
    return call("submit", "tiny.yaml", "--to", "profile.yaml", *argv, folder=folder)


def test_the_request_is_shown_and_nothing_sent(platform: Pretend, tmp_path: Path) -> None:
    ended = submit(tmp_path, "--dry-run")
    shown = yaml.safe_load(ended.out)
    assert ended.code == 0 and not platform.requests
    assert shown["site"] == "here" and shown["environment"]["SEGADAPT_JOB"] == shown["name"]
    assert shown["environment"]["SEGADAPT_GRACE_S"] == "60"


def test_what_will_run_is_said_and_asked(platform: Pretend, tmp_path: Path) -> None:
    ended = submit(tmp_path)
    assert ended.code == 2 and not platform.requests
    for said in ("tiny", "segadapt:1", "1 node x 2 GPUs", "60 s from", "3.50 USD an hour", "runs"):
        assert said in ended.err
    assert (
        "submit: stdin is not a terminal. Fix: pass --yes to submit or --dry-run to preview."
        in ended.err
    )


def test_a_job_takes_the_profile_s_price_along_for_its_report() -> None:
    values = {"platform": "pretend", "image": "segadapt:1", "price_per_hour": 3.5}
    paid = validate(PretendProfile, values | {"currency": "EUR"})
    free = validate(PretendProfile, values | {"price_per_hour": None})
    own = parse_spec(tiny_values("data", "runs") | {"report": {"price_per_hour": 1.0}}, "tiny")
    job = parse_spec(tiny_values("data", "runs"), "tiny")
    assert priced(job, paid).report == job.report.model_copy(
        update={"price_per_hour": 3.5, "currency": "EUR"}
    )
    assert priced(job, free) == job and priced(own, paid) == own
    assert parse_spec(parse_yaml(priced(job, paid).to_yaml(), "spec"), "") == priced(job, paid)


def test_the_job_that_is_sent_has_the_price(platform: Pretend) -> None:
    values = {"platform": "pretend", "image": "segadapt:1", "price_per_hour": 3.5}
    job = parse_spec(tiny_values("data", "runs"), "tiny")
    plan = prepare_job(job, validate(PretendProfile, values))
    assert plan.submission.job.report.price_per_hour == 3.5


@pytest.mark.parametrize(
    ("max_cost", "max_hours", "submissions", "said"),
    [
        (None, None, 1, "7.00 EUR an hour, without a limit (--max-cost sets one)"),
        (50, None, 1, "7.00 EUR an hour, at most 50.00 EUR (train.max_cost)"),
        (None, 24, 1, "7.00 EUR an hour, at most 168.00 EUR (max_hours 24)"),
        (None, 1.5, 3, "7.00 EUR an hour, at most 31.50 EUR (max_hours 1.5, 3 times)"),
        (
            *(50, 24, 1),
            "7.00 EUR an hour, at most 50.00 EUR (train.max_cost) and 168.00 EUR (max_hours 24)",
        ),
    ],
)
def test_the_most_that_a_job_may_cost_is_said(
    max_cost: float | None, max_hours: float | None, submissions: int, said: str
) -> None:
    values = {"platform": "pretend", "image": "i", "price_per_hour": 3.5, "currency": "EUR"}
    profile = validate(Limited, values | {"nodes": 2, "max_hours": max_hours})
    tiny = tiny_values("data", "runs")
    job = parse_spec(tiny | {"train": {**tiny["train"], "max_cost": max_cost}}, "tiny")
    assert price_of(priced(job, profile), profile, submissions) == said
    assert price_of(job, validate(PretendProfile, {"platform": "pretend", "image": "i"})) is None


def test_a_limit_of_the_cost_is_sent_and_needs_a_price(platform: Pretend, tmp_path: Path) -> None:
    ended = submit(tmp_path, "--yes", "--max-cost", "12.5")
    assert ended.code == 0 and "at most 12.50 USD (train.max_cost)" in ended.err
    plan = yaml.safe_load(submit(tmp_path, "--dry-run", "--max-cost", "12.5").out)
    assert plan["site"] == "here"
    (tmp_path / "free.yaml").write_text("{platform: pretend, image: i}")
    ended = call("submit", "tiny.yaml", "--to", "free.yaml", "--max-cost", "1", folder=tmp_path)
    assert ended.code == 2 and "train.max_cost: expected a price to count by" in ended.err


@pytest.mark.usefixtures("platform")
def test_a_profile_is_asked_for_by_the_spec_that_is_sent(tmp_path: Path) -> None:
    for asked, steps in (((), 0), (("--profile",), 5)):
        assert yaml.safe_load(submit(tmp_path, "--dry-run", *asked).out)["profile_steps"] == steps
    more = submit(tmp_path, "--dry-run", "--profile", "--set", "train.profile_steps=7")
    assert yaml.safe_load(more.out)["profile_steps"] == 7


def test_a_submitted_job_is_reached_by_its_name(platform: Pretend, tmp_path: Path) -> None:
    ended = submit(tmp_path, "--yes", "--json")
    name = json.loads(ended.out)["job"]
    assert ended.code == 0 and name.startswith("tiny-") and platform.requests[0]["name"] == name
    for command in (f"logs {name} -f", f"stop {name}", f"download-best {name} --out best"):
        assert command in ended.err
    assert call("status", name, folder=tmp_path).out == "pretend-1 done (exit code 0): well\n"
    assert call("logs", name, folder=tmp_path).out == "log of pretend-1\n"
    assert call("stop", name, folder=tmp_path).code == 0 and platform.stopped == ["pretend-1"]
    listed = json.loads(call("jobs", "--json", folder=tmp_path).out)
    assert [(job["job"], job["state"]) for job in listed] == [(name, "done")]
    assert name in call("jobs", folder=tmp_path).out


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ("done", "pretend-1 done (exit code 0): well; there is nothing to stop"),
        ("failed", "pretend-1 failed (exit code 0): well; there is nothing to stop"),
        ("waiting", "pretend-1: stopping; it has not begun"),
        ("running", "pretend-1: stopping; it saves and ends"),
    ],
)
def test_stop_says_what_becomes_of_the_job(
    state: State, said: str, platform: Pretend, tmp_path: Path
) -> None:
    name = json.loads(submit(tmp_path, "--yes", "--json").out)["job"]
    platform.endings = [JobStatus("", state, "well", 0)]
    ended = call("stop", name, folder=tmp_path)
    assert ended.code == 0 and said in " ".join(ended.err.split())
    assert platform.stopped == ["pretend-1"]


def test_gpus_that_the_image_cannot_run_on_are_not_submitted(
    platform: Pretend, tmp_path: Path
) -> None:
    ended = submit(tmp_path, "--yes", gpu="V100")
    assert ended.code == 2 and "got V100 with 7.0" in ended.err and not platform.requests


def test_jobs_of_other_machines_are_reached_by_their_profile(
    platform: Pretend, tmp_path: Path
) -> None:
    submit(tmp_path, "--dry-run")
    there = ("--to", "profile.yaml")
    assert "done" in call("status", "pretend-1", *there, folder=tmp_path).out
    assert "pretend-1" in call("jobs", *there, "--json", folder=tmp_path).out


def test_an_unknown_job_is_named(platform: Pretend, tmp_path: Path) -> None:
    ended = call("status", "nothing", folder=tmp_path)
    assert ended.code == 2 and "JOB: expected a job that was submitted from here" in ended.err


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (JobStatus("", "done", exit_code=0), 0),
        (JobStatus("", "failed", "out of memory", 137), 137),
        (JobStatus("", "failed"), 1),
        (JobStatus("", "stopped"), 75),
        (JobStatus("", "interrupted", exit_code=75), 75),
    ],
)
def test_a_followed_job_gives_its_exit_code(
    status: JobStatus, code: int, platform: Pretend, tmp_path: Path
) -> None:
    platform.endings = [status]
    ended = submit(tmp_path, "--yes", "--follow")
    assert ended.code == code and ended.out == "log of pretend-1\n"
    assert f"pretend-1 {status.state}" in ended.err


def test_what_was_reclaimed_is_submitted_again(platform: Pretend, tmp_path: Path) -> None:
    reclaimed = JobStatus("", "interrupted", exit_code=75)
    platform.endings = [reclaimed, reclaimed, JobStatus("", "done", exit_code=0)]
    assert submit(tmp_path, "-y", "-f", "--restart", "2").code == 0
    names = [request["name"] for request in platform.requests]
    assert len(set(names)) == 3 and names[1].endswith("-r2") and names[2].endswith("-r3")
    platform.requests.clear()
    assert submit(tmp_path, "-y", "-f", "--restart", "1").code == 75
    assert len(platform.requests) == 2


def test_an_outage_of_the_platform_does_not_end_the_following(
    platform: Pretend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick_retries(monkeypatch)
    platform.outages = 3
    ended = submit(tmp_path, "--yes", "--follow")
    assert (ended.code, ended.out) == (0, "log of pretend-1\n")
    assert ended.err.count("retrying for 10 minutes") == 1
    quick_retries(monkeypatch, deadline_s=0.02)
    platform.outages = 1000
    assert submit(tmp_path, "--yes", "--follow").code == 3


def test_restarts_need_somebody_who_follows(platform: Pretend, tmp_path: Path) -> None:
    ended = submit(tmp_path, "--yes", "--restart", "1")
    assert ended.code == 2 and "--restart: expected --follow beside it" in ended.err


def test_a_platform_that_is_away_leaves_the_job_unknown(platform: Pretend, tmp_path: Path) -> None:
    submit(tmp_path, "--yes")
    record = tmp_path / "state/segadapt/jobs.jsonl"
    record.write_text(record.read_text().replace('"here"', '"away"'))
    ended = call("jobs", "--json", folder=tmp_path)
    assert json.loads(ended.out)[0]["state"] == "unknown" and "does not answer" in ended.out


def test_variables_that_only_say_where_a_secret_is_are_none(
    platform: Pretend, tmp_path: Path
) -> None:
    environment = {"AWS_WEB_IDENTITY_TOKEN_FILE": "/token", "TOKENIZERS_PARALLELISM": "true"}
    assert submit(tmp_path, "--yes", environment=environment).code == 0


def test_jobs_of_platforms_that_are_no_more_are_told(platform: Pretend, tmp_path: Path) -> None:
    submit(tmp_path, "--yes")
    record = tmp_path / "state/segadapt/jobs.jsonl"
    record.write_text(record.read_text().replace('"pretend", {', '"pretent", {'))
    ended = call("jobs", "--json", folder=tmp_path)
    (found,) = json.loads(ended.out)
    assert found["state"] == "unknown" and "did you mean 'pretend'" in found["detail"]


def test_damaged_records_are_named(platform: Pretend, tmp_path: Path) -> None:
    (tmp_path / "state/segadapt").mkdir(parents=True)
    (tmp_path / "state/segadapt/jobs.jsonl").write_text("{")
    ended = call("jobs", folder=tmp_path)
    assert ended.code == 2 and "jobs.jsonl: expected the record of a job, got a" in ended.err


def test_records_that_cannot_be_written_do_not_hide_the_job(
    platform: Pretend, tmp_path: Path
) -> None:
    (tmp_path / "state").write_text("a file")
    ended = submit(tmp_path, "--yes")
    assert ended.code == 2 and "the job pretend-1 runs, but cannot be recorded here" in ended.err


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (
            {"platform": "pretent"},
            "platform: expected a known name, got 'pretent'; did you mean 'pretend'?",
        ),
        ({"nodes": 0}, "nodes: expected"),
        ({"imag": "x"}, "imag: "),
        ({"environment": {"1A": "x"}}, "environment: expected names of letters, digits and `_`"),
        ({"environment": {"A-B": "x"}}, "got 'A-B'"),
        ({"platform": ["pretend"]}, "platform: expected a known name, got ['pretend'] (known: "),
        (
            {"environment": {"MLFLOW_TRACKING_PASSWORD": "hunter2", "OBS_ACCESS_KEY": "hunter2"}},
            "environment: expected no secrets, got MLFLOW_TRACKING_PASSWORD, OBS_ACCESS_KEY. Fix: "
            "name it in `secrets`",
        ),
        (
            {"environment": {"MLFLOW_TRACKING_URI": "http://me:hunter2@mlflow:5000"}},
            "environment.MLFLOW_TRACKING_URI: expected a URI without user and password",
        ),
        ({"nodes": 3}, "source.batch_size: expected a multiple of 6"),
    ],
)
def test_mistakes_are_named(
    keys: dict[str, Any], said: str, platform: Pretend, tmp_path: Path
) -> None:
    ended = submit(tmp_path, "--yes", **keys)
    assert ended.code == 2 and said in ended.err and not platform.requests
    assert "hunter2" not in ended.err


def test_networks_that_do_not_fit_are_refused_before_anything_is_sent(
    platform: Pretend, tmp_path: Path
) -> None:
    ended = submit(tmp_path, "--yes", "--set", "method.weight_adv=[1, 1, 1]")
    assert ended.code == 2 and "method.weight_adv: expected at most one weight" in ended.err
    assert not platform.requests


def test_the_ranks_of_a_job_do_not_import_platforms() -> None:
    code = "import sys, adapt.cli; sys.exit('adapt.platforms' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
