"""Several ranks: they train as one does, agree, and notice when one is gone."""

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from adapt.batch import IGNORED, Batch
from adapt.counts import counted_together, shared_count
from adapt.engine.adamw import AdamWConfig
from adapt.engine.engine import Engine
from adapt.engine.flops import step_flops
from adapt.engine.segmenter_optimizer import OptimConfig
from adapt.engine.sgd import SGDConfig
from adapt.engine.train_config import TrainConfig
from adapt.losses import (
    bootstrapped_cross_entropy,
    border_loss,
    cross_entropy,
    hardest_cross_entropy,
    presence_loss,
)
from adapt.methods import METHODS, build_method
from adapt.methods.distillation import Distillation, DistillationConfig
from adapt.methods.method import Term
from adapt.methods.moving_average import MovingAverageConfig
from adapt.models import build_encoder, build_segmenter
from adapt.models.adapters.attach import ADAPTERS
from adapt.models.decoders.deeplab_v2 import DeepLabV2Config
from adapt.places import Place
from adapt.ranks import (
    RankLost,
    alone,
    any_rank,
    barrier,
    gather_keys,
    open_ranks,
    share_text,
)
from adapt.ranks import num_ranks as current_ranks
from adapt.trainer.shared_stop import shared
from tests.conftest import small_method
from tests.networks import SURE
from tests.rank_processes import ENDS, on_ranks, start_ranks

HW, STEPS, GLOBAL_BATCH = (33, 33), 3, 6
ADAPTED = {f"dacs, with {kind}": {"kind": kind, "rank": 2} for kind in ADAPTERS}
"""The values of `model.adapters` of a vision transformer that a method trains."""


MODEL = DeepLabV2Config(encoder="test_resnet", output_stride=16, weights="none", norm="frozen")
DISTILLED = "advent, distilled"
OVER_A_VIT = "dacs, over a vision transformer"
CASES = (*METHODS, DISTILLED, OVER_A_VIT, *ADAPTED)
SIZES = {OVER_A_VIT: (160, 160)}
"""Images of a grid whose table of positions needs no resizing, which timm does in float32."""


def engine(case: str) -> Engine:
    torch.manual_seed(3)
    method, model = case.partition(",")[0], MODEL.model_dump()
    optim: OptimConfig = SGDConfig()
    if case in (OVER_A_VIT, *ADAPTED):
        model |= {"encoder": "test_vit", "adapters": ADAPTED.get(case)}
    if case in ADAPTED:
        optim = AdamWConfig(name="adamw", layer_decay=0.8, weight_decay_end=1e-5)
    segmenter, add_ons = build_segmenter(model, 4), {}
    if case == DISTILLED:
        near = DistillationConfig(encoder="test_resnet", size_hw=(32, 32))
        teacher = build_encoder(near.encoder, 32)
        add_ons = {"distillation": Distillation(near, segmenter, teacher)}
    built = build_method({**small_method(method), **SURE.get(method, {})}, segmenter, add_ons)
    built.observe_source(torch.tensor([[40, 30, 20, 10], [10, 0, 50, 40]]))
    train = TrainConfig(steps=10, ema=MovingAverageConfig(alpha=0.6))
    return Engine(built.double(), train, optim, torch.device("cpu"))


