"""The loop: pruning, limits, failures, kills, over a runner that trains nothing."""

from collections.abc import Callable, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from optuna.trial import TrialState

from adapt.checkpoint.saved import Best
from adapt.checkpoint.spent import Spent
from adapt.errors import Interrupted, JobError
from adapt.places import Place, find_place
from adapt.spec.job_spec import JobSpec
from adapt.sweep import study as studies
from adapt.sweep.options import Limits, Search
from adapt.sweep.progress import Progress
from adapt.sweep.result import best_spec, rows
from adapt.sweep.runner import Ending
from adapt.sweep.space_file import read_space
from adapt.sweep.sweep import Sweep
from adapt.sweep.trial_job import Base
from tests.conftest import tiny_values

EVERY, STEPS = 3, 9
SPACE = {"optim.lr": {"low": 0.0, "high": 1.0}}


class Killed(BaseException):
    """The process of the sweep is gone."""


@dataclass
class Pretended:
    """A job that makes one evaluation a look; its score is its learning rate."""

    job: JobSpec
    world: "World"
    asked: bool = False

    def ended(self) -> Ending | None:
        steps = self.world.steps
        name = self.job.name
        if name in self.world.failing:
            return Ending("failed", "exit code 2: JobError: no")
        if self.asked:
            return Ending("interrupted")
        steps[name] = min(steps.get(name, 0) + EVERY, STEPS)
        self.world.looks += 1
        if self.world.looks == self.world.killed_at:
            raise Killed
        return Ending("done") if steps[name] >= STEPS else None

    def stop(self, urgent: bool = False, /) -> None:
        self.asked = True
        self.world.stopped.append(self.job.name)


@dataclass
class World:
    """What outlives the sweep's process: the steps of every run."""

    slots: int = 1
    poll_s: float = 0.0
    killed_at: int = -1
    looks: int = 0
    failing: set[str] = field(default_factory=set)
    steps: dict[str, int] = field(default_factory=dict)
    started: list[str] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)

    def start(self, job: JobSpec, slot: int, notes: MutableMapping[str, Any], /) -> Pretended:
        self.started.append(job.name)
        return Pretended(job, self)

    def folder(self, job: JobSpec) -> Any:
        return self, job


class Watched:
    def __init__(self, folder: tuple[World, JobSpec], _evaluate: Any) -> None:
        self.world, self.job = folder

    def read(self) -> Progress:
        done, score = self.world.steps.get(self.job.name, 0), self.job.optim.lr
        best = Best("step-00000003", score, "") if done else None
        spent = Spent(3600.0 * done, 3600.0 * done, 0.0)
        return Progress(dict.fromkeys(range(EVERY, done + 1, EVERY), score), done, best, spent)


@pytest.fixture(autouse=True)
def watched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adapt.sweep.sweep.Watched", Watched)


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Sweep]:
    base = Base(tiny_values("nowhere", "runs") | {"train": {"steps": STEPS}}, "tiny")
    space = read_space(SPACE, base.takes)
    place: Place = find_place({}, tmp_path)

    def made(
        world: World,
        trials: int = 4,
        search: Search = Search("random", "none"),  # noqa: B008
        price: float | None = None,
        **limits: float,
    ) -> Sweep:
        uri = studies.database(tmp_path)
        study = studies.open_study(uri, "s", base.job({}), space, search)
        return Sweep(
            base,
            space,
            search,
            Limits(trials, **limits),
            study,
            world,
            place,
            lambda: None,
            lambda _line: None,
            Event(),
            price,
            (),
        )

    return made


def states(sweep: Sweep) -> list[str]:
    return [one.state.name for one in sweep.study.trials]


def test_trials_in_turn_and_their_table(make: Callable[..., Sweep]) -> None:
    world = World()
    sweep = make(world)
    assert sweep.run() == "4 trials done"
    assert world.started == [f"tiny-t{number:04d}" for number in range(4)]
    trials = sweep.study.trials
    assert [one.value for one in trials] == [one.params["optim.lr"] for one in trials]
    best = studies.best_of(sweep.study)
    assert best is not None and best.value == max(one.value or 0 for one in trials)
    found = rows(trials, "tiny")
    assert found[0].run == f"tiny-t{best.number:04d}" and found[0].step == 3
    scores = [row.score or 0 for row in found]
    assert scores == sorted(scores, reverse=True)


