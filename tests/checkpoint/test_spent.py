"""The time that a run has taken: sums over sessions, and what is read from a lease."""

from typing import Any

import pytest

from adapt.checkpoint.spent import NOTHING, Spent


def test_sessions_add_up_by_nodes_and_gpus() -> None:
    on_gpus = {"device": "cuda", "nodes": 2, "ranks": 8, "seconds": 1800.0}
    on_cpu = {"device": "cpu", "seconds": 10.0, "unsaved": [5.0, 7.0, 3600.0]}
    found = Spent.of([on_gpus, on_cpu])
    assert found == (1815.0, 3617.0, 8 * 1800.0 + 3600.0)
    assert found.gpu_hours == 5.0 and found.cost(36.0) == pytest.approx(36.17)
    assert Spent.of([]) == NOTHING


def test_what_is_beyond_is_never_less_than_nothing() -> None:
    assert Spent(5, 9, 1).beyond(Spent(3, 2, 4)) == (2, 7, 0)
    assert Spent(1, 2, 3).plus(Spent(1, 1, 1)) == (2, 3, 4)


@pytest.mark.parametrize("values", [None, "text", [1, 2], [1, 2, "3"], [1, 2, float("inf")], {}])
def test_damaged_numbers_are_nothing(values: Any) -> None:
    assert Spent.read(values) == NOTHING
    assert Spent.read([1, 2.5, 3]) == Spent(1, 2.5, 3)
