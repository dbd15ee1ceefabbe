"""The retry policy: how often, how long, after which errors, and how it is cancelled."""

import threading

import pytest

from storage.errors import StoreError, StoreUnavailable
from storage.retry import Retry, retried


class Failing:
    """An operation that raises `errors` in turn, the last one forever; counts its calls."""

    def __init__(self, *errors: Exception) -> None:
        self.errors, self.calls = errors, 0

    def __call__(self) -> None:
        self.calls += 1
        raise self.errors[min(self.calls, len(self.errors)) - 1]


def test_retries_are_bounded_and_jittered(waits: list[float]) -> None:
    fails = Failing(StoreUnavailable("away"))
    with pytest.raises(StoreUnavailable, match=r"away"):
        Retry(max_attempts=9, first_wait_s=1.0, longest_wait_s=4.0).call(fails)
    assert fails.calls == 9
    assert len(waits) == 8
    assert all(0 <= wait <= min(4, 2**n) for n, wait in enumerate(waits))
    assert len(set(waits)) == 8


def test_only_transient_errors_are_retried(waits: list[float]) -> None:
    fails = Failing(StoreUnavailable("once"), StoreError("for good"))
    with pytest.raises(StoreError, match=r"for good"):
        retried(fails, max_attempts=9)
    assert len(waits) == 1


def test_a_result_ends_the_retries(waits: list[float]) -> None:
    answers = iter([StoreUnavailable("one"), StoreUnavailable("two"), 7])

    def operation() -> int:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert retried(operation, max_attempts=3) == 7
    assert len(waits) == 2


def test_the_types_of_errors_and_a_predicate_name_what_is_transient(waits: list[float]) -> None:
    busy = Failing(OSError(16, "busy"), OSError(13, "denied"))
    policy = Retry(9, on=(OSError, ValueError), transient=lambda error: "busy" in str(error))
    with pytest.raises(OSError, match=r"denied"):
        policy.call(busy)
    assert busy.calls == 2
    with pytest.raises(KeyError):
        policy.call(Failing(KeyError("k")))
    assert len(waits) == 1


def test_no_attempt_begins_after_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = [100.0]
    monkeypatch.setattr("storage.retry.time.monotonic", lambda: now_s[0])
    monkeypatch.setattr("storage.retry.random.uniform", lambda _, longest: longest)
    waited: list[float] = []

    def wait(wait_s: float) -> None:
        waited.append(wait_s)
        now_s[0] += wait_s

    fails = Failing(StoreUnavailable("away"))
    with pytest.raises(StoreUnavailable, match=r"away"):
        Retry(deadline_s=10, first_wait_s=1, longest_wait_s=4, wait=wait).call(fails)
    assert waited == [1, 2, 4], "another wait of 4 s would end after the deadline"
    assert fails.calls == 4


def test_a_cancelled_wait_ends_the_retries() -> None:
    stopped = threading.Event()
    fails = Failing(StoreUnavailable("away"))

    def operation() -> None:
        if fails.calls == 2:
            stopped.set()
        fails()

    with pytest.raises(StoreUnavailable, match=r"away"):
        Retry(first_wait_s=0.001, wait=stopped.wait).call(operation)
    assert fails.calls == 3


def test_each_retry_is_reported_before_its_wait(waits: list[float]) -> None:
    reported: list[tuple[str, int, float]] = []

    def on_retry(error: Exception, failures: int, wait_s: float) -> None:
        assert len(waits) == failures - 1, "reported before the wait"
        reported.append((str(error), failures, wait_s))

    with pytest.raises(StoreUnavailable):
        Retry(3, on_retry=on_retry).call(Failing(StoreUnavailable("a"), StoreUnavailable("b")))
    assert reported == [("a", 1, waits[0]), ("b", 2, waits[1])]


def test_waits_stay_bounded_after_thousands_of_failures() -> None:
    policy = Retry(first_wait_s=0.25, longest_wait_s=3)
    assert all(0 <= policy.wait_s(failures) <= 3 for failures in (1, 50, 5000))
    assert all(policy.wait_s(1) <= 0.25 for _ in range(20))
