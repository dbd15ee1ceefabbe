"""Pieces that more than one architecture is made of."""

import torch.nn.functional as F
from torch import Tensor, nn

from adapt.losses import at_least_float32


def resize(features: Tensor, size_hw: tuple[int, int], align_corners: bool) -> Tensor:
    """Bilinear to `size_hw`, in at least float32: (B, C, h, w) -> (B, C, H, W).

    `align_corners` changes scores by more than a point; it is a part of the architecture, never of
    the call's taste.
    """
    return F.interpolate(
        at_least_float32(features), size=size_hw, mode="bilinear", align_corners=align_corners
    )


def dilated_conv(in_channels: int, out_channels: int, dilation: int) -> nn.Conv2d:
    """3x3 convolution with bias that keeps the size; weights as of `init_convs`."""
    conv = nn.Conv2d(in_channels, out_channels, 3, padding=dilation, dilation=dilation)
    init_convs(conv)
    return conv


def init_convs(module: nn.Module) -> None:
    """Start the weights of every convolution in `module` at N(0, 0.01), as the programs of DeepLab
    do; biases keep PyTorch's default.
    """
    for conv in module.modules():
        if isinstance(conv, nn.Conv2d):
            nn.init.normal_(conv.weight, std=0.01)
