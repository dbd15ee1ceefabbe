"""Synchronised batch norm: statistics of a training batch over all ranks' images.

In a context, any module's batch normalisation by batch statistics, ours or a library's, takes the
mean and variance over all ranks, and its gradient flows through them to every rank, so N ranks
train as one does on the whole batch. torch.nn.SyncBatchNorm does the same on GPUs alone, and not
inside timm's layers that join norm and activation.
"""

from collections.abc import Callable, Iterable
from inspect import signature
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from adapt.losses import at_least_float32
from adapt.ranks import num_ranks, sum_over_ranks

_SIGNATURE = signature(F.batch_norm)


class SyncBatchNorm(TorchFunctionMode):
    """Within it `F.batch_norm` that trains normalises by the statistics of all ranks.

    All ranks have to pass inputs of one shape, in one order.
    """

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Runs what is called, or the synchronised norm in its place."""
        named = kwargs or {}
        if function is F.batch_norm:
            given = _SIGNATURE.bind(*args, **named)
            given.apply_defaults()
            if given.arguments.pop("training"):
                return _normalised(**given.arguments)
        return function(*args, **named)


class _SumOverRanks(torch.autograd.Function):
    """Sum over ranks, whose gradient is the sum of all ranks' gradients."""

    @staticmethod
    def forward(_context: Any, tensor: Tensor) -> Tensor:
        return sum_over_ranks(tensor)

    @staticmethod
    def backward(_context: Any, gradient: Tensor) -> Tensor:
        return sum_over_ranks(gradient)


def _normalised(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    momentum: float,
    eps: float,
) -> Tensor:
    """(B, C, ...) -> the same shape; moves the running statistics, with the unbiased variance."""
    values = at_least_float32(input)
    dims = [0, *range(2, values.ndim)]
    count = values.numel() // values.shape[1] * num_ranks()
    mean = _summed(values.sum(dims)) / count
    centred = values - _by_channel(mean, values)
    variance = _summed(centred.square().sum(dims)) / count
    if running_mean is not None and running_var is not None:
        unbiased = variance.detach() * (count / max(count - 1, 1))
        running_mean.lerp_(mean.detach().to(running_mean), momentum)
        running_var.lerp_(unbiased.to(running_var), momentum)
    outputs = centred * _by_channel((variance + eps).rsqrt(), values)
    if weight is not None:
        outputs = outputs * _by_channel(weight.to(values), values)
    if bias is not None:
        outputs = outputs + _by_channel(bias.to(values), values)
    return outputs.to(input.dtype)


def _summed(tensor: Tensor) -> Tensor:
    total: Tensor = _SumOverRanks.apply(tensor)
    return total


def _by_channel(tensor: Tensor, values: Tensor) -> Tensor:
    """(C,) to broadcast over (B, C, ...)."""
    return tensor.reshape(1, -1, *[1] * (values.ndim - 2))
