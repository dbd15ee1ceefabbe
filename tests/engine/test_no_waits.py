"""Between two steps that are logged nothing waits for the device.

The meta device stands for a GPU: what goes to it, comes from it or is read of it is the same call
of PyTorch.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from adapt.batch import Batch
from adapt.engine.adamw import AdamWConfig
from adapt.engine.engine import Engine
from adapt.engine.segmenter_optimizer import OptimConfig
from adapt.engine.sgd import SGDConfig
from adapt.engine.train_config import TrainConfig
from adapt.methods import METHODS, build_method
from adapt.methods.draws import sent
from adapt.methods.moving_average import MovingAverageConfig
from adapt.models import build_segmenter
from tests.conftest import small_method
from tests.networks import NEEDED

GPU = torch.device("meta")
READS = ("_local_scalar_dense", "nonzero", "is_nonzero", "masked_select", "_unique2", "equal")
"""Operators whose result Python needs, or whose result's size does."""

HEAVY: dict[str, dict[str, Any]] = {
    "advent": {"class_prior": {}},
    "minent": {"ranking": 0.3, "class_prior": {}},
    "daformer": {"feature_distance": {}, "pseudo_labels": {"quality": "class"}},
    "dacs": {"teacher": {"mirror": True}},
}
"""Of some methods the parts that they have only when asked."""


class Calls(TorchDispatchMode):
    """Notes operators that would wait for the GPU."""

    def __init__(self, found: list[str]) -> None:
        super().__init__()
        self.found = found

    def __torch_dispatch__(self, call: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, call.overloadpacket.__name__
        if name in READS or self._by_mask(name, args) or self._crosses(name, args, kwargs):
            self.found.append(str(call))
        if name == "_to_copy" and torch.device(kwargs.get("device") or GPU) != GPU:
            return torch.ones(args[0].shape, dtype=args[0].dtype)
        known = {"_local_scalar_dense": True, "_fused_sgd_": None}  # no kernels for meta
        return known[name] if name in known else call(*args, **kwargs)

    def _by_mask(self, name: str, args: Any) -> bool:
        indices = tree_leaves(args[1]) if name in ("index", "index_put", "index_put_") else ()
        return any(isinstance(one, Tensor) and one.dtype == torch.bool for one in indices)

    def _crosses(self, name: str, args: Any, kwargs: Any) -> bool:
        """A transfer that is not asynchronous."""
        if name not in ("_to_copy", "copy_") or kwargs.get("non_blocking"):
            return False
        other = args[1].device if name == "copy_" else kwargs.get("device") or args[0].device
        return torch.device(other).type != args[0].device.type


class Uploads(TorchFunctionMode):
    """Notes numbers and lists of Python that become tensors of the GPU, inside of one operator."""

    def __init__(self, found: list[str]) -> None:
        super().__init__()
        self.found = found

    def __torch_function__(self, call: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        answer, name = call(*args, **(kwargs or {})), getattr(call, "__name__", "")
        made = name in ("tensor", "new_tensor") and answer.is_meta
        if made or (name == "__getitem__" and args[0].is_meta and self._has_list(args[1])):
            self.found.append(name)
        return answer

    def _has_list(self, index: Any) -> bool:
        return any(
            isinstance(one, list) for one in (index if isinstance(index, tuple) else [index])
        )


@contextmanager
def noted() -> Iterator[list[str]]:
    """The calls within it that would wait for the GPU. Numbers read of it are true, or 1."""
    found: list[str] = []
    with Uploads(found), Calls(found):
        yield found


@pytest.fixture(autouse=True)
def fused_on_meta(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch's fused optimizers compute shapes there, but refuse to begin."""
    adam = sys.modules["torch.optim.adam"]  # hidden by the package
    monkeypatch.setattr(adam, "_device_dtype_check_for_fused", lambda *_: None)


def _engine(method: str, optim: OptimConfig, **train: Any) -> Engine:
    encoder = (
        "caffe_resnet14" if getattr(optim, "sgd_multiplicity", "none") != "none" else "resnet18"
    )
    model = {"architecture": "deeplab_v2", "encoder": encoder, "weights": "none", "norm": "train"}
    values = {**small_method(method), **NEEDED.get(method, {}), **HEAVY.get(method, {})}
    with torch.device("meta"):
        built = build_method(values, build_segmenter({**model, "output_stride": 8}, 4))
    return Engine(built, TrainConfig(steps=10, **train), optim, GPU)


def _batches(method: str) -> tuple[Batch, Batch]:
    images = torch.zeros(2, 3, 64, 64, device=GPU)
    labels = torch.zeros(2, 64, 64, dtype=torch.int64, device=GPU)
    target_labels = labels if METHODS[method].labels_target() else None
    return Batch(images, labels, ("a", "b")), Batch(images, target_labels, ("c", "d"))


def _waits(engine: Engine, method: str) -> list[str]:
    """Those of a step, after one that may have to wait once."""
    with noted():
        engine.step(*_batches(method))
    with noted() as found:
        engine.step(*_batches(method))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_no_method_waits_for_the_device(method: str) -> None:
    train = {"clip_norm": 1.0, "ema": MovingAverageConfig(), "accumulate": 2}
    assert _waits(_engine(method, SGDConfig(), **train), method) == []


@pytest.mark.parametrize(
    "optim",
    [
        SGDConfig(sgd_multiplicity="official", adam="legacy"),
        SGDConfig(sgd_multiplicity="legacy"),
        AdamWConfig(name="adamw"),
    ],
    ids=lambda config: f"{config.name} {config.sgd_multiplicity} {config.adam}",
)
def test_no_optimizer_waits_for_the_device(optim: OptimConfig) -> None:
    assert _waits(_engine("advent", optim), "advent") == []


def test_a_step_that_is_logged_waits_once() -> None:
    engine = _engine("source_only", SGDConfig(), log_every_steps=2)
    assert len(_waits(engine, "source_only")) == 1


@pytest.mark.parametrize(
    "waiting",
    [
        lambda tensor: float(tensor.sum()),
        lambda tensor: tensor[[0, 1]],
        lambda tensor: tensor.new_tensor([1.0, 2.0]),
        lambda tensor: tensor.cpu(),
        lambda tensor: tensor[:, [0, 1]],
        lambda tensor: tensor[tensor > 0],
        lambda tensor: torch.tensor(1.0, device=GPU),
        lambda tensor: torch.ones(3).to(GPU),
        lambda tensor: torch.zeros(2, device=GPU).copy_(torch.ones(2)),
    ],
)
def test_what_waits_is_seen(waiting: Any) -> None:
    with noted() as found, suppress(NotImplementedError):  # what has no shape without values
        waiting(torch.zeros(3, 3, device=GPU))
    assert len(found) == 1


def test_what_does_not_wait_is_not_seen() -> None:
    with noted() as found:
        one = torch.zeros(3, device=GPU)
        torch.where(one > 0, one, 1.0)[1:].copy_(one[:2])
        sent(torch.ones(3), GPU)
    assert found == []
