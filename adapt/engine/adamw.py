"""AdamW (Loshchilov & Hutter, Decoupled Weight Decay Regularization, ICLR 2019)."""

from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import nn
from torch.optim import Optimizer

from adapt.engine.segmenter_optimizer import OptimConfig, SegmenterOptimizer, moved_once
from adapt.models.segmenter import Segmenter

OF_SGD = "Of sgd, without effect here; resolved specs of older versions have it."


class AdamWConfig(OptimConfig):
    """Keys of AdamW."""

    name: Literal["adamw"] = Field(description="AdamW with PyTorch's betas.")
    momentum: float = Field(0.9, ge=0, lt=1, description=OF_SGD)
    sgd_multiplicity: Literal["none"] = Field("none", description=OF_SGD)
    decay_norms: bool | Literal["head"] = Field(
        True,
        description="Weight decay of the norms' gamma and beta too. head: of the head's alone "
        "(DAFormer and MIC with a transformer); true: of all (the same with a ResNet, VFM-UDA); "
        "false: of none (SoMA, Rein).",
    )
    decay_biases: bool = Field(
        True, description="Weight decay of the biases of other layers too (all of these: true)."
    )


class AdamW(SegmenterOptimizer):
    """`torch.optim.AdamW`, fused, each parameter once."""

    Config: ClassVar[type[OptimConfig]] = AdamWConfig

    @staticmethod
    def build(config: AdamWConfig, segmenter: Segmenter) -> Optimizer:
        """As the contract says."""
        spared = _spared(config, segmenter)
        groups = [part for group in moved_once(config, segmenter) for part in _apart(group, spared)]
        return torch.optim.AdamW(groups, weight_decay=config.weight_decay, fused=True)


def _spared(config: AdamWConfig, segmenter: Segmenter) -> set[int]:
    """The ids of parameters without weight decay."""
    decayed = segmenter.decoder.modules() if config.decay_norms == "head" else ()
    excepted = {id(module) for module in decayed}
    spared: list[nn.Parameter] = []
    for module in segmenter.modules():
        if "Norm" in type(module).__name__:
            if config.decay_norms is not True and id(module) not in excepted:
                spared += module.parameters(recurse=False)
        elif not config.decay_biases:
            own = module.named_parameters(recurse=False)
            spared += [parameter for name, parameter in own if name.endswith("bias")]
    return {id(parameter) for parameter in spared}


def _apart(group: dict[str, Any], spared: set[int]) -> list[dict[str, Any]]:
    """The group, and a group of its spared parameters without weight decay."""
    parts: dict[bool, list[Any]] = {False: [], True: []}
    for parameter in group["params"]:
        parts[id(parameter) in spared].append(parameter)
    own = {**group, "params": parts[False]}
    undecayed = {**group, "params": parts[True], "weight_decay": 0.0}
    return [part for part in (own, undecayed) if part["params"]]
