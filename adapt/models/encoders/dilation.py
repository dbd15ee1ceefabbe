"""Dilation of networks whose strides are pools between stages (VGG, DenseNet)."""

from typing import Any

from torch import nn


def dilate(backbone: Any, kind: type[nn.Module], output_stride: int) -> None:
    """Take out the last pools of this kind; what comes after each reaches twice as far instead.

    A pool becomes an `nn.Identity`, so that every tensor keeps its name.
    """
    num_removed = (backbone.feature_info.reduction()[-1] // output_stride).bit_length() - 1
    pools = [name for name, module in backbone.named_modules() if isinstance(module, kind)]
    removed = pools[len(pools) - num_removed :]
    rate = 1
    for name, module in list(backbone.named_modules()):
        if name in removed:
            backbone.set_submodule(name, nn.Identity())
            rate *= 2
        elif isinstance(module, nn.Conv2d) and max(module.kernel_size) > 1:
            module.dilation = (rate, rate)
            module.padding = tuple(rate * (size - 1) // 2 for size in module.kernel_size)
    for stage in backbone.feature_info.info:
        stage["reduction"] = min(stage["reduction"], output_stride)
