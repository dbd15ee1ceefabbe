"""SGD that moves a parameter several times a step, as the papers' programs do.

AdaptSegNet and ADVENT hand most backbone parameters to SGD three or four times, and each listing is
a whole update: the backbone learns about three times as fast as the written rate says. The
published numbers were obtained so. Here every parameter is listed once, in a group that says how
often it moves; nothing is left to what `torch.optim` makes of duplicates.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from adapt.engine.masked import taken_by
from adapt.ranks import local_part


class Law(NamedTuple):
    """How the updates of one step follow each other."""

    decay_accumulates: bool
    """Weight decay piles up in the gradient from one update of the step to the next."""
    first_step_restarts: bool
    """In a parameter's first step each update starts the momentum anew."""


LAWS = {
    "official": Law(decay_accumulates=False, first_step_restarts=True),
    "legacy": Law(decay_accumulates=True, first_step_restarts=False),
}
"""official: the programs on today's PyTorch; legacy: on PyTorch up to 1.4, of the papers' time."""


class RepeatedSGD(Optimizer):
    """SGD with momentum and weight decay, without dampening or Nesterov.

    Each group has a `multiplicity` k. `official` repeats k times: d = g + wd p; buf = m buf + d;
    p -= lr buf; in a parameter's first step buf = d every time. `legacy` repeats k times: d = d +
    wd p, so that weight decay piles up in d; buf = m buf + d; p -= lr buf. With k = 1 both are
    `torch.optim.SGD`. In a refused step nothing moves, and a first step is still to come.
    """

    _step_supports_amp_scaling = True

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        *,
        lr: float,
        momentum: float,
        weight_decay: float,
        law: Law = LAWS["official"],
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "multiplicity": 1}
        super().__init__(groups, defaults)
        self.law = law

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Move every parameter that has a gradient."""
        assert closure is None, "a step here has several backward passes, none of them a closure"
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, group)

    def _move(self, parameter: Tensor, group: dict[str, Any]) -> None:
        assert parameter.grad is not None
        gradient, own = local_part(parameter.grad), local_part(parameter)
        taken, state = taken_by(self, gradient), self.state[parameter]
        moved_before = state.get("moved", torch.ones_like(taken)).bool()  # not in older checkpoints
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
            moved_before = torch.zeros_like(taken)
        kept = torch.full_like(moved_before, group["momentum"], dtype=own.dtype)
        if self.law.first_step_restarts:
            kept = torch.where(moved_before, kept, 0.0)
        momentum, value, direction = local_part(state["momentum_buffer"]), own, gradient
        buffer = momentum
        for _ in range(group["multiplicity"]):
            start = direction if self.law.decay_accumulates else gradient
            direction = start.add(value, alpha=group["weight_decay"])
            buffer = buffer.mul(kept).add_(direction)
            value = value.add(buffer, alpha=-group["lr"])
        momentum.copy_(torch.where(taken, buffer, momentum))
        own.copy_(torch.where(taken, value, own))
        state["moved"] = moved_before | taken
