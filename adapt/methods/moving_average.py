"""An exponential moving average (EMA) of the segmentation network.

Tarvainen and Valpola, Mean teachers are better role models, NeurIPS 2017. As the teacher of
self-training it makes labels; of any method it can be evaluated and saved beside the student.
"""

from copy import deepcopy

import torch
from pydantic import Field
from torch import Tensor, nn

from adapt.config.section import Section
from adapt.models.segmenter import Segmenter
from adapt.ranks import local_part


class MovingAverageConfig(Section):
    """A moving average of the student."""

    alpha: float = Field(
        0.999,
        ge=0,
        lt=1,
        description="Share of the old average in the new one, after a ramp min(1 - 1/(t + 1), "
        "alpha) over steps t (DAFormer, MIC: 0.999; DACS: 0.99).",
    )


class MovingAverage(nn.Module):
    """A moving average of a segmentation network, which no optimizer and no gradient reaches.

    With `statistics` the running statistics of norms are averaged too. What does not learn in the
    student is no average, but a copy, or the student's own (`share`).
    """

    def __init__(
        self, config: MovingAverageConfig, student: Segmenter, statistics: bool = True
    ) -> None:
        super().__init__()
        self.alpha, self.statistics = config.alpha, statistics
        named = student.named_parameters()
        self._fixed = frozenset(name for name, one in named if not one.requires_grad)
        self.network = deepcopy(student).requires_grad_(False)

    def share(self, student: Segmenter) -> None:
        """Hold the student's parameters in place of equal ones that never move, which saves their
        memory."""
        for name in self._fixed:
            module, _, own = name.rpartition(".")
            setattr(self.network.get_submodule(module), own, student.get_parameter(name))

    def moving(self, network: Segmenter | None = None) -> list[nn.Parameter]:
        """The parameters that are averages, or those of another network that have their names."""
        named = (network or self.network).named_parameters()
        return [parameter for name, parameter in named if name not in self._fixed]

    @torch.no_grad()
    def follow(self, student: Segmenter, step: int, taken: Tensor | None = None) -> None:
        """Move towards the student once `step` optimizer steps are done; where `taken`, a bool on
        the device, is false, stay."""
        share = 1 - min(1 - 1 / (step + 1), self.alpha)
        own, aims = self._averaged(self.network), self._averaged(student)
        if taken is None:
            torch._foreach_lerp_(own, aims, share)
            return
        for tensor, aim in zip(own, aims, strict=True):
            tensor.lerp_(torch.where(taken, aim, tensor), share)

    def _averaged(self, network: Segmenter) -> list[Tensor]:
        tensors: list[Tensor] = [*self.moving(network)]
        if self.statistics:
            tensors += [buffer for buffer in network.buffers() if buffer.is_floating_point()]
        return [local_part(tensor) for tensor in tensors]


def averages(networks: nn.Module) -> list[MovingAverage]:
    """Those among the networks."""
    return [module for module in networks.modules() if isinstance(module, MovingAverage)]
