"""Weights that no job step moves, held in bf16: half the memory, and the same numbers.

Under autocast to bf16 the inputs of convolutions and linear layers are rounded to bf16 anyway, the
weights of frozen ones at every use. Held rounded, they are what the step computes with. All other
tensors (norms, position tables, scales) stay in float32, and so does a teacher's moving average of
what learns: its small moves would be lost in bf16.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from adapt.errors import JobError
from adapt.methods.moving_average import averages

KEY = "train.frozen_weights"
LAYERS = (nn.Linear, _ConvNd)
"""The layers whose weights autocast rounds."""


class FrozenWeights:
    """The weights of `networks` that neither an optimizer nor a moving average moves."""

    def __init__(self, networks: nn.Module) -> None:
        self.parameters = list(_frozen(networks))

    def narrow(self) -> None:
        """Hold them in bf16."""
        _convert(self.parameters, torch.bfloat16)

    def round_to_bf16(self) -> None:
        """Give them, in float32, the values that bf16 holds."""
        self.narrow()
        _convert(self.parameters, torch.float32)

    @contextmanager
    def widened(self, network: nn.Module) -> Iterator[None]:
        """Within it those of a network, which has to be whole, are in float32: it can be used
        without autocast. Their memory stays theirs: sharded ones are gathered there again."""
        held = {one: one.data for one in network.parameters() if one.dtype == torch.bfloat16}
        _convert(held, torch.float32)
        try:
            yield
        finally:
            for one, data in held.items():
                one.data = data


def _convert(parameters: Iterable[nn.Parameter], dtype: torch.dtype) -> None:
    for parameter in parameters:
        parameter.data = parameter.data.to(dtype)


def narrowed(networks: nn.Module) -> FrozenWeights:
    """The frozen weights, held in bf16 from now on. Raises `JobError` where nothing is frozen."""
    frozen = FrozenWeights(networks)
    if not frozen.parameters:
        raise JobError(
            f"{KEY}: expected fp32 in a job all of whose convolutions and linear layers learn, got "
            "bf16",
            fix=f"set {KEY}: fp32, or freeze the encoder",
        )
    frozen.narrow()
    return frozen


def _frozen(networks: nn.Module) -> Iterable[nn.Parameter]:
    """Each once."""
    moving = {id(one) for average in averages(networks) for one in average.moving()}
    found: dict[int, nn.Parameter] = {}
    for module in networks.modules():
        if isinstance(module, LAYERS):
            own = module.parameters(recurse=False)
            found |= {id(one): one for one in own if not one.requires_grad}
    return [one for one in found.values() if id(one) not in moving]


FROZEN: dict[str, Callable[[nn.Module], FrozenWeights]] = {"fp32": FrozenWeights, "bf16": narrowed}
"""By the spec's `train.frozen_weights`: the frozen weights of all networks, as they are held."""
