"""The retry policy: how often, how long, after which errors, and how it is cancelled."""

import threading

import pytest

from storage.errors import SilentStore, StoreError, StoreUnavailable, WrongAnswer
from storage.retry import Failing, Retry, outages_waited_for, retried


class Fails:
    """An operation that raises `errors` in turn, the last one forever; counts its calls."""

    def __init__(self, *errors: Exception) -> None:
        self.errors, self.calls = errors, 0

    def __call__(self) -> None:
        self.calls += 1
        raise self.errors[min(self.calls, len(self.errors)) - 1]


def test_retries_are_bounded_and_jittered(waits: list[float]) -> None:
    fails = Fails(StoreUnavailable("away"))
    with pytest.raises(StoreUnavailable, match=r"away"):
        Retry(max_attempts=9, first_wait_s=1.0, longest_wait_s=4.0).call(fails)
    assert fails.calls == 9
    assert len(waits) == 8
    assert all(0 <= wait <= min(4, 2**n) for n, wait in enumerate(waits))
    assert len(set(waits)) == 8


def test_only_transient_errors_are_retried(waits: list[float]) -> None:
    fails = Fails(StoreUnavailable("once"), StoreError("for good"))
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
    busy = Fails(OSError(16, "busy"), OSError(13, "denied"))
    policy = Retry(9, on=(OSError, ValueError), transient=lambda error: "busy" in str(error))
    with pytest.raises(OSError, match=r"denied"):
        policy.call(busy)
    assert busy.calls == 2
    with pytest.raises(KeyError):
        policy.call(Fails(KeyError("k")))
    assert len(waits) == 1


def test_no_attempt_begins_after_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = [100.0]
    monkeypatch.setattr("storage.retry.time.monotonic", lambda: now_s[0])
    monkeypatch.setattr("storage.retry.random.uniform", lambda _, longest: longest)
    waited: list[float] = []

    def wait(wait_s: float) -> None:
        waited.append(wait_s)
        now_s[0] += wait_s

    fails = Fails(StoreUnavailable("away"))
    with pytest.raises(StoreUnavailable, match=r"away"):
        Retry(deadline_s=10, first_wait_s=1, longest_wait_s=4, wait=wait).call(fails)
    assert waited == [1, 2, 4], "another wait of 4 s would end after the deadline"
    assert fails.calls == 4


def test_a_cancelled_wait_ends_the_retries() -> None:
    stopped = threading.Event()
    fails = Fails(StoreUnavailable("away"))

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
        Retry(3, on_retry=on_retry).call(Fails(StoreUnavailable("a"), StoreUnavailable("b")))
    assert reported == [("a", 1, waits[0]), ("b", 2, waits[1])]


def test_waits_stay_bounded_after_thousands_of_failures() -> None:
    policy = Retry(first_wait_s=0.25, longest_wait_s=3)
    assert all(0 <= policy.wait_s(failures) <= 3 for failures in (1, 50, 5000))
    assert all(policy.wait_s(1) <= 0.25 for _ in range(20))


def test_a_wrong_answer_has_a_few_attempts_and_a_silent_store_one(waits: list[float]) -> None:
    wrong, silent = Fails(WrongAnswer("a web page")), Fails(SilentStore("no such host"))
    with pytest.raises(WrongAnswer, match=r"a web page"):
        retried(wrong, max_attempts=4)
    with pytest.raises(SilentStore, match=r"no such host"):
        retried(silent, max_attempts=4)
    assert (wrong.calls, silent.calls) == (4, 1)


@pytest.mark.parametrize("kind", [StoreUnavailable, SilentStore])
def test_an_outage_is_waited_for_and_reported_once(
    kind: type[StoreError], waits: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    left = [kind("k: away")] * 9

    def operation() -> int:
        if left:
            raise left.pop()
        return 7

    with outages_waited_for(longest_s=600):
        assert retried(operation, max_attempts=2) == 7
    assert [line.message for line in caplog.records] == ["k: away; retrying for up to 600 s"]
    left += [kind("k: away")] * 9
    with pytest.raises(kind):
        retried(operation, max_attempts=2)


def test_an_outage_that_lasts_too_long_is_named_with_its_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now_s = [100.0]
    monkeypatch.setattr("storage.retry.time.monotonic", lambda: now_s[0])

    def wait(wait_s: float) -> None:
        now_s[0] += wait_s

    with outages_waited_for(wait, longest_s=30), pytest.raises(SilentStore) as caught:
        retried(Fails(SilentStore("k: away", fix="see to it")), max_attempts=2)
    assert caught.value.problem.startswith("k: away, retried for ")
    assert 15 <= now_s[0] - 100 <= 30, "the longest wait is 10 s"
    assert caught.value.fix == "see to it"


def test_a_wrong_answer_ends_also_where_outages_are_waited_for(waits: list[float]) -> None:
    wrong = Fails(WrongAnswer("a web page"))
    with outages_waited_for(), pytest.raises(WrongAnswer):
        retried(wrong, max_attempts=3)
    assert wrong.calls == 3


def test_an_outage_is_waited_for_in_the_thread_that_says_so(waits: list[float]) -> None:
    seen: list[type[BaseException] | None] = []

    def save() -> None:
        try:
            retried(Fails(StoreUnavailable("away")), max_attempts=2)
        except StoreUnavailable as error:
            seen.append(type(error))

    with outages_waited_for():
        thread = threading.Thread(target=save)
        thread.start()
        thread.join(20)
    assert seen == [StoreUnavailable]


def test_a_success_between_failures_starts_their_count_and_time_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now_s = [0.0]
    monkeypatch.setattr("storage.retry.time.monotonic", lambda: now_s[0])
    failing = Failing(Retry(deadline_s=10, first_wait_s=1e-3, wait=lambda _: None))
    for now_s[0] in (0.0, 9.0):
        failing.wait(StoreUnavailable("away"))
    failing.end()
    for now_s[0] in (100.0, 109.0):
        failing.wait(StoreUnavailable("away"))
    now_s[0] = 110.0
    with pytest.raises(StoreUnavailable, match=r"away, retried for 10 s"):
        failing.wait(StoreUnavailable("away"))
