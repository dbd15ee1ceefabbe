"""The optimizer of each network, and its learning rate at each step.

One optimizer for the segmentation network (encoder at `lr`, head at `head_lr_factor` times that)
and one Adam for each adversary, all under the same poly law. Defaults are those of the programs of
AdaptSegNet (CVPR 2018) and ADVENT (CVPR 2019), but for two: each parameter is moved once a step,
where those programs list backbone parameters several times (`sgd_multiplicity`), and Adam is
today's (`adam`).
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from adapt.config.section import one_of
from adapt.engine.adamw import AdamW
from adapt.engine.legacy_adam import LegacyAdam
from adapt.engine.schedule import cosine, poly
from adapt.engine.segmenter_optimizer import OptimConfig, SegmenterOptimizer
from adapt.engine.sgd import SGD
from adapt.errors import JobError
from adapt.methods.method import Method

OPTIMIZERS: dict[str, type[SegmenterOptimizer]] = {"sgd": SGD, "adamw": AdamW}
"""By the spec's `optim.name`."""

OptimSection: Any = one_of((row.Config for row in OPTIMIZERS.values()), "name", default="sgd")
"""The job spec's `optim`: the config of one of `OPTIMIZERS`."""

ADAMS: dict[str, Callable[..., Optimizer]] = {
    "current": partial(torch.optim.Adam, fused=True),
    "legacy": LegacyAdam,
}
"""By the spec's `optim.adam`."""


def build_optimizers(config: OptimConfig, method: Method) -> dict[str, Optimizer]:
    """`segmenter`, with a group for each of `method.add_ons`, and one Adam for each of
    `method.adversaries()`, by the adversary's name; one as the segmenter's for each of
    `method.learners()`.

    Raises `JobError` where `sgd_multiplicity` asks for a program that never ran this encoder.
    """
    optimizers = {"segmenter": OPTIMIZERS[config.name].build(config, method.segmenter)}
    for name, add_on in method.add_ons.items():
        learning = [parameter for parameter in add_on.parameters() if parameter.requires_grad]
        head_lr = config.lr * config.head_lr_factor
        group = {"params": learning, "lr": head_lr, "name": name, "multiplicity": 1}
        optimizers["segmenter"].add_param_group(group)
    for name, (network, factor) in method.learners().items():
        own = config.model_copy(update={"lr": config.lr * factor})
        optimizers[name] = OPTIMIZERS[config.name].build(own, network)
    for name, adversary in method.adversaries().items():
        optimizers[name] = ADAMS[config.adam](
            adversary.parameters(), lr=config.adversary_lr, betas=config.adversary_betas
        )
    for optimizer in optimizers.values():
        for group in optimizer.param_groups:
            group["base_lr"] = group["lr"]
    if config.weight_decay_end is not None:
        for group in optimizers["segmenter"].param_groups:
            group["base_weight_decay"] = group["weight_decay"]
    return optimizers


def laid_out_as(value: Any, parameter: Any) -> Any:
    """A saved state of a parameter in the parameter's order in memory, in which fused optimizers
    walk through both."""
    if not isinstance(value, Tensor) or getattr(parameter, "shape", None) != value.shape:
        return value
    if value.stride() == parameter.stride():
        return value
    return torch.empty_like(parameter, dtype=value.dtype, device=value.device).copy_(value)


def set_lr(
    optimizers: Mapping[str, Optimizer], config: OptimConfig, step: int, total_steps: int
) -> None:
    """Give every parameter group its learning rate for the step after `step` done ones.

    Raises `JobError` as `schedule_length` does.
    """
    length = schedule_length(config, total_steps)
    for optimizer in optimizers.values():
        for group in optimizer.param_groups:
            group["lr"] = poly(
                step,
                group["base_lr"],
                length,
                config.power,
                config.warmup_steps,
                config.warmup,
                config.warmup_ratio,
            )


def set_weight_decay(
    optimizers: Mapping[str, Optimizer], config: OptimConfig, step: int, total_steps: int
) -> None:
    """Give the segmentation network's parameter groups their weight decay for the step after `step`
    done ones: groups without any keep none."""
    if config.weight_decay_end is None:
        return
    share = cosine(step, schedule_length(config, total_steps))
    for group in optimizers["segmenter"].param_groups:
        first = group["base_weight_decay"]
        if first:
            group["weight_decay"] = first * share + config.weight_decay_end * (1 - share)


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
