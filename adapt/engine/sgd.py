"""SGD with momentum, as in both papers: each parameter once a step, or as often as their programs
list it."""

from collections.abc import Iterable
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.sgd import sgd

from adapt.engine.repeated_sgd import LAWS, RepeatedSGD
from adapt.engine.segmenter_optimizer import (
    OptimConfig,
    SegmenterOptimizer,
    moved_once,
    parameter_groups,
)
from adapt.models.segmenter import Segmenter
from adapt.ranks import local_part


class SGDConfig(OptimConfig):
    """Keys of SGD."""

    name: Literal["sgd"] = Field("sgd", description="SGD with momentum (both papers).")
    momentum: float = Field(
        0.9, ge=0, lt=1, description="Momentum, without Nesterov (both programs)."
    )
    sgd_multiplicity: Literal["none", "official", "legacy"] = Field(
        "none",
        description="Updates of a backbone parameter in one step. none: one; official: as "
        "often as the papers' programs list it (caffe_resnet*: conv1 once, most 3 times, shortcuts "
        "4 times), as they run on today's PyTorch; legacy: the same on PyTorch up to 1.4, where "
        "weight decay piled up too, which gave the published numbers.",
    )


class FusedSGD(Optimizer):
    """`torch.optim.SGD`, fused, of whole and sharded parameters alike.

    Momentum begins at 0, which is the same; in PyTorch's it begins with whatever the memory held
    where the first step is refused.
    """

    _step_supports_amp_scaling = True

    def __init__(
        self, groups: Iterable[dict[str, Any]], *, lr: float, momentum: float, weight_decay: float
    ) -> None:
        super().__init__(groups, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Move every parameter that has a gradient."""
        assert closure is None, "a step here has several backward passes, none of them a closure"
        for group in self.param_groups:
            moved = [parameter for parameter in group["params"] if parameter.grad is not None]
            sgd(
                [local_part(parameter) for parameter in moved],
                [local_part(parameter.grad) for parameter in moved],
                [self._momentum(parameter, group["momentum"]) for parameter in moved],
                fused=True,
                found_inf=getattr(self, "found_inf", None),
                weight_decay=group["weight_decay"],
                momentum=group["momentum"],
                lr=group["lr"],
                dampening=0,
                nesterov=False,
                maximize=False,
            )

    def _momentum(self, parameter: Tensor, momentum: float) -> Tensor | None:
        if not momentum:
            return None
        state = self.state[parameter]
        if state.get("momentum_buffer") is None:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        return local_part(state["momentum_buffer"])


class SGD(SegmenterOptimizer):
    """`FusedSGD`, or `RepeatedSGD` by one of its laws."""

    Config: ClassVar[type[OptimConfig]] = SGDConfig

    @staticmethod
    def build(config: SGDConfig, segmenter: Segmenter) -> Optimizer:
        """As the contract says. Raises `JobError` where `sgd_multiplicity` asks for a program that
        never ran this encoder.
        """
        options: dict[str, Any] = {
            "lr": config.lr,
            "momentum": config.momentum,
            "weight_decay": config.weight_decay,
        }
        law = LAWS.get(config.sgd_multiplicity)
        if law is None:
            return FusedSGD(moved_once(config, segmenter), **options)
        encoder = segmenter.encoder_parameters_by_multiplicity()
        return RepeatedSGD(parameter_groups(config, segmenter, encoder), law=law, **options)
