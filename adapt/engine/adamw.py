"""AdamW (Loshchilov & Hutter, Decoupled Weight Decay Regularization, ICLR 2019)."""

from typing import Any, ClassVar, Literal

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
    decay_norms: bool = Field(
        True,
        description="Weight decay of the norms' gamma and beta too (DAFormer and MIC: false with a "
        "transformer, true with a ResNet).",
    )


class AdamW(SegmenterOptimizer):
    """`torch.optim.AdamW`, each parameter once."""

    Config: ClassVar[type[OptimConfig]] = AdamWConfig

    @staticmethod
    def build(config: AdamWConfig, segmenter: Segmenter) -> Optimizer:
        """As the contract says."""
        groups = moved_once(config, segmenter)
        if not config.decay_norms:
            groups = [part for group in groups for part in _norms_apart(group, segmenter)]
        return torch.optim.AdamW(groups, weight_decay=config.weight_decay)


def _norms_apart(group: dict[str, Any], segmenter: Segmenter) -> list[dict[str, Any]]:
    """The group, and a group of its norms' parameters without weight decay."""
    norms = {
        id(parameter)
        for module in segmenter.modules()
        if "Norm" in type(module).__name__
        for parameter in module.parameters(recurse=False)
    }
    parts: dict[bool, list[Any]] = {False: [], True: []}
    for parameter in group["params"]:
        parts[id(parameter) in norms].append(parameter)
    own = {**group, "params": parts[False]}
    undecayed = {**group, "params": parts[True], "weight_decay": 0.0}
    return [part for part in (own, undecayed) if part["params"]]
