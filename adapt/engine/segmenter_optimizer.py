"""The optimizer of the segmentation network: what rows of `OPTIMIZERS` share.

An optimizer is a file with a config (an `OptimConfig`) and a `SegmenterOptimizer`, which is its
row. Adversaries have an Adam each, with keys that every row has.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from operator import itemgetter
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field
from torch import nn
from torch.optim import Optimizer

from adapt.config.section import Section
from adapt.engine.layer_decay import layer_shares
from adapt.models.segmenter import Segmenter

Share = Annotated[float, Field(ge=0, lt=1)]


class OptimConfig(Section):
    """Optimizers and schedule."""

    name: str = Field(
        "sgd", description="Optimizer of the segmentation network (both papers: sgd)."
    )
    lr: float = Field(
        2.5e-4, gt=0, description="Learning rate of the encoder at the start (both papers)."
    )
    weight_decay: float = Field(
        5e-4,
        ge=0,
        description="Weight decay of the segmentation network, biases too (both papers).",
    )
    weight_decay_end: float | None = Field(
        None,
        ge=0,
        description="Weight decay at the end of the schedule, reached along a cosine (SoMA: 1e-5 "
        "from 0.05); null: it stays.",
    )
    head_lr_factor: float = Field(
        10.0, gt=0, description="Learning rate of the head over the encoder's (both programs)."
    )
    layer_decay: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Learning rate of a block of the encoder over that of the next deeper one; lr "
        "is the last block's, and patch embedding and positions are one block more (VFM-UDA++: "
        "0.9, with head_lr_factor 10); null: lr for all.",
    )
    adversary_lr: float = Field(
        1e-4, gt=0, description="Adam's learning rate for each adversary (both papers)."
    )
    adversary_betas: tuple[Share, Share] = Field(
        (0.9, 0.99), description="Adam's betas for each adversary (both papers)."
    )
    adam: Literal["current", "legacy"] = Field(
        "current",
        description="Adam of each adversary. current: PyTorch's; legacy: that of PyTorch up to "
        "1.2, on which the papers' programs ran: epsilon is added before the bias correction, so "
        "small gradients move less in the first steps.",
    )
    power: float = Field(0.9, ge=0, description="Exponent of the poly schedule (both papers).")
    schedule_steps: int | None = Field(
        None,
        ge=1,
        description="Steps after which the rate would be 0; null: train.steps. The papers' "
        "programs have 250000 and stop at 150000 and 120000.",
    )
    warmup_steps: int = Field(0, ge=0, description="Steps of linear warm-up (both papers: none).")
    warmup: Literal["even", "daformer", "vfm_uda"] = Field(
        "even",
        description="Law of the warm-up. even: the schedule's rate times (steps done + 1) / "
        "warmup_steps; daformer: times a factor that climbs from warmup_ratio at the first step "
        "to 1 at warmup_steps (DAFormer, MIC, SegFormer); vfm_uda: from warmup_ratio of lr to lr "
        "itself at its last step, then the schedule (VFM-UDA).",
    )
    warmup_ratio: float = Field(
        1e-6,
        ge=0,
        le=1,
        description="Share of the rate in the first step (DAFormer, MIC: 1e-6; VFM-UDA: 1e-3); "
        "without effect with warmup even.",
    )


class SegmenterOptimizer(ABC):
    """A row of `OPTIMIZERS`. `Config` is its section of the job spec."""

    Config: ClassVar[type[OptimConfig]]

    @staticmethod
    @abstractmethod
    def build(config: Any, segmenter: Segmenter) -> Optimizer:
        """The optimizer over the trainable parameters of the segmentation network."""


def moved_once(config: OptimConfig, segmenter: Segmenter) -> list[dict[str, Any]]:
    """Parameter groups `encoder` and `head`, each parameter once."""
    return parameter_groups(config, segmenter, {1: segmenter.parameter_groups()["encoder"]})


def parameter_groups(
    config: OptimConfig, segmenter: Segmenter, encoder: Mapping[int, list[nn.Parameter]]
) -> list[dict[str, Any]]:
    """Encoder and head; the encoder in one group for each multiplicity and learning rate."""
    groups = [
        {"params": members, "lr": lr, "name": "encoder", "multiplicity": multiplicity}
        for multiplicity, parameters in encoder.items()
        for lr, members in _by_lr(config, segmenter, parameters)
    ]
    head, head_lr = segmenter.parameter_groups()["head"], config.lr * config.head_lr_factor
    groups.append({"params": head, "lr": head_lr, "name": "head", "multiplicity": 1})
    return [group for group in groups if group["params"]]


def _by_lr(
    config: OptimConfig, segmenter: Segmenter, parameters: list[nn.Parameter]
) -> list[tuple[float, list[nn.Parameter]]]:
    """Parameters of the encoder by their learning rate, the fastest first, which is logged."""
    if config.layer_decay is None:
        return [(config.lr, parameters)]
    shares = layer_shares(segmenter.encoder, config.layer_decay)
    groups: dict[float, list[nn.Parameter]] = {}
    for parameter in parameters:
        groups.setdefault(config.lr * shares[parameter], []).append(parameter)
    return sorted(groups.items(), key=itemgetter(0), reverse=True)
