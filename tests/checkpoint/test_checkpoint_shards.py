"""Tensors that ranks hold in parts: saved in parts, read by any number of ranks."""

import pickle
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from adapt.checkpoint.shards import (
    apart,
    files_of_rank,
    filled,
    is_mark,
    marked,
    read_files,
)
from adapt.checkpoint.snapshot import in_memory
from adapt.errors import DataError
from adapt.ranks import barrier, local_part, rank
from tests.engine.test_parallel import engine, step
from tests.rank_processes import on_ranks
from tests.test_ranks import GLOBAL_BATCH

CASES = ("daformer", "taught by one that learns")


def rows(number: int, num_ranks: int) -> slice:
    size = GLOBAL_BATCH // num_ranks
    return slice(number * size, (number + 1) * size)


def saved(one: Any, folder: Path, name: str) -> None:
    rest, tensors = apart(one.state_dict())
    if tensors:
        (folder / name).mkdir(exist_ok=True)
        for file, content in files_of_rank(tensors).items():
            (folder / name / file).write_bytes(content)
    if rank() == 0:
        torch.save(in_memory(rest), folder / f"{name}.pt")
    barrier()


def resumed(folder: Path, name: str, case: str) -> Any:
    one = engine(case, "fsdp2")
    state = torch.load(folder / f"{name}.pt", weights_only=True)
    if marked(state):
        state = read_files(folder / name, state, partial(one.parallel.empty, one.device))
    one.load_state_dict(state)
    return one


def whole(one: Any) -> dict[str, Tensor]:
    state = one.modules().state_dict()
    return {
        key: value.full_tensor() if hasattr(value, "full_tensor") else value
        for key, value in state.items()
    }


def two_ranks(number: int, num_ranks: int, folder: Path, case: str) -> Any:
    """A step, then two without a break and two after one; what is saved for one rank."""
    one = engine(case, "fsdp2")
    step(one, 0, rows(number, num_ranks))
    saved(one, folder, "first")
    again = resumed(folder, "first", case)
    for done in (1, 2):
        step(one, done, rows(number, num_ranks))
        step(again, done, rows(number, num_ranks))
    return whole(one), whole(again)


def three_ranks(number: int, num_ranks: int, folder: Path, case: str) -> Any:
    one = resumed(folder, "second", case)
    parts = [local_part(parameter) is not parameter for parameter in one.method.parameters()]
    step(one, 2, rows(number, num_ranks))
    return whole(one), all(parts)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_any_number_of_ranks_resumes_and_the_same_number_exactly(case: str, tmp_path: Path) -> None:
    for calm, again in on_ranks(2, tmp_path, two_ranks, tmp_path, case):
        for key, value in calm.items():
            assert torch.equal(again[key], value), key
    alone = resumed(tmp_path, "first", case)
    step(alone, 1, slice(None))
    saved(alone, tmp_path, "second")
    (tmp_path / "three").mkdir()
    step(alone, 2, slice(None))
    found = on_ranks(3, tmp_path / "three", three_ranks, tmp_path, case)
    for more, sharded in found:
        assert sharded
        for key, value in whole(alone).items():
            torch.testing.assert_close(calm[key], value, rtol=1e-10, atol=1e-10, msg=key)
            torch.testing.assert_close(more[key], value, rtol=1e-10, atol=1e-10, msg=key)


class Part(Tensor):
    """A tensor that is held in parts, by its looks."""

    def to_local(self) -> Tensor:
        return self.as_subclass(Tensor)[:1]


def test_sharded_tensors_leave_marks() -> None:
    part = torch.arange(6.0).reshape(3, 2).as_subclass(Part)
    state = {"step": 3, "method": {"a": part, "b": torch.ones(2)}, "list": [(part, "x")]}
    rest, tensors = apart(state)
    assert set(tensors) == {"/method/a", "/list/0/0"} == set(marked(rest))
    mark = rest["method"]["a"]
    assert is_mark(mark) and (mark["shape"], mark["dtype"]) == ([3, 2], "float32")
    assert not is_mark(rest["method"]) and rest["step"] == 3
    back = filled(rest, tensors)
    assert torch.equal(back["method"]["a"], part) and isinstance(back["list"][0], tuple)
    assert apart({"a": torch.ones(2)})[1] == {}


class Evil:
    def __reduce__(self) -> Any:
        return (print, ("executed",))


def test_an_index_executes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mark = {"segadapt.shard": "/a", "shape": [1], "dtype": "float32"}
    for content in (pickle.dumps(Evil()), b"nothing", b""):
        (tmp_path / ".metadata").write_bytes(content)
        with pytest.raises(DataError, match=r"\.metadata: expected an index of shards, got"):
            read_files(tmp_path, {"a": mark}, lambda shape, kind: torch.empty(shape, dtype=kind))
    assert "executed" not in capsys.readouterr().out
