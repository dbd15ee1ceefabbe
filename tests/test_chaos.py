"""A short `make chaos`, and that it notices what it is there to notice."""

from pathlib import Path

import pytest
from mlflow import MlflowClient

from adapt.checkpoint.run_folder import RunFolder
from adapt.models.weights import WEIGHTS
from tests import chaos
from tests.chaos import ENDINGS, TROUBLES, Round, compare, plan, storm, table
from tests.chaos_world import World

pytestmark = pytest.mark.slow


def test_a_job_that_everything_happens_to_ends_like_a_calm_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compared(world: World) -> None:
        compare(world)
        notices_other_weights(world)
        notices_a_doubled_metric(world)

    monkeypatch.setattr(chaos, "compare", compared)
    said = storm(tmp_path, rounds=4, seed=3)
    assert "4 rounds" in said and "none lost, none doubled" in said


def notices_other_weights(world: World) -> None:
    store = world.run_store("stormy")
    key = f"{RunFolder(store).names()[-1]}/{WEIGHTS}"
    weights = store.get(key)
    store.put(key, weights[:-1] + bytes([weights[-1] ^ 1]))
    with pytest.raises(RuntimeError, match="the weights differ"):
        compare(world)
    store.put(key, weights)


def notices_a_doubled_metric(world: World) -> None:
    client = MlflowClient(world.mlflow_uri)
    experiment = client.get_experiment_by_name("stormy")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    name = "train/loss.segmentation.main"
    second = client.get_metric_history(run.info.run_id, name)[1]
    client.log_metric(run.info.run_id, name, second.value, step=second.step)
    with pytest.raises(RuntimeError, match=f"{name} differs"):
        compare(world)


def test_every_ending_meets_every_trouble_in_fifty_rounds() -> None:
    pairs = plan(50, 1, can_fill=True)
    assert len(set(pairs)) == len(ENDINGS) * len(TROUBLES)
    assert all(trouble != "scratch disk full" for _, trouble in plan(50, 1, can_fill=False))


def test_the_table_counts_codes() -> None:
    rounds = [Round("SIGTERM", "none", 75, 12), Round("SIGTERM", "none", 0, 3)]
    said = table(rounds, 60)
    assert "| SIGTERM | none | 2 | 12, 3 | 0: 1, 75: 1 |" in said
    assert "After 2 rounds and 60 steps" in said
