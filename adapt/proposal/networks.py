"""The network, crop and batch proposed for the memory at hand.

Rows are tried from the largest; the first that fits, by the prediction that `check` makes, is
taken.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from adapt.check.memory import predicted_bytes
from adapt.spec.job_spec import JobSpec


@dataclass(frozen=True)
class Network:
    """A row: sections of the spec, the largest crop, and the batches a rank to try. `steps` is the
    length of a first training; `in_package`: its ImageNet weights are installed with SegAdapt.
    """

    model: Mapping[str, Any]
    optim: Mapping[str, Any]
    train: Mapping[str, Any]
    crop_px: int
    batches: tuple[int, ...]
    steps: int
    needs_gpu: bool = True
    in_package: bool = False


class Choice(NamedTuple):
    """A network with a batch a rank and a crop in pixels, and the bytes that a step needs. `fits`:
    whether the memory has them."""

    network: Network
    batch: int
    crop_hw: tuple[int, int]
    needed: int
    fits: bool


_SGD = {"name": "sgd", "lr": 2.5e-4}
_BISENET = {"architecture": "bisenet", "encoder": "tf_efficientnet_lite0", "norm": "frozen"}
_ADAMW = {"name": "adamw", "lr": 1e-4, "weight_decay": 0.01, "head_lr_factor": 5}

NETWORKS = (
    Network(
        {"architecture": "deeplab_v2", "encoder": "resnet101"},
        _SGD,
        {"precision": "bf16"},
        crop_px=512,
        batches=(2,),
        steps=40_000,
    ),
    Network(
        {"architecture": "deeplab_v2", "encoder": "resnet50"},
        _SGD,
        {"precision": "bf16"},
        crop_px=512,
        batches=(2, 1),
        steps=40_000,
    ),
    Network(_BISENET, _ADAMW, {}, crop_px=512, batches=(4, 2, 1), steps=20_000, in_package=True),
    Network(
        _BISENET,
        _ADAMW,
        {},
        crop_px=256,
        batches=(2,),
        steps=2_000,
        needs_gpu=False,
        in_package=True,
    ),
)
"""DACS's network and settings, a smaller one, and the one that trains on CPU cores (the recipe of
job_specs/town_to_camvid), whose ImageNet weights come in a package."""

CROP_STEP_PX = 32
"""The deepest stage's stride."""


def proposed_network(
    memory_bytes: float | None,
    size_hw: tuple[int, int],
    num_ranks: int,
    job_of: Callable[[Network, int, tuple[int, int]], JobSpec],
) -> Choice:
    """The first row that fits the GPU's memory, without a GPU (None) the first that needs none.

    `size_hw` is the least height and width of both domains; `job_of` makes the job of a network, a
    batch over all ranks and a crop. Takes seconds a try. Where nothing fits, the last try.
    """
    for network, batch in _tries(memory_bytes):
        crop_hw = crop_of(size_hw, network.crop_px)
        job = job_of(network, batch * num_ranks, crop_hw)
        needed = predicted_bytes(job, num_ranks).needed
        choice = Choice(network, batch, crop_hw, needed, _fits(needed, memory_bytes))
        if choice.fits:
            break
    return choice


def _tries(memory_bytes: float | None) -> Iterator[tuple[Network, int]]:
    for network in NETWORKS:
        if memory_bytes is not None or not network.needs_gpu:
            yield from ((network, batch) for batch in network.batches)


def _fits(needed: int, memory_bytes: float | None) -> bool:
    return memory_bytes is None or needed <= memory_bytes


def crop_of(size_hw: tuple[int, int], most_px: int) -> tuple[int, int]:
    """The largest crop of whole strides within the images; of smaller images all of them."""
    height, width = (min(side, most_px) for side in size_hw)
    return _whole(height), _whole(width)


def _whole(side: int) -> int:
    return side // CROP_STEP_PX * CROP_STEP_PX if side >= 2 * CROP_STEP_PX else side