def batch(
    seed: int, rows: slice, bad_row: int | None = None, size_hw: tuple[int, int] = HW
) -> Batch:
    """Rows of a global batch: the first image has no ignored pixel, the last half nothing else."""
    random = torch.Generator().manual_seed(seed)
    images = torch.randn(GLOBAL_BATCH, 3, *size_hw, generator=random, dtype=torch.float64)
    labels = torch.randint(0, 4, (GLOBAL_BATCH, *size_hw), generator=random)
    for row in range(GLOBAL_BATCH):
        labels[row, : size_hw[0] * row // (GLOBAL_BATCH // 2)] = IGNORED
    if bad_row is not None:
        images[bad_row, 0, 0, 0] = torch.nan
    keys = tuple(f"{seed}/{row}" for row in range(GLOBAL_BATCH))
    return Batch(images[rows], labels[rows], keys[rows])


def train(method: str, rows: slice, bad_row: int | None = None) -> dict[str, Any]:
    one, logged, size_hw = engine(method), [], SIZES.get(method, HW)
    for step in range(STEPS):
        source = batch(step, rows, bad_row if step == 1 else None, size_hw)
        target = batch(100 + step, rows, size_hw=size_hw)
        logged.append(one.mean_over_ranks(one.step(source, target)))
    bad = [(step, sorted(keys)) for step, keys in one.bad_steps]
    return {"logged": logged, "weights": one.modules().state_dict(), "bad": bad}


def share_of_the_work(rank: int, num_ranks: int, method: str, bad_row: int | None) -> Any:
    size = GLOBAL_BATCH // num_ranks
    return train(method, slice(rank * size, (rank + 1) * size), bad_row)


def share_of_each_method(rank: int, num_ranks: int, methods: Sequence[str]) -> Any:
    return {name: share_of_the_work(rank, num_ranks, name, None) for name in methods}


@pytest.fixture(scope="module")
def on_two_ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two ranks trained, by method: processes that start once."""
    folder = tmp_path_factory.mktemp("two-ranks")
    return on_ranks(2, folder, share_of_each_method, CASES)


def assert_trained_as_one(method: str, ranks: Sequence[dict[str, Any]]) -> None:
    expected = train(method, slice(None))
    for found in ranks:
        for key, value in expected["weights"].items():
            torch.testing.assert_close(
                found["weights"][key], value, rtol=1e-10, atol=1e-10, msg=key
            )
        for one, several in zip(expected["logged"], found["logged"], strict=True):
            assert several == pytest.approx(one, rel=1e-10, abs=1e-10)


@pytest.mark.slow
@pytest.mark.xdist_group("two ranks")
@pytest.mark.parametrize("method", CASES)
def test_ranks_train_as_one_whatever_they_ignore(
    method: str, on_two_ranks: list[dict[str, Any]]
) -> None:
    assert_trained_as_one(method, [found[method] for found in on_two_ranks])


@pytest.mark.slow
def test_three_ranks_train_as_one(tmp_path: Path) -> None:
    assert_trained_as_one("advent", on_ranks(3, tmp_path, share_of_the_work, "advent", None))


WEIGHTS = torch.tensor([0.1, 2.0, 0.0, 5.0], dtype=torch.float64)
LOSSES: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], tuple[int, ...]]] = {
    "cross_entropy": (cross_entropy, (4, *HW)),
    "bootstrapped": (partial(bootstrapped_cross_entropy, hardest_pixels=500), (4, *HW)),
    "weighted": (partial(cross_entropy, class_weights=WEIGHTS), (4, *HW)),
    "smaller": (partial(cross_entropy, class_weights=WEIGHTS), (4, 9, 9)),
    "hardest": (partial(hardest_cross_entropy, share=0.3, class_weights=WEIGHTS), (4, *HW)),
    "border": (border_loss, (2, 17, 17)),
    "presence": (presence_loss, (4,)),
}
"""By name: the loss, and the size of its logits for an image."""


def losses_and_gradients(
    rows: slice, all_ignored: bool, parts: int = 1
) -> dict[str, tuple[Tensor, Tensor]]:
    labels, found = batch(1, slice(None)).labels, {}
    assert labels is not None
    if all_ignored:
        labels = torch.full_like(labels, IGNORED)
    for name, (loss, size) in LOSSES.items():
        random = torch.Generator().manual_seed(2)
        logits = torch.randn(GLOBAL_BATCH, *size, generator=random, dtype=torch.float64)
        part = logits[rows].requires_grad_()
        chunks = labels[rows].chunk(parts)
        with counted_together(chunks):
            pairs = zip(part.chunk(parts), chunks, strict=True)
            value = torch.stack([loss(*pair) for pair in pairs]).mean()
        value.backward()
        assert part.grad is not None
        found[name] = (value.detach(), part.grad)
    return found


def share_of_the_losses(rank: int, num_ranks: int, all_ignored: bool) -> Any:
    size = GLOBAL_BATCH // num_ranks
    return losses_and_gradients(slice(rank * size, (rank + 1) * size), all_ignored, parts=size)


@pytest.mark.slow
@pytest.mark.parametrize("all_ignored", [False, True])
def test_every_loss_over_a_count_is_shared(all_ignored: bool, tmp_path: Path) -> None:
    ranks = on_ranks(3, tmp_path, share_of_the_losses, all_ignored)
    for name, (value, gradient) in losses_and_gradients(slice(None), all_ignored).items():
        mean = torch.stack([found[name][0] for found in ranks]).mean()
        torch.testing.assert_close(mean, value, rtol=1e-10, atol=1e-12, msg=name)
        shared_gradient = torch.cat([found[name][1] for found in ranks]) / len(ranks)
        torch.testing.assert_close(shared_gradient, gradient, rtol=1e-10, atol=1e-12, msg=name)
        assert bool(gradient.any()) is not all_ignored, name


@pytest.mark.slow
def test_one_rank_s_bad_step_is_refused_by_all(tmp_path: Path) -> None:
    expected = train("advent", slice(None), bad_row=5)
    assert [step for step, _ in expected["bad"]] == [1]
    for found in on_ranks(2, tmp_path, share_of_the_work, "advent", 5):
        assert found["bad"] == expected["bad"]
        for key, value in expected["weights"].items():
            torch.testing.assert_close(
                found["weights"][key], value, rtol=1e-10, atol=1e-10, msg=key
            )


def step_with_a_loss_bad_on_one_rank(rank: int, num_ranks: int) -> Any:
    """The gradients stay finite everywhere, so that ranks must ask one another."""
    one = engine("source_only")
    real = one.method.losses

    def losses(source: Batch, target: Batch | None) -> Iterator[Term]:
        for term in real(source, target):
            value = torch.tensor(torch.nan if rank == 1 else 0.0)
            yield Term(term.loss, {**term.logged, "other": value})

    one.method.losses = losses  # type: ignore[method-assign]
    before = [parameter.clone() for parameter in one.method.parameters()]
    one.step(batch(1, slice(rank, rank + 1)), None)
    pairs = zip(before, one.method.parameters(), strict=True)
    return one.bad_steps, all(torch.equal(old, new) for old, new in pairs)


@pytest.mark.slow
def test_a_loss_that_is_bad_on_one_rank_alone_is_refused_by_all(tmp_path: Path) -> None:
    expected = ([(0, ("1/0", "1/1"))], True)
    assert on_ranks(2, tmp_path, step_with_a_loss_bad_on_one_rank) == [expected, expected]


def start_apart(rank: int, num_ranks: int) -> Any:
    """Networks that differ by rank, made equal; then what dropout would draw in a step."""
    one = engine("source_only")
    for tensor in (*one.method.parameters(), *one.method.buffers()):
        tensor.data.add_(rank)
    one.share_all()
    weights = {key: value.clone() for key, value in one.method.state_dict().items()}
    one.step(batch(1, slice(0, 1)), None)
    return weights, float(torch.rand(()))


@pytest.mark.slow
def test_ranks_start_with_the_leader_s_networks_and_draw_their_own_dropout(tmp_path: Path) -> None:
    (leader, drawn), (other, also_drawn) = on_ranks(2, tmp_path, start_apart)
    expected = engine("source_only").method.state_dict()
    for found in (leader, other):
        assert all(torch.equal(found[key], value) for key, value in expected.items())
    assert drawn != also_drawn


def agree(rank: int, num_ranks: int) -> Any:
    barrier()
    if rank == 0:
        with torch.device("meta"):
            built = build_method({"name": "dacs"}, build_segmenter(MODEL, 4))
        assert step_flops(built.double(), batch(1, slice(2)), batch(2, slice(2))).total > 0
        with alone():  # collectives ask nobody: the others are not there
            assert dist.get_world_size() == 2
            assert (
                current_ranks() == 1
                and any_rank(True, False) == (True, False)
                and share_text("own") == "own"
            )
    flags = any_rank(rank == 1, False, rank == 0)
    return flags, share_text(f"of {rank}"), share_text(None), gather_keys((f"key {rank}",))


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_rank_that_is_gone_is_noticed(tmp_path: Path) -> None:
    started_s = time.monotonic()
    for process in start_ranks(2, tmp_path, lose_the_other):
        process.wait(timeout=50)
    assert time.monotonic() - started_s < 50
    said = torch.load(tmp_path / "rank-0.pt")
    assert "another rank is gone" in said and "last stored checkpoint" in said


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (RuntimeError("[gloo/transport/tcp/pair.cc:561] Connection closed by peer"), True),
        (RuntimeError("[gloo/transport/tcp/pair.cc:545] Connection reset by peer"), True),
        (RuntimeError("Timed out waiting 4000ms for recv operation to complete"), True),
        (dist.DistBackendError("NCCL communicator was aborted"), True),
        (RuntimeError("[enforce fail at gloo/transport/tcp/pair.cc:464] 8 vs 4"), False),
        (torch.OutOfMemoryError("CUDA out of memory"), False),
        (RuntimeError("CUDA error: device-side assert triggered"), False),
    ],
)
def test_only_a_peer_that_is_gone_is_called_so(
    error: RuntimeError, lost: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_given: object, **_named: object) -> None:
        raise error

    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "all_reduce", fail)
    with pytest.raises(RankLost if lost else type(error)) as raised:
        any_rank(True)
    assert lost is (raised.value is not error)
    if lost:
        assert getattr(raised.value, "exit_code", None) == 75


def test_alone_nothing_is_asked_of_anybody(tmp_path: Path) -> None:
    assert any_rank(True, False) == (True, False) and share_text("mine") == "mine"
    assert gather_keys(("a",)) == ("a",)
    barrier()
    with open_ranks(Place("local", {}, tmp_path), torch.device("cpu"), ENDS):
        assert not dist.is_initialized()
    labels = torch.ones(1, 7, dtype=torch.int64)
    assert torch.equal(shared_count(labels, torch.sum), torch.tensor(7))
    assert int(shared_count(labels * 0, torch.sum)) == 1
