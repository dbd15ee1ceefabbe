"""SGD with momentum, as in both papers: each parameter once a step, or as often as their programs
list it."""

from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch.optim import Optimizer

from adapt.engine.repeated_sgd import LAWS, RepeatedSGD
from adapt.engine.segmenter_optimizer import (
    OptimConfig,
    SegmenterOptimizer,
    moved_once,
    parameter_groups,
)
from adapt.models.segmenter import Segmenter


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


class SGD(SegmenterOptimizer):
    """`torch.optim.SGD`, or `RepeatedSGD` by one of its laws."""

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
            return torch.optim.SGD(moved_once(config, segmenter), **options)
        encoder = segmenter.encoder_parameters_by_multiplicity()
        return RepeatedSGD(parameter_groups(config, segmenter, encoder), law=law, **options)
