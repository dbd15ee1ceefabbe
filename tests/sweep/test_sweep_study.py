"""The study: the same seed draws the same, a kill changes nothing, another's is refused."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState

from adapt.errors import JobError
from adapt.sweep import study as studies
from adapt.sweep.options import Search
from adapt.sweep.space import Space
from adapt.sweep.space_file import read_space
from adapt.sweep.trial_job import Base
from tests.sweep.conftest import SPACE

SpaceOf = Callable[[Mapping[str, Any]], Space]
GRID = {"seed": {"low": 1, "high": 3}, "method": SPACE["method"]}


def drawn(
    base: Base, space: Space, search: Search, count: int, folder: Path | None = None
) -> list[dict[str, Any]]:
    """What a sweep draws; with a folder its process is a new one for every trial."""
    found = []
    uri = None if folder is None else studies.database(folder)
    study = studies.open_study(uri, "s", base.job({}), space, search)
    for number in range(count):
        if folder is not None:
            study = studies.open_study(uri, "s", base.job({}), space, search)
        trial, point = studies.ask(study, space, search)
        found.append(point.drawn)
        trial.report(0.1 * number, 3)
        study.tell(trial, 0.1 * (number % 7))
    return found


@pytest.mark.parametrize("sampler", studies.SAMPLERS)
def test_the_same_seed_draws_the_same_whatever_was_killed(
    sampler: Any, base: Base, space_of: SpaceOf, tmp_path: Path
) -> None:
    space = space_of(GRID if sampler == "grid" else SPACE)
    search = Search(sampler, "none", seed=3)
    calm = drawn(base, space, search, 13)
    assert calm == drawn(base, space, search, 13)
    if sampler != "grid":
        assert len({str(point) for point in calm}) == 13
        assert calm[:3] != drawn(base, space, Search(sampler, "none", seed=4), 3)
    if sampler == "tpe":
        assert drawn(base, space, search, 13, tmp_path) == calm


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), number=st.integers(0, 10_000))
def test_a_sampler_is_a_function_of_seed_and_number(seed: int, number: int) -> None:
    space = read_space({"a": {"low": 0.0, "high": 1.0}}, lambda _key, _value: True)
    search = Search("random", seed=seed)
    makes = [studies.sampler_of(number, space, search) for _ in range(2)]
    draws = [one._rng.rng.random() for one in makes]  # type: ignore[attr-defined]
    other = studies.sampler_of(number + 1, space, search)._rng.rng.random()  # type: ignore[attr-defined]
    assert draws[0] == draws[1] != other


def test_a_trial_that_was_killed_while_it_drew_draws_the_rest(
    base: Base, space_of: SpaceOf, tmp_path: Path
) -> None:
    space, search, uri = space_of(SPACE), Search(seed=5), studies.database(tmp_path)
    calm = drawn(base, space, search, 1)
    study = studies.open_study(uri, "s", base.job({}), space, search)
    study.sampler = studies.sampler_of(0, space, search)
    trial = study.ask()
    first = space.dimensions[0]
    trial.suggest_float(first.name, first.low, first.high, log=True)  # killed here
    study = studies.open_study(uri, "s", base.job({}), space, search)
    _, point = studies.again(study, 0, space, search)
    assert point.drawn[first.name] == calm[0][first.name] and point.drawn.keys() == calm[0].keys()
    assert [one.state for one in study.trials] == [TrialState.RUNNING]


def test_a_grid_is_drawn_once_each(base: Base, space_of: SpaceOf) -> None:
    space = space_of(GRID)
    assert drawn(base, space, Search("grid"), 6) == space.points()


def test_the_study_of_another_sweep_is_refused(
    base: Base, space_of: SpaceOf, tmp_path: Path
) -> None:
    uri, space, search = studies.database(tmp_path), space_of(SPACE), Search()
    job = base.job({})
    studies.open_study(uri, "s", job, space, search)
    studies.open_study(uri, "s", job, space, Search("random", "asha"))
    with pytest.raises(
        JobError, match=r"train\.steps: expected 6, the value of the study s, got 7"
    ):
        studies.open_study(uri, "s", base.job({"train.steps": 7}), space, search)
    narrow = space_of({**SPACE, "optim.lr": {"low": 0.1, "high": 0.2}})
    with pytest.raises(JobError, match=r"optim\.lr: expected \{low: .*as the space of the study s"):
        studies.open_study(uri, "s", job, narrow, search)
    fewer = space_of({"optim.lr": SPACE["optim.lr"]})
    with pytest.raises(JobError, match=r"method: expected .*got null.*--name"):
        studies.open_study(uri, "s", job, fewer, search)
    moved = base.job({"checkpoint.keep": 1, "source.uri": "elsewhere"})
    studies.open_study(uri, "s", moved, space, search)


@pytest.mark.parametrize("uri", ["sqlite:////no/such/folder/x.db", "nothing", "mysql://h/x"])
def test_a_database_that_does_not_answer(uri: str, base: Base, space_of: SpaceOf) -> None:
    with pytest.raises(JobError, match="--storage: expected a database for the study, got: "):
        studies.open_study(uri, "s", base.job({}), space_of(SPACE), Search())


@pytest.mark.parametrize("pruner", studies.PRUNERS)
def test_pruners_end_what_falls_behind(pruner: Any, base: Base, space_of: SpaceOf) -> None:
    space, search = space_of(GRID), Search("random", pruner)
    job = base.job({"train.steps": 27})
    study = studies.open_study(None, "s", job, space, search)
    ended = 0
    for number in range(30):
        trial, _ = studies.ask(study, space, search)
        for step in range(3, 28, 3):
            trial.report(1.0 / (1 + number), step)
            if trial.should_prune():
                ended += 1
                break
        study.tell(trial, 1.0 / (1 + number))
    assert (ended > 5) == (pruner != "none")
