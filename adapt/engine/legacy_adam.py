"""Adam as PyTorch had it up to 1.2, on which the papers' programs ran.

There epsilon is added to the root of the second moment before that is corrected for its start at 0,
since then afterwards (pytorch#22628). With beta2 = 0.99 the old epsilon is ten times as large in
the first step, which the small gradients of a discriminator notice.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from adapt.engine.masked import taken_by
from adapt.ranks import local_part


class LegacyAdam(Optimizer):
    """m = b1 m + (1 - b1) g; v = b2 v + (1 - b2) g^2;
    p -= lr sqrt(1 - b2^t) / (1 - b1^t) m / (sqrt(v) + eps).

    No weight decay. Its state has the names of `torch.optim.Adam`'s. A refused step leaves all of
    it, t too, as it was.
    """

    _step_supports_amp_scaling = True

    def __init__(
        self,
        parameters: Iterable[Tensor],
        *,
        lr: float,
        betas: tuple[float, float],
        eps: float = 1e-8,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Move every parameter that has a gradient."""
        assert closure is None, "a step here has several backward passes, none of them a closure"
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, group)

    def _move(self, parameter: Tensor, group: dict[str, Any]) -> None:
        gradient, (beta1, beta2) = parameter.grad, group["betas"]
        assert gradient is not None
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float64, device=gradient.device)
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        gradient = local_part(gradient)
        state["step"] = step = state["step"].to(gradient.device, torch.float64)
        first, second = local_part(state["exp_avg"]), local_part(state["exp_avg_sq"])
        taken = taken_by(self, gradient)
        step.add_(taken)
        first.copy_(torch.where(taken, first.mul(beta1).add_(gradient, alpha=1 - beta1), first))
        squares = second.mul(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        second.copy_(torch.where(taken, squares, second))
        scale = (1 - beta2**step).sqrt() / (1 - beta1**step)
        move = first / second.sqrt().add_(group["eps"]) * (group["lr"] * scale)
        own = local_part(parameter)
        own.sub_(torch.where(taken, move, 0.0))
