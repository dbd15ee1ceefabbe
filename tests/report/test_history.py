"""The history of a run: every step once, whatever happens, and of bounded size."""

import itertools
import json
import time
from math import nan

import pytest

from adapt.checkpoint.spent import Spent
from adapt.report import history as module
from adapt.report.history import TRAIN, VALIDATION, History


def test_a_history_is_the_same_after_a_checkpoint() -> None:
    history = History()
    history.start_session({"device": "cpu"}, 0)
    history.log(TRAIN, 10, {"train/loss.main": 0.123456789, "train/loss.adv": nan})
    history.log(VALIDATION, 10, {"miou": 0.5})
    history.log_evaluation({"step": 10, "record": {"miou": 0.5}}, 0.5)
    history.log_evaluation({"step": 20, "record": {"miou": 0.4}}, 0.4)
    again = History.parsed(history.text())
    assert again.text() == history.text()
    assert again.curves[TRAIN].rows == {10: {"train/loss.main": 0.1234568, "train/loss.adv": None}}
    assert again.best is not None and again.last is not None
    assert (again.best["step"], again.last["step"]) == (10, 20)
    for line in history.text().splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_a_step_that_is_logged_again_is_there_once() -> None:
    history = History()
    history.log(VALIDATION, 5, {"miou": 0.1})
    history.log(VALIDATION, 5, {"miou": 0.2})
    assert history.curves[VALIDATION].rows == {5: {"miou": 0.2}}


def test_the_evaluation_that_counts_is_the_one_of_the_highest_rank() -> None:
    history = History()
    for step, rank in ((1, nan), (2, 0.3), (3, 0.5), (4, 0.5), (5, nan)):
        history.log_evaluation({"step": step}, rank)
    assert history.best is not None and history.best["step"] == 3
    assert history.last is not None and history.last == {"step": 5, "rank": None}
    assert History.parsed(history.text()).best == history.best


def test_one_evaluation_that_is_best_and_last_is_kept_once() -> None:
    history = History()
    history.log_evaluation({"step": 1, "pictures": [{"key": "large"}]}, 0.5)
    assert history.text().count("large") == 1
    again = History.parsed(history.text())
    assert again.best == again.last == {"step": 1, "pictures": [{"key": "large"}], "rank": 0.5}


def test_an_earlier_evaluation_may_count_again() -> None:
    """Those that are candidates are kept, also over a restart; others are not."""
    history = History()
    for step in (1, 2, 3):
        history.log_evaluation({"step": step, "record": {"miou": step / 10}}, nan)
        history.choose(step, range(4), {"agreement": 0.5})
    history = History.parsed(history.text())
    history.log_evaluation({"step": 4, "record": {}}, nan)
    history.choose(2, (2, 3, 4), {"agreement": 0.9})
    assert history.best is not None and history.last is not None
    assert history.best["record"] == {"miou": 0.2, "agreement": 0.9}
    assert (history.last["step"], set(history.others)) == (4, {3})
    again = History.parsed(history.text())
    assert (again.best, again.last, again.others) == (history.best, history.last, history.others)
    assert '"step": 1' not in history.text()


def test_why_a_run_ended_early_is_kept() -> None:
    history = History()
    history.start_session({"device": "cpu"}, 0)
    assert history.stopped_early is None
    history.stop_early("no gain of miou in 3 evaluations")
    again = History.parsed(history.text())
    assert again.stopped_early == "no gain of miou in 3 evaluations"
    again.start_session({"device": "cpu"}, 5)
    assert again.stopped_early is None, "a session with more patience goes on"


def test_long_curves_are_thinned_alike_with_and_without_a_restart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_POINTS", 10)
    calm, restarted = History(), History()
    for step in range(1, 101):
        calm.log(TRAIN, step, {"loss": step})
        restarted.log(TRAIN, step, {"loss": step})
        restarted = History.parsed(restarted.text())
    steps = list(calm.curves[TRAIN].rows)
    assert calm.text() == restarted.text()
    assert len(steps) <= 10 and steps[0] == 1
    assert len({after - before for before, after in itertools.pairwise(steps)}) == 1


def test_sessions_add_up() -> None:
    history = History()
    history.start_session({"device": "cpu"}, 0)
    again = History.parsed(history.text())
    again.start_session({"device": "cuda"}, 7)
    sessions = History.parsed(again.text()).sessions
    assert [(one["device"], one["step"]) for one in sessions] == [("cpu", 0), ("cuda", 7)]
    assert all(0 <= one["seconds"] < 60 for one in sessions)


def test_what_a_killed_session_had_not_saved_is_kept() -> None:
    history = History()
    history.start_session({"device": "cpu"}, 0)
    history.sessions[0]["seconds"], history._began_s = 50.0, None
    again = History.parsed(history.text())
    again.start_session({"device": "cpu"}, 3, before=Spent(80.0, 80.0, 0.0))
    assert again.sessions[1]["unsaved"] == [30.0, 30.0, 0.0]
    assert 80.0 <= History.parsed(again.text()).spent().seconds < 140
    calm = History.parsed(history.text())
    calm.start_session({"device": "cpu"}, 3, time.monotonic() - 10, Spent(50.0, 50.0, 0.0))
    assert "unsaved" not in calm.sessions[1] and calm.spent().seconds >= 60


@pytest.mark.parametrize("text", ["{", "[]", '{"kind": "other", "step": 1}', '{"a": 1}', "1"])
def test_a_damaged_history_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        History.parsed(text)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[1]", "line 2: expected one of session, evaluation, curve, train, validation"),
        ('{"kind": "train", "step": "x", "values": {}}', "line 2.step: expected an integer"),
        (
            '{"kind": "validation", "step": 1, "values": {"miou": "high"}}',
            "line 2.values.miou: expected a number or null, got 'high'",
        ),
        ('{"kind": "session", "device": "cpu", "seconds": "1"}', "line 2.seconds: expected a num"),
        (
            '{"kind": "evaluation", "marks": ["last"], "step": 1, "record": {"iou": {"a": "b"}}}',
            "line 2.record.iou.a: expected a number or null, got 'b'",
        ),
    ],
)
def test_a_damaged_line_is_named(line: str, message: str) -> None:
    good = '{"kind": "train", "step": 1, "values": {"loss": null}}'
    History.parsed(good)
    with pytest.raises(ValueError) as caught:
        History.parsed(f"{good}\n{line}")
    assert str(caught.value).startswith(message)