def test_of_a_score_that_is_better_when_low_the_lowest_counts(
    make: Callable[..., Sweep],
) -> None:
    sweep = make(World())
    job = sweep.base.job({"evaluate.select_by": "mean_entropy"})
    sweep.study = studies.open_study(None, "low", job, sweep.space, sweep.search)
    sweep.run()
    best = studies.best_of(sweep.study)
    assert best is not None and best.value == min(one.value or 9 for one in sweep.study.trials)
    assert rows(sweep.study.trials, "tiny", -1)[0].score == best.value


def test_a_killed_sweep_gives_what_a_calm_one_gives(
    make: Callable[..., Sweep], tmp_path: Path
) -> None:
    search = Search("tpe", "none", seed=2)
    for look in (2, 4, 7):
        with pytest.raises(Killed):
            make(World(killed_at=look), search=search).run()
    world = World()
    sweep = make(world, search=search)
    sweep.run()
    assert states(sweep) == ["COMPLETE"] * 4
    calm = studies.open_study(None, "s", sweep.base.job({}), sweep.space, search)
    for number in range(4):
        trial, point = studies.ask(calm, sweep.space, search)
        assert point.drawn == sweep.study.trials[number].params
        calm.tell(trial, point.drawn["optim.lr"])


def test_a_stop_saves_all_and_the_next_start_continues(make: Callable[..., Sweep]) -> None:
    world = World(slots=2)
    sweep = make(world)
    stopper = sweep.say
    sweep.say = lambda line: sweep.stop.set() if "step 3" in line else stopper(line)
    with pytest.raises(Interrupted, match="the same command continues the sweep"):
        sweep.run()
    assert sorted(world.stopped) == ["tiny-t0000", "tiny-t0001"]
    assert states(sweep) == ["RUNNING", "RUNNING"]
    again = make(world)
    again.run()
    assert states(again) == ["COMPLETE"] * 4
    assert world.started[2:4] == ["tiny-t0000", "tiny-t0001"]
    steps = [list(one.intermediate_values) for one in again.study.trials]
    assert steps == [[3, 6, 9]] * 4


def test_a_trial_that_falls_behind_is_ended(make: Callable[..., Sweep]) -> None:
    world = World()
    sweep = make(world, trials=12, search=Search("random", "median", seed=1))
    sweep.run()
    pruned = [one for one in sweep.study.trials if one.state == TrialState.PRUNED]
    assert pruned and len(world.stopped) == len(pruned)
    assert all(one.user_attrs["pruned_at"] < STEPS for one in pruned)
    best = studies.best_of(sweep.study)
    assert best is not None and best.state == TrialState.COMPLETE


def test_a_trial_whose_end_was_decided_before_a_kill_is_not_trained_again(
    make: Callable[..., Sweep],
) -> None:
    sweep = make(World())
    trial, _ = studies.ask(sweep.study, sweep.space, sweep.search)
    trial.report(0.1, 3)
    trial.set_user_attr("pruned_at", 3)
    world = World()
    sweep = make(world, trials=2)
    sweep.run()
    assert states(sweep) == ["PRUNED", "COMPLETE"] and world.started == ["tiny-t0001"]


def test_a_limit_of_money_counts_all_trials_and_ends_them(make: Callable[..., Sweep]) -> None:
    world = World()
    sweep = make(world, price=1.0, cost=15.0)
    assert sweep.run().startswith("--max-cost 15 is reached")
    assert states(sweep) == ["COMPLETE", "RUNNING"]
    assert world.stopped == ["tiny-t0001"] and sweep.cost() == 15.0
    more = make(world, price=1.0, cost=1000.0)
    more.run()
    assert states(more) == ["COMPLETE"] * 4


