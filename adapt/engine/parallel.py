"""How ranks share the work of a step: each has all of every network, or a part.

Networks that are as large as the segmentation network (it, its averages and teachers, fixed
encoders) can be sharded. Adversaries are small: every rank has them, and their gradients are
averaged in either row.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from adapt.methods.method import AddOn, Method
from adapt.methods.moving_average import MovingAverage
from adapt.methods.pinned import pinned_networks
from adapt.models.encoders.encoder import Encoder
from adapt.models.segmenter import Segmenter
from adapt.ranks import (
    average_over_ranks,
    local_part,
    num_ranks,
    share_from_leader,
    whole,
)


class Averaging:
    """Every rank has all networks; ranks average their gradients once a step."""

    def share_frozen(self, method: Method, average: MovingAverage | None) -> None:
        """Let averages hold what is frozen in their network together with it."""
        method.share_fixed()
        if average is not None:
            average.share(method.segmenter)

    def shard(self, networks: nn.Module, device: torch.device) -> None:
        """Leave each rank its part of the networks' parameters."""

    def average(self, gradients: Sequence[Tensor]) -> None:
        """Overwrite gradients with their means over ranks."""
        average_over_ranks(gradients)

    @contextmanager
    def whole(self, network: nn.Module) -> Iterator[None]:  # noqa: ARG002 - of rows with parts
        """Within it a rank can use a network by itself."""
        yield

    def weights(self, network: nn.Module) -> dict[str, Tensor]:
        """A network's tensors by name, whole; the leader's on all ranks, or on the leader alone."""
        return network.state_dict()

    def empty(self, device: torch.device, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """A tensor to read one into that ranks held in parts."""
        return torch.empty(shape, dtype=dtype, device=device)

    def fitted(self, value: Any, own: Any) -> Any:  # noqa: ARG002 - of rows with parts
        """A saved tensor as this rank holds such as `own`."""
        return value


class FullySharded(Averaging):
    """Every rank has a part of the large networks' parameters, gradients and optimizer states
    (Zhao et al., PyTorch FSDP, VLDB 2023; `torch.distributed.fsdp.fully_shard`).

    A block's parameters are brought together for its passes alone. One rank by itself has all.
    """

    def share_frozen(self, method: Method, average: MovingAverage | None) -> None:
        """A parameter has one place where it is sharded."""
        if num_ranks() == 1:
            super().share_frozen(method, average)

    def shard(self, networks: nn.Module, device: torch.device) -> None:
        """Shard each block of the large networks, and what is around the blocks. The leader's
        parameters become those of all."""
        if num_ranks() == 1:
            return
        from torch.distributed.fsdp import fully_shard  # a second that other rows are spared

        options: Any = {"mesh": mesh(device.type), "reshard_after_forward": True}
        share_from_leader(parameter.data for parameter in networks.parameters())
        for network in (*large_networks(networks), *_of_add_ons(networks)):
            for part in _parts(network):
                fully_shard(part, **options)
            fully_shard(network, **options)

    def average(self, gradients: Sequence[Tensor]) -> None:
        """Those of sharded parameters are averages since the backward pass."""
        super().average([one for one in gradients if local_part(one) is one])

    @contextmanager
    def whole(self, network: nn.Module) -> Iterator[None]:
        """Ranks evaluate different numbers of images, so all of them have the whole network."""
        modules = _sharded_modules(network)
        for module in modules:
            module.set_reshard_after_forward(False, recurse=False)
            module.unshard()
        try:
            yield
        finally:
            for module in modules:
                module.reshard()
                module.set_reshard_after_forward(True, recurse=False)

    def weights(self, network: nn.Module) -> dict[str, Tensor]:
        """Gathered tensor by tensor, and kept by the leader alone, in the CPU's memory."""
        kept = {}
        for name, tensor in network.state_dict().items():
            if local_part(tensor) is tensor:
                kept[name] = tensor
            else:
                gathered = whole(tensor)
                kept[name] = gathered.cpu() if dist.get_rank() == 0 else gathered[:0]
        return kept

    def empty(self, device: torch.device, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """This rank's part of it."""
        if num_ranks() == 1:
            return super().empty(device, shape, dtype)
        from torch.distributed.tensor import Shard, empty

        parts: Tensor = empty(
            *shape, dtype=dtype, device_mesh=mesh(device.type), placements=[Shard(0)]
        )
        return parts

    def fitted(self, value: Any, own: Any) -> Any:
        """The rank's part of a tensor that was saved whole."""
        sharded = hasattr(own, "to_local") and not hasattr(value, "to_local")
        if not sharded or getattr(value, "shape", None) != own.shape:
            return value
        from torch.distributed.tensor import distribute_tensor

        value = value.to(own.device)
        return distribute_tensor(value, own.device_mesh, own.placements, src_data_rank=None)


PARALLEL: dict[str, type[Averaging]] = {"average": Averaging, "fsdp2": FullySharded}
"""By the spec's `train.parallel`."""


def large_networks(networks: nn.Module) -> list[nn.Module]:
    """Segmentation networks and encoders that are no part of one, those pinned too."""
    found = [one for child in networks.children() for one in _outermost(child)]
    return [*found, *pinned_networks(networks)]


def _of_add_ons(networks: nn.Module) -> list[nn.Module]:
    """Learning modules of add-ons: an optimizer's tensors are all sharded or all whole."""
    add_ons = [module for module in networks.modules() if isinstance(module, AddOn)]
    children = [child for add_on in add_ons for child in add_on.children()]
    return [one for one in children if any(p.requires_grad for p in one.parameters())]


def _parts(network: nn.Module) -> list[nn.Module]:
    """The modules that are called by themselves, innermost first: blocks, and the encoder."""
    encoder = network.encoder if isinstance(network, Segmenter) else network
    blocks = list(encoder.blocks()) if isinstance(encoder, Encoder) else []
    return blocks if encoder is network else [*blocks, encoder]


def _outermost(module: nn.Module) -> Iterator[nn.Module]:
    if isinstance(module, Segmenter | Encoder):
        yield module
    else:
        for child in module.children():
            yield from _outermost(child)


def _sharded_modules(network: nn.Module) -> list[Any]:
    return [module for module in network.modules() if hasattr(module, "unshard")]


def mesh(device_type: str) -> Any:
    """All ranks in a row."""
    return _mesh(device_type, dist.group.WORLD)


@lru_cache(maxsize=4)
def _mesh(device_type: str, _group: Any) -> Any:
    from torch.distributed.device_mesh import init_device_mesh

    return init_device_mesh(device_type, (num_ranks(),))
