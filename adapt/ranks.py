"""Every collective of a job over several ranks; alone, each does nothing.

A rank whose peer is gone cannot continue: it raises `RankLost`, whatever the backend's error. Flags
and texts travel over gloo in the CPU's memory, so agreeing on them never waits for a GPU.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from functools import wraps
from typing import ParamSpec, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from adapt.accelerator import is_accelerator
from adapt.errors import Interrupted
from adapt.places import Place

Given = ParamSpec("Given")
Answer = TypeVar("Answer")

BUCKET_BYTES = 25_000_000

_ALONE: ContextVar[bool] = ContextVar("alone", default=False)

_LOST = ("gloo/transport", "by peer", "timed out", "Timed out")


class RankLost(Interrupted):
    """Another rank is gone; the same command resumes from the last stored checkpoint."""


def backend_of(device: torch.device) -> str:
    """torch.distributed's backends: gloo for the CPU's tensors, and the device's own for its."""
    if not is_accelerator(device):
        return "gloo"
    return f"cpu:gloo,{device.type}:{dist.get_default_backend_for_device(device.type)}"


@contextmanager
def open_ranks(place: Place, device: torch.device, timeout: timedelta) -> Iterator[None]:
    """The process group, where torchrun started several ranks; ranks wait `timeout` for one
    another, also before they leave: a rank whose peer is gone may die in its own end."""
    if place.num_ranks == 1:
        yield
        return
    dist.init_process_group(backend_of(device), timeout=timeout)
    try:
        yield
        barrier()
    finally:
        dist.destroy_process_group()


@contextmanager
def alone() -> Iterator[None]:
    """Within it this process is the only rank: for work that its peers do not take part in."""
    token = _ALONE.set(True)
    try:
        yield
    finally:
        _ALONE.reset(token)


def _together() -> bool:
    """True where there are peers that take part."""
    return dist.is_initialized() and not _ALONE.get()


def num_ranks() -> int:
    """How many processes train together."""
    return dist.get_world_size() if _together() else 1


def rank() -> int:
    """This process's position among `num_ranks()`."""
    return dist.get_rank() if _together() else 0


def _peers_needed(collective: Callable[Given, Answer]) -> Callable[Given, Answer]:
    """The collective, which raises `RankLost` where a peer is gone."""

    @wraps(collective)
    def guarded(*given: Given.args, **named: Given.kwargs) -> Answer:
        try:
            return collective(*given, **named)
        except RuntimeError as error:
            if not _is_lost_peer(error):
                raise
            raise RankLost(
                "another rank is gone or did not answer in time; the same command resumes from the "
                f"last stored checkpoint [{str(error).splitlines()[0]}]"
            ) from error

    return guarded


def _is_lost_peer(error: RuntimeError) -> bool:
    """True where a collective failed by a lost peer rather than by a bug or a full memory.

    NCCL has its own errors; gloo's are plain, and those of its connections name their source file,
    as does the one for ranks whose tensors differ, a bug that a restart would only repeat.
    """
    text = str(error)
    return isinstance(error, dist.DistError) or (
        any(sign in text for sign in _LOST) and "enforce fail" not in text
    )


@_peers_needed
def sum_over_ranks(tensor: Tensor) -> Tensor:
    """The sum of all ranks' tensors, without gradient, as a tensor of its own where there are
    several ranks."""
    if not _together():
        return tensor.detach()
    total = tensor.detach().clone()
    dist.all_reduce(total)
    return total


def local_part(tensor: Tensor) -> Tensor:
    """This rank's part of a tensor that ranks hold in parts; any other as it is."""
    to_local = getattr(tensor, "to_local", None)
    return tensor if to_local is None else to_local()


def whole(tensor: Tensor) -> Tensor:
    """A tensor that ranks hold in parts, gathered, on all of them; any other as it is."""
    full_tensor = getattr(tensor, "full_tensor", None)
    return tensor if full_tensor is None else full_tensor()


def mean_over_ranks(tensor: Tensor) -> Tensor:
    """The mean of all ranks' tensors, without gradient; alone, the tensor itself."""
    return sum_over_ranks(tensor) / num_ranks() if _together() else tensor.detach()


@_peers_needed
def average_over_ranks(tensors: Sequence[Tensor]) -> None:
    """Overwrite tensors, the same on all ranks but for values, with their means over ranks.

    They travel in buckets, so that packing one hides behind sending another.
    """
    if not _together():
        return
    sent = []
    for bucket in _buckets(tensors):
        flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
        sent.append((bucket, flat, dist.all_reduce(flat, async_op=True)))
    for bucket, flat, work in sent:
        work.wait()
        parts = flat.div_(num_ranks()).split([tensor.numel() for tensor in bucket])
        for tensor, part in zip(bucket, parts, strict=True):
            tensor.copy_(part.view_as(tensor))


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    for tensor in tensors:
        if bucket and (
            sum(one.nbytes for one in bucket) > BUCKET_BYTES or tensor.dtype != bucket[0].dtype
        ):
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket


@_peers_needed
def any_rank(*flags: bool) -> tuple[bool, ...]:
    """For each flag, whether any rank's is set; all ranks get the same answers."""
    if not _together():
        return flags
    unset = torch.tensor([int(not flag) for flag in flags])
    dist.all_reduce(unset, op=dist.ReduceOp.MIN)
    return tuple(not value for value in unset.tolist())


@_peers_needed
def on_all_ranks(flag: Tensor) -> Tensor:
    """A bool without dimensions: true where all ranks' are. It stays on its device, where nothing
    waits for a GPU."""
    if not _together():
        return flag.detach()
    together = flag.detach().to(torch.uint8)
    dist.all_reduce(together, op=dist.ReduceOp.MIN)
    return together.bool()


@_peers_needed
def share_from_leader(tensors: Iterable[Tensor]) -> None:
    """Overwrite tensors with the leader's."""
    if _together():
        for tensor in tensors:
            dist.broadcast(tensor, src=0)


@_peers_needed
def share_text(text: str | None) -> str | None:
    """The leader's text."""
    if not _together():
        return text
    box = [text]
    dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
    return box[0]


@_peers_needed
def gather_keys(keys: tuple[str, ...]) -> tuple[str, ...]:
    """All ranks' keys of samples, in the order of ranks."""
    if not _together():
        return keys
    found: list[tuple[str, ...]] = [()] * num_ranks()
    dist.all_gather_object(found, keys)
    return tuple(key for part in found for key in part)


@_peers_needed
def barrier() -> None:
    """Wait for all ranks."""
    if _together():
        dist.all_reduce(torch.zeros(1))
