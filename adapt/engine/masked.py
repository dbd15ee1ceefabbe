"""A step that is taken or refused by a flag on the device, so that Python never waits for it.

What a refused step would have changed is kept by selection, never by a product: 0 times NaN is NaN.
Optimizers take the flag as PyTorch's gradient scaler hands it over, as `found_inf`.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


def is_maskable(optimizer: Optimizer) -> bool:
    """True for an optimizer that reads `found_inf`: PyTorch's fused ones, and all of ours."""
    return getattr(optimizer, "_step_supports_amp_scaling", False)


def step_where(taken: Tensor, optimizer: Optimizer) -> None:
    """Move the parameters where `taken`, a bool without dimensions, is true; else neither they nor
    the optimizer's state change."""
    assert is_maskable(optimizer), f"{type(optimizer).__name__} cannot refuse a step on the device"
    masked: Any = optimizer
    masked.grad_scale, masked.found_inf = None, (~taken).float()
    optimizer.step()
    masked.found_inf = None


def taken_by(optimizer: Optimizer, like: Tensor) -> Tensor:
    """Within one of our optimizers' steps: the bool of `step_where`; true in a step without it."""
    found_inf: Tensor | None = getattr(optimizer, "found_inf", None)
    if found_inf is None:
        return torch.ones((), dtype=torch.bool, device=like.device)
    return found_inf == 0


class Kept:
    """Copies of tensors on one device, to be put back where a step is refused.

    By type they are one tensor, so that hundreds of small ones take a handful of kernels.
    """

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        self._tensors: dict[torch.dtype, list[Tensor]] = {}
        for tensor in tensors:
            self._tensors.setdefault(tensor.dtype, []).append(tensor)
        self._copies = {dtype: _flat(own) for dtype, own in self._tensors.items()}

    @torch.no_grad()
    def put_back_unless(self, taken: Tensor) -> None:
        """Give the tensors their values at the copy, but where `taken` is true."""
        for dtype, tensors in self._tensors.items():
            flat = torch.where(taken, _flat(tensors), self._copies[dtype])
            parts = flat.split([tensor.numel() for tensor in tensors])
            pairs = zip(parts, tensors, strict=True)
            torch._foreach_copy_(tensors, [part.view_as(tensor) for part, tensor in pairs])


def _flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
