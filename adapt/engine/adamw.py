"""AdamW (Loshchilov & Hutter, Decoupled Weight Decay Regularization, ICLR 2019)."""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch.optim import Optimizer

from adapt.engine.segmenter_optimizer import OptimConfig, SegmenterOptimizer, moved_once
from adapt.models.segmenter import Segmenter

OF_SGD = "Of sgd, without effect here; resolved specs of older versions have it."


class AdamWConfig(OptimConfig):
    """Keys of AdamW."""

    name: Literal["adamw"] = Field(description="AdamW with PyTorch's betas.")
    momentum: float = Field(0.9, ge=0, lt=1, description=OF_SGD)
    sgd_multiplicity: Literal["none"] = Field("none", description=OF_SGD)


class AdamW(SegmenterOptimizer):
    """`torch.optim.AdamW`, each parameter once."""

    Config: ClassVar[type[OptimConfig]] = AdamWConfig

    @staticmethod
    def build(config: AdamWConfig, segmenter: Segmenter) -> Optimizer:
        """As the contract says."""
        groups = moved_once(config, segmenter)
        return torch.optim.AdamW(groups, weight_decay=config.weight_decay)
