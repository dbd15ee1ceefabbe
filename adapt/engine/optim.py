"""The optimizer of each network, and its learning rate at each step.

One optimizer for the segmentation network (encoder at `lr`, head at `head_lr_factor` times that)
and one Adam for each adversary, all under the same poly law. Defaults are those of the programs of
AdaptSegNet (CVPR 2018) and ADVENT (CVPR 2019), but for one: each parameter is moved once a step,
where those programs list backbone parameters several times (`sgd_multiplicity`).
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Any, Literal, NamedTuple

import torch
from pydantic import Field, model_validator
from torch import nn
from torch.optim import Optimizer

from adapt.config.section import Section
from adapt.config.validation import Mistake
from adapt.engine.repeated_sgd import LAWS, RepeatedSGD
from adapt.engine.schedule import poly
from adapt.errors import JobError
from adapt.methods.method import Method
from adapt.models.segmenter import Segmenter

Share = Annotated[float, Field(ge=0, lt=1)]


class OptimConfig(Section):
    """Optimizers and schedule."""

    name: Literal["sgd", "adamw"] = Field(
        "sgd", description="Optimizer of the segmentation network (both papers: sgd)."
    )
    lr: float = Field(
        2.5e-4, gt=0, description="Learning rate of the encoder at the start (both papers)."
    )
    momentum: float = Field(
        0.9, ge=0, lt=1, description="Momentum of sgd, without Nesterov (both programs)."
    )
    weight_decay: float = Field(
        5e-4,
        ge=0,
        description="Weight decay of the segmentation network, biases too (both papers).",
    )
    head_lr_factor: float = Field(
        10.0, gt=0, description="Learning rate of the head over the encoder's (both programs)."
    )
    adversary_lr: float = Field(
        1e-4, gt=0, description="Adam's learning rate for each adversary (both papers)."
    )
    adversary_betas: tuple[Share, Share] = Field(
        (0.9, 0.99), description="Adam's betas for each adversary (both papers)."
    )
    sgd_multiplicity: Literal["none", "official", "legacy"] = Field(
        "none",
        description="Updates of a backbone parameter by sgd in one step. none: one; official: as "
        "often as the papers' programs list it (caffe_resnet*: conv1 once, most 3 times, shortcuts "
        "4 times), as they run on today's PyTorch; legacy: the same on PyTorch up to 1.4, where "
        "weight decay piled up too, which gave the published numbers.",
    )
    power: float = Field(0.9, ge=0, description="Exponent of the poly schedule (both papers).")
    schedule_steps: int | None = Field(
        None,
        ge=1,
        description="Steps after which the rate would be 0; null: train.steps. The papers' "
        "programs have 250000 and stop at 150000 and 120000.",
    )
    warmup_steps: int = Field(0, ge=0, description="Steps of linear warm-up (both papers: none).")

    @model_validator(mode="after")
    def _multiplicity_is_of_sgd(self) -> "OptimConfig":
        known = OPTIMIZERS[self.name].multiplicities
        if self.sgd_multiplicity not in known:
            raise Mistake(
                f"sgd_multiplicity: expected {' or '.join(known)} with name {self.name}, "
                f"got {self.sgd_multiplicity}",
                fix="set name: sgd, whose updates it repeats",
            )
        return self


Build = Callable[[OptimConfig, Segmenter], Optimizer]


class SegmenterOptimizer(NamedTuple):
    """A row of `OPTIMIZERS`: how it is built, by each `sgd_multiplicity` that it has."""

    multiplicities: Mapping[str, Build]

    def build(self, config: OptimConfig, segmenter: Segmenter) -> Optimizer:
        """The optimizer over the trainable parameters of the segmentation network.

        Raises `JobError` where `sgd_multiplicity` asks for a program that never ran this encoder.
        """
        return self.multiplicities[config.sgd_multiplicity](config, segmenter)


def build_optimizers(config: OptimConfig, method: Method) -> dict[str, Optimizer]:
    """`segmenter` and one Adam for each of `method.adversaries()`, by the adversary's name.

    Raises `JobError` where `sgd_multiplicity` asks for a program that never ran this encoder.
    """
    optimizers: dict[str, Optimizer] = {
        "segmenter": OPTIMIZERS[config.name].build(config, method.segmenter)
    }
    for name, adversary in method.adversaries().items():
        optimizers[name] = torch.optim.Adam(
            adversary.parameters(), lr=config.adversary_lr, betas=config.adversary_betas
        )
    for optimizer in optimizers.values():
        for group in optimizer.param_groups:
            group["base_lr"] = group["lr"]
    return optimizers


def set_lr(
    optimizers: Mapping[str, Optimizer], config: OptimConfig, step: int, total_steps: int
) -> None:
    """Give every parameter group its learning rate for the step after `step` done ones.

    Raises `JobError` as `schedule_length` does.
    """
    length = schedule_length(config, total_steps)
    for optimizer in optimizers.values():
        for group in optimizer.param_groups:
            group["lr"] = poly(step, group["base_lr"], length, config.power, config.warmup_steps)


def schedule_length(config: OptimConfig, total_steps: int) -> int:
    """Steps of the poly schedule. Raises `JobError` where it would end before the training does."""
    length = config.schedule_steps or total_steps
    if length < total_steps:
        raise JobError(
            f"optim.schedule_steps: expected at least train.steps ({total_steps}), got {length}: "
            "the learning rate would be 0 from there on",
            fix=f"write {total_steps} or more",
        )
    return length


def _adamw(config: OptimConfig, segmenter: Segmenter) -> Optimizer:
    return torch.optim.AdamW(_once(config, segmenter), weight_decay=config.weight_decay)


def _sgd(config: OptimConfig, segmenter: Segmenter) -> Optimizer:
    return torch.optim.SGD(_once(config, segmenter), **_sgd_options(config))


def _repeated_sgd(law: str, config: OptimConfig, segmenter: Segmenter) -> Optimizer:
    groups = _groups(config, segmenter, segmenter.encoder_parameters_by_multiplicity())
    return RepeatedSGD(groups, law=LAWS[law], **_sgd_options(config))


def _sgd_options(config: OptimConfig) -> dict[str, Any]:
    return {"lr": config.lr, "momentum": config.momentum, "weight_decay": config.weight_decay}


def _once(config: OptimConfig, segmenter: Segmenter) -> list[dict[str, Any]]:
    return _groups(config, segmenter, {1: segmenter.parameter_groups()["encoder"]})


def _groups(
    config: OptimConfig, segmenter: Segmenter, encoder: Mapping[int, list[nn.Parameter]]
) -> list[dict[str, Any]]:
    """Encoder and head; the encoder in one group for each multiplicity."""
    groups = [
        {"params": parameters, "lr": config.lr, "name": "encoder", "multiplicity": multiplicity}
        for multiplicity, parameters in encoder.items()
    ]
    head, head_lr = segmenter.parameter_groups()["head"], config.lr * config.head_lr_factor
    groups.append({"params": head, "lr": head_lr, "name": "head", "multiplicity": 1})
    return [group for group in groups if group["params"]]


OPTIMIZERS: dict[str, SegmenterOptimizer] = {
    "sgd": SegmenterOptimizer(
        {
            "none": _sgd,
            "official": partial(_repeated_sgd, "official"),
            "legacy": partial(_repeated_sgd, "legacy"),
        }
    ),
    "adamw": SegmenterOptimizer({"none": _adamw}),
}
"""By the spec's `optim.name`."""
