"""A short `make chaos`, and that it notices what it is there to notice."""

from pathlib import Path

import pytest

from tests import chaos
from tests.chaos import ENDINGS, TROUBLES, Round, World, plan, storm, table

pytestmark = pytest.mark.slow


def test_a_job_that_everything_happens_to_ends_like_a_calm_one(tmp_path: Path) -> None:
    said = storm(tmp_path, rounds=6, seed=3)
    assert "6 rounds" in said and "none lost, none doubled" in said


def test_another_run_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = World.write_spec

    def other_seed(world: World, name: str) -> None:
        write(world, name)
        if name == "stormy":
            path = world.folder / "stormy.yaml"
            path.write_text(path.read_text() + "seed: 5\n")

    monkeypatch.setattr(World, "write_spec", other_seed)
    monkeypatch.setattr(chaos, "STEPS_A_ROUND", 6)
    with pytest.raises(RuntimeError, match="the weights differ"):
        storm(tmp_path, rounds=1, seed=3)


def test_every_ending_meets_every_trouble_in_fifty_rounds() -> None:
    pairs = plan(50, 1, can_fill=True)
    assert len(set(pairs)) == len(ENDINGS) * len(TROUBLES)
    assert all(trouble != "scratch disk full" for _, trouble in plan(50, 1, can_fill=False))


def test_the_table_counts_codes() -> None:
    rounds = [Round("SIGTERM", "none", 75, 12), Round("SIGTERM", "none", 0, 3)]
    assert "| SIGTERM | none | 2 | 12, 3 | 0: 1, 75: 1 |" in table(rounds, 60)
