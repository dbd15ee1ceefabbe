"""The platform's own checks."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import pytest

from adapt.check import exit_code_of, findings
from adapt.check.memory import Peak
from adapt.check.platform import platform_findings
from adapt.errors import JobError
from adapt.platforms import PLATFORMS
from adapt.platforms.platform import (
    Client,
    Finding,
    Platform,
    Profile,
    Request,
    Submission,
)
from storage.errors import StoreUnavailable
from tests.check.subjects import assert_green, assert_red, subject


class Double:
    """A client whose platform has found these lines, or does not answer."""

    def __init__(self, *found: Finding, error: Exception | None = None) -> None:
        self.found, self.error = found, error
        self.asked: list[Request] = []

    def check(self, request: Request) -> Iterator[Finding]:
        self.asked.append(request)
        yield from self.found
        if self.error is not None:
            raise self.error


@pytest.fixture
def on_double(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes a double the client of the platform `double`."""

    def row(client: Double, refuse: str = "") -> None:
        def request(submission: Submission, profile: Profile) -> Request:
            if refuse:
                raise JobError(refuse)
            return {"name": submission.name, "image": profile.image}

        platform = Platform(
            Profile,
            request,
            lambda *_: cast(Client, client),
            grace_s=lambda _: 30.0,
            restarts=lambda _: False,
            predict=lambda *_: {},
        )
        monkeypatch.setitem(PLATFORMS, "double", platform)

    return row


@pytest.mark.parametrize(
    ("what", "found", "cure"),
    [
        ("machine", "there is no flavor gpu.x9", "flavor_id: one of gpu.x1, gpu.x2"),
        ("gpus", "the engine has no GPU runtime", "install the NVIDIA container toolkit"),
        ("image", "there is no image segadapt:1", "push it, or correct image"),
    ],
)
def test_what_the_platform_finds_is_a_line(
    what: str, found: str, cure: str, on_double: Callable[..., None], tmp_path: Path
) -> None:
    client = Double(Finding("account", True, "yours"), Finding(what, False, found, cure))
    on_double(client)
    lines = list(platform_findings(subject(tmp_path, profile={})))
    assert_green(lines, "account", "yours")
    assert_red(lines, what, 2, found, cure)
    assert client.asked[0]["image"] == "segadapt:1"
    assert client.asked[0]["name"].startswith("tiny-")


def test_a_request_that_the_platform_would_refuse(
    on_double: Callable[..., None], tmp_path: Path
) -> None:
    client = Double()
    on_double(client, "name: expected at most 24 characters, got 40; shorten it")
    lines = list(platform_findings(subject(tmp_path, profile={})))
    assert_red(lines, "request", 2, "name: expected at most 24 characters, got 40; shorten it")
    assert client.asked == []


def test_a_platform_that_does_not_answer(on_double: Callable[..., None], tmp_path: Path) -> None:
    on_double(Double(error=StoreUnavailable("double: does not answer; check the network")))
    lines = list(platform_findings(subject(tmp_path, profile={})))
    assert_red(lines, "double", 3, "does not answer; check the network")


def test_the_most_that_the_job_may_cost_is_a_line(
    on_double: Callable[..., None], tmp_path: Path
) -> None:
    on_double(Double())
    priced = {"price_per_hour": 2.0, "nodes": 3}
    lines = platform_findings(subject(tmp_path, "packed", "train.max_cost=9", profile=priced))
    assert_green(lines, "price", "6.00 USD an hour, at most 9.00 USD (train.max_cost)")


def test_without_a_profile_no_platform_is_asked(tmp_path: Path) -> None:
    assert list(platform_findings(subject(tmp_path))) == []


def test_a_red_platform_is_the_last_of_all_lines(
    on_double: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adapt.check.machine.predicted_bytes", lambda *_: Peak())
    on_double(Double(Finding("image", False, "there is no image", "push it")))
    found = list(findings(subject(tmp_path, "/data", profile={})))
    assert exit_code_of(found) == 2
    assert [one.what for one in found if not one.ok] == ["image"]