def test_a_trial_that_its_own_limit_of_money_ends_keeps_its_score(
    make: Callable[..., Sweep], monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = Pretended.ended
    monkeypatch.setattr(
        Pretended,
        "ended",
        lambda self: Ending("interrupted") if ended(self) or self.world.steps else None,
    )
    sweep = make(World(), trials=1, price=1.0)
    sweep.base = Base({**sweep.base.values, "report": {"price_per_hour": 1.0}}, "tiny")
    sweep.base = Base(
        {**sweep.base.values, "train": {"steps": STEPS, "max_cost": 3.0}}, sweep.base.name
    )
    sweep.run()
    (trial,) = sweep.study.trials
    assert trial.state == TrialState.COMPLETE and trial.value == trial.params["optim.lr"]


def test_a_limit_of_hours_holds_over_starts(make: Callable[..., Sweep]) -> None:
    sweep = make(World(), hours=1.0)
    sweep.study.set_user_attr(studies.SECONDS, 3600.0)
    assert sweep.run().startswith("--max-hours 1 is reached")
    assert states(sweep) == []


def test_failures_are_named_and_three_in_a_row_end_the_sweep(make: Callable[..., Sweep]) -> None:
    world = World(failing={"tiny-t0001"})
    sweep = make(world)
    sweep.run()
    assert states(sweep) == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
    assert [row.why for row in rows(sweep.study.trials, "tiny")][-1].startswith("exit code 2")
    world = World(failing={f"tiny-t{number:04d}" for number in range(4, 9)})
    with pytest.raises(JobError, match="got 3 failures in a row: exit code 2"):
        make(world, trials=9).run()
    assert len(world.started) == 3


def test_points_that_the_spec_refuses_cost_no_trial(
    make: Callable[..., Sweep], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(job: JobSpec, *_rest: object) -> None:
        if job.name in ("tiny-t0000", "tiny-t0002"):
            raise JobError("model: expected others")

    monkeypatch.setattr("adapt.sweep.sweep.refuse_problems", refuse)
    world = World()
    sweep = make(world, trials=2)
    sweep.run()
    assert states(sweep) == ["FAIL", "COMPLETE", "FAIL", "COMPLETE"]
    assert [row.result for row in rows(sweep.study.trials, "tiny")].count("refused") == 2
    monkeypatch.setattr("adapt.sweep.endings.REFUSALS_IN_A_ROW", 2)

    def refuse_all(job: JobSpec, *_rest: object) -> None:
        raise JobError("model: expected others")

    monkeypatch.setattr("adapt.sweep.sweep.refuse_problems", refuse_all)
    with pytest.raises(JobError, match="got 2 in a row that it refuses: model: expected others"):
        make(world, trials=9).run()


def test_a_point_that_is_known_is_not_trained_again(make: Callable[..., Sweep]) -> None:
    world = World()
    sweep = make(world, trials=6)
    sweep.space = read_space({"optim.lr": {"choices": [0.25, 0.5]}}, sweep.base.takes)
    sweep.run()
    assert len(world.started) == 2 and states(sweep) == ["COMPLETE"] * 6
    assert {one.value for one in sweep.study.trials} == {0.25, 0.5}
    results = [row.result for row in rows(sweep.study.trials, "tiny")]
    assert sum(one.startswith("as t000") for one in results) == 4


def test_the_best_spec_is_complete_and_says_what_was_searched(
    make: Callable[..., Sweep], tmp_path: Path
) -> None:
    from adapt.spec.loading import load_spec

    sweep = make(World())
    sweep.run()
    best = studies.best_of(sweep.study)
    assert best is not None
    text = best_spec(sweep.base, sweep.space, best, sweep.study.trials, "miou")
    lines = text.splitlines()
    (place,) = (n for n, line in enumerate(lines) if "searched: optim.lr in 0 to 1" in line)
    assert f"lr: {best.params['optim.lr']}" in lines[place + 1]
    (tmp_path / "best.yaml").write_text(text)
    job = load_spec(tmp_path / "best.yaml")
    assert job.name == "tiny-best" and job.optim.lr == best.params["optim.lr"]
    expected = sweep.base.job({"optim.lr": best.params["optim.lr"]})
    assert job.resolved() | {"name": ""} == expected.resolved() | {"name": ""}
