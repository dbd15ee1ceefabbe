"""Several ranks: they train as one does, agree, and notice when one is gone."""

import os
import signal
import time
from datetime import timedelta
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import multiprocessing

from adapt.batch import IGNORED, Batch
from adapt.engine import Engine, TrainConfig
from adapt.losses import shared_count
from adapt.methods import METHODS, build_method
from adapt.models import build_segmenter
from adapt.models.deeplab_v2 import DeepLabV2Config
from adapt.optim import OptimConfig
from adapt.places import Place
from adapt.ranks import RankLost, any_rank, barrier, gather_keys, open_ranks, share_text
from adapt.shared_stop import shared

HW, STEPS, GLOBAL_BATCH = (33, 33), 3, 6
ENDS = timedelta(seconds=60)


def engine(method: str) -> Engine:
    torch.manual_seed(3)
    config = DeepLabV2Config(encoder="resnet18", output_stride=16, weights="none", norm="frozen")
    built = build_method({"name": method}, build_segmenter(config, 4))
    built.observe_source(torch.tensor([[40, 30, 20, 10], [10, 0, 50, 40]]))
    return Engine(built.double(), TrainConfig(steps=10), OptimConfig(), torch.device("cpu"))


def batch(seed: int, rows: slice, bad_row: int | None = None) -> Batch:
    """Rows of a global batch whose images have from no to only ignored pixels."""
    random = torch.Generator().manual_seed(seed)
    images = torch.randn(GLOBAL_BATCH, 3, *HW, generator=random, dtype=torch.float64)
    labels = torch.randint(0, 4, (GLOBAL_BATCH, *HW), generator=random)
    for row in range(GLOBAL_BATCH):
        labels[row, : HW[0] * row // (GLOBAL_BATCH - 1)] = IGNORED
    if bad_row is not None:
        images[bad_row, 0, 0, 0] = torch.nan
    keys = tuple(f"{seed}/{row}" for row in range(GLOBAL_BATCH))
    return Batch(images[rows], labels[rows], keys[rows])


def train(method: str, rows: slice, bad_row: int | None = None) -> dict[str, Any]:
    one, logged = engine(method), []
    for step in range(STEPS):
        source = batch(step, rows, bad_row if step == 1 else None)
        logged.append(one.mean_over_ranks(one.step(source, batch(100 + step, rows))))
    bad = [(step, sorted(keys)) for step, keys in one.bad_steps]
    return {"logged": logged, "weights": one.method.state_dict(), "bad": bad}


def as_rank(rank: int, num_ranks: int, folder: Path, work: Any, *given: Any) -> None:
    """One rank's process; what `work` returns is stored for the test."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/meet", ENDS, rank=rank, world_size=num_ranks)
    torch.save(work(rank, num_ranks, *given), folder / f"rank-{rank}.pt")
    dist.destroy_process_group()


def on_ranks(num_ranks: int, folder: Path, work: Any, *given: Any) -> list[Any]:
    multiprocessing.spawn(as_rank, (num_ranks, folder, work, *given), nprocs=num_ranks)
    return [torch.load(folder / f"rank-{rank}.pt") for rank in range(num_ranks)]


def share_of_the_work(rank: int, num_ranks: int, method: str, bad_row: int | None) -> Any:
    size = GLOBAL_BATCH // num_ranks
    return train(method, slice(rank * size, (rank + 1) * size), bad_row)


@pytest.mark.parametrize("num_ranks", [2, 3])
@pytest.mark.parametrize("method", METHODS)
def test_ranks_train_as_one_whatever_they_ignore(
    method: str, num_ranks: int, tmp_path: Path
) -> None:
    expected = train(method, slice(None))
    for found in on_ranks(num_ranks, tmp_path, share_of_the_work, method, None):
        for key, value in expected["weights"].items():
            torch.testing.assert_close(
                found["weights"][key], value, rtol=1e-10, atol=1e-10, msg=key
            )
        for one, several in zip(expected["logged"], found["logged"], strict=True):
            assert several == pytest.approx(one, rel=1e-5)  # figures for the log are float32


def test_one_rank_s_bad_step_is_refused_by_all(tmp_path: Path) -> None:
    expected = train("advent", slice(None), bad_row=5)
    assert [step for step, _ in expected["bad"]] == [1]
    for found in on_ranks(2, tmp_path, share_of_the_work, "advent", 5):
        assert found["bad"] == expected["bad"]
        for key, value in expected["weights"].items():
            torch.testing.assert_close(
                found["weights"][key], value, rtol=1e-10, atol=1e-10, msg=key
            )


def agree(rank: int, num_ranks: int) -> Any:
    barrier()
    flags = any_rank(rank == 1, False, rank == 0)
    return flags, share_text(f"of {rank}"), share_text(None), gather_keys((f"key {rank}",))


def test_ranks_agree(tmp_path: Path) -> None:
    expected = ((True, False, True), "of 0", None, ("key 0", "key 1"))
    assert on_ranks(2, tmp_path, agree) == [expected, expected]


def wait_for_a_stop(rank: int, num_ranks: int) -> float:
    stop = Event()
    with shared(stop):
        barrier()
        if rank == 1:
            stop.set()
        started_s = time.monotonic()
        assert stop.wait(30)
        waited_s = time.monotonic() - started_s
        barrier()
    return waited_s


def test_a_stop_of_one_rank_is_soon_known_to_all(tmp_path: Path) -> None:
    assert max(on_ranks(2, tmp_path, wait_for_a_stop)) < 10


def lose_the_other(rank: int, num_ranks: int) -> str:
    barrier()
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    try:
        barrier()
    except RankLost as lost:
        return str(lost)
    return "nothing was noticed"


def test_a_rank_that_is_gone_is_noticed(tmp_path: Path) -> None:
    started_s = time.monotonic()
    processes = multiprocessing.start_processes(
        as_rank, (2, tmp_path, lose_the_other), nprocs=2, join=False, start_method="spawn"
    )
    for process in processes.processes:
        process.join(50)
    assert time.monotonic() - started_s < 50
    said = torch.load(tmp_path / "rank-0.pt")
    assert "another rank is gone" in said and "last stored checkpoint" in said


def test_alone_nothing_is_asked_of_anybody(tmp_path: Path) -> None:
    assert any_rank(True, False) == (True, False) and share_text("mine") == "mine"
    assert gather_keys(("a",)) == ("a",)
    barrier()
    with open_ranks(Place("local", {}, tmp_path), torch.device("cpu"), ENDS):
        assert not dist.is_initialized()
    count = torch.tensor(7)
    assert torch.equal(shared_count(count), count) and int(shared_count(count * 0)) == 1
