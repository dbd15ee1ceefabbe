"""A log is followed to the end of its job: no line lost or twice, over outages of its platform."""

import logging
import time
from collections.abc import Iterator

import pytest

from adapt.errors import JobError
from adapt.platforms import following
from storage.errors import StoreUnavailable
from tests.platforms.quick import quick_retries

AWAY = StoreUnavailable("the platform does not answer")


class Script:
    """A job's log as its fetches: each a list of lines, an error after them, the last repeated."""

    def __init__(self, fetches: list[list[str | Exception]], ends_at: int) -> None:
        self._fetches, self._ends_at = fetches, ends_at
        self.fetched: list[bool] = []

    def ended(self) -> bool:
        return len(self.fetched) >= self._ends_at

    def new_lines(self, is_last: bool) -> Iterator[str]:
        fetch = self._fetches[min(len(self.fetched), len(self._fetches) - 1)]
        self.fetched.append(is_last)
        for one in fetch:
            if isinstance(one, Exception):
                raise one
            yield one


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    quick_retries(monkeypatch)


def followed(script: Script, settle_polls: int = 0) -> list[str]:
    return [*following.follow(script.new_lines, script.ended, 0.001, settle_polls)]


def test_the_fetch_after_the_end_is_the_last() -> None:
    script = Script([["a", "b"], [], ["c"], ["never"]], ends_at=2)
    assert followed(script) == ["a", "b", "c"]
    assert script.fetched == [False, False, True]


def test_a_log_that_lags_behind_is_complete_when_it_is_quiet() -> None:
    script = Script([["a"], [], ["late"], [], []], ends_at=1)
    assert followed(script, settle_polls=2) == ["a", "late"]
    assert script.fetched == [False, True, True, True, True]


def test_lines_before_an_outage_are_given_and_the_log_is_fetched_again() -> None:
    script = Script([["a", AWAY], [AWAY], [AWAY], ["b"], ["c"]], ends_at=4)
    assert followed(script) == ["a", "b", "c"]
    assert len(script.fetched) == 5


def test_an_outage_of_the_status_is_waited_for_too() -> None:
    script, answers = Script([["a"], ["b"]], ends_at=1), [False, AWAY, AWAY, True]

    def ended() -> bool:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert [*following.follow(script.new_lines, ended, 0.001)] == ["a", "b"]
    assert not answers


@pytest.mark.parametrize("fetch", [[AWAY], []])
def test_an_outage_that_lasts_is_given_up(
    fetch: list[str | Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the job has ended and its log alone cannot be read."""
    quick_retries(monkeypatch, deadline_s=0.05)
    script = Script([["a"], fetch, [AWAY]], ends_at=2)
    lines = following.follow(script.new_lines, script.ended, 0.001)
    assert next(lines) == "a"
    with pytest.raises(StoreUnavailable, match="the platform does not answer"):
        list(lines)
    assert len(script.fetched) > 2


def test_each_outage_has_the_whole_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    monkeypatch.setattr("time.sleep", lambda _s: None)

    def fetch(is_last: bool) -> Iterator[str]:
        clock[0] += 250.0
        count[0] += 1
        if count[0] % 3:
            raise AWAY
        yield f"line {count[0]}"

    count = [0]
    lines = following.follow(fetch, lambda: count[0] >= 8, 0.001)
    assert [*lines] == ["line 3", "line 6", "line 9"]


def test_other_errors_are_raised_immediately() -> None:
    script = Script([["a", JobError("logs: forbidden")]], ends_at=5)
    lines = following.follow(script.new_lines, script.ended, 0.001)
    assert next(lines) == "a"
    with pytest.raises(JobError, match="logs: forbidden"):
        next(lines)
    assert len(script.fetched) == 1


def test_a_stream_that_broke_off_is_not_reported_and_an_outage_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        followed(Script([["a", AWAY], ["b"], ["c"]], ends_at=2))
        assert not caplog.records
        followed(Script([[AWAY], [AWAY], [AWAY], ["b"]], ends_at=3))
    (record,) = caplog.records
    assert record.message == "the platform does not answer; retrying for 10 minutes"


@pytest.mark.nightly
def test_an_outage_in_real_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # the waits as they are
    script = Script([[AWAY], [AWAY], [AWAY], ["a"]], ends_at=3)
    began_s = time.monotonic()
    assert followed(script) == ["a"]
    assert following.OUTAGE.deadline_s == 600.0
    assert 0.0 < time.monotonic() - began_s < 2.0 + 4.0 + 8.0 + 2.0
