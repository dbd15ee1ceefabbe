"""Pieces that architectures share, and how their convolutions start."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from adapt.losses import at_least_float32


class ChannelNorm(nn.LayerNorm):
    """Layer normalisation over the channels of each pixel: (B, C, H, W) -> the same."""

    def forward(self, maps: Tensor) -> Tensor:
        """Normalise."""
        return super().forward(maps.movedim(1, -1)).movedim(-1, 1)


def resize(features: Tensor, size_hw: tuple[int, int], align_corners: bool) -> Tensor:
    """Bilinear to `size_hw`, in at least float32: (B, C, h, w) -> (B, C, H, W).

    `align_corners` changes scores by more than a point; it is a part of the architecture, never of
    the call's taste.
    """
    return F.interpolate(
        at_least_float32(features), size=size_hw, mode="bilinear", align_corners=align_corners
    )


def resize_to(features: Tensor, partner: Tensor, align_corners: bool = False) -> Tensor:
    """Bilinear to the partner's height and width; as it is where they agree already.

    Encoders round odd sizes up or down, so twice the deeper size need not be the shallower one's.
    Exported programs resize always, since their sizes vary; between equal sizes that is exact.
    """
    height, width = partner.shape[-2:]
    if not torch.compiler.is_exporting() and features.shape[-2:] == (height, width):
        return features
    return resize(features, (height, width), align_corners)


def max_pool_to(features: Tensor, partner: Tensor) -> Tensor:
    """Maxima over as many windows as the partner has pixels: (B, C, H, W) -> (B, C, h, w).

    PyTorch's operator takes fixed sizes alone where programs are exported; there the pixels of each
    window are gathered instead, its last one repeated.
    """
    height, width = partner.shape[-2:]
    if not torch.compiler.is_exporting():
        return F.adaptive_max_pool2d(features, (height, width))
    rows, columns = _windows(features.shape[-2], height), _windows(features.shape[-1], width)
    return features[:, :, rows].amax(dim=3)[:, :, :, columns].amax(dim=4)


def _windows(length: int, count: int) -> Tensor:
    """Pixels of each of `count` windows over a side of `length`: (count, longest) int64."""
    number = torch.arange(count)[:, None]
    starts = number * length // count
    last = ((number + 1) * length + count - 1) // count - 1
    longest = (length + count - 1) // count + 1
    return torch.minimum(starts + torch.arange(longest), last)


def enlarged(images: Tensor, side_px: int, multiple_px: int = 1) -> Tensor:
    """Sides padded to at least `side_px` and a multiple of `multiple_px`, below and on the right,
    by the last row and column: (B, C, H, W) -> (B, C, H', W').

    Exported programs take sides of `side_px` and more alone, and pad to multiples always.
    """
    exporting = torch.compiler.is_exporting()
    if exporting and multiple_px == 1:
        return images
    least = 0 if exporting else side_px
    missing = [_missing(side, least, multiple_px) for side in images.shape[-2:]]
    if not exporting and not any(missing):
        return images
    return F.pad(images, (0, missing[1], 0, missing[0]), mode="replicate")


def _missing(side: int, least: int, multiple: int) -> int:
    """Pixels from a side to the next multiple that is not below `least`."""
    wanted = max(side, least) if least else side
    return rounded_up(wanted, multiple) * multiple - side


def rounded_up(size: int, step: int) -> int:
    """The quotient of two positive numbers, rounded up.

    By sums alone: ONNX rounds quotients of negative numbers towards 0.
    """
    return (size + step - 1) // step


def full_precision(device: torch.device) -> AbstractContextManager[Any]:
    """Within it matrix products keep the precision of their inputs, independent of the step's."""
    if torch.amp.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()  # networks without memory, which are only asked for sizes


def laid_out_for_step(images: Tensor) -> Tensor:
    """Images (B, 3, H, W) as a step's kernels are fastest with them: under autocast channels last,
    which all layers after the first keep; else as they are."""
    kind = images.device.type
    if not torch.amp.is_autocast_available(kind) or not torch.is_autocast_enabled(kind):
        return images
    return images.contiguous(memory_format=torch.channels_last)


class BatchNorm(nn.BatchNorm2d):
    """Batch norm that trains on a single value a channel too, such as one image's global average.

    Such a value has no statistics: it is normalised by the running ones, which it leaves alone.
    """

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, h, w) -> the same shape."""
        if not self.training or input.numel() > self.num_features:
            return super().forward(input)
        mean, variance = self.running_mean, self.running_var
        return F.batch_norm(input, mean, variance, self.weight, self.bias, False, 0.0, self.eps)


def spare_single_values(norm: _BatchNorm) -> None:
    """Let a library's batch norm do on a single value a channel as `BatchNorm` does."""

    def before(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if module.training and inputs[0].numel() == norm.num_features:
            module.training = False
            spared.append(module)

    def after(_module: nn.Module, _inputs: tuple[Tensor, ...], _output: Tensor) -> None:
        while spared:
            spared.pop().training = True

    spared: list[nn.Module] = []
    norm.register_forward_pre_hook(before)
    norm.register_forward_hook(after)


def conv_bn(
    in_channels: int, out_channels: int, kernel_size: int = 3, stride: int = 1, dilation: int = 1
) -> nn.Sequential:
    """Convolution without bias that keeps the size but for its stride, and batch norm."""
    padding = dilation * (kernel_size - 1) // 2
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, dilation, bias=False),
        BatchNorm(out_channels),
    )


def conv_bn_relu(
    in_channels: int, out_channels: int, kernel_size: int = 3, stride: int = 1, dilation: int = 1
) -> nn.Sequential:
    """`conv_bn` and ReLU."""
    block = conv_bn(in_channels, out_channels, kernel_size, stride, dilation)
    return block.append(nn.ReLU(inplace=True))


class FCNHead(nn.Sequential):
    """3x3 to a quarter of the channels, batch norm, ReLU, dropout, 1x1 to classes.

    The auxiliary head of PSPNet (Zhao et al., CVPR 2017) and of those after it:
    (B, C, h, w) -> (B, K, h, w).
    """

    def __init__(self, in_channels: int, num_classes: int) -> None:
        width = max(1, in_channels // 4)
        super().__init__(
            conv_bn_relu(in_channels, width),
            nn.Dropout(0.1),
            nn.Conv2d(width, num_classes, 1),
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


def init_he(module: nn.Module) -> None:
    """Start every convolution in `module` as for ReLUs, biases at 0 (He et al., Delving Deep into
    Rectifiers, ICCV 2015).
    """
    for conv in _convs(module):
        nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
        if conv.bias is not None:
            nn.init.zeros_(conv.bias)


def init_he_uniform(module: nn.Module) -> None:
    """As `init_he`, from a uniform distribution."""
    for conv in _convs(module):
        nn.init.kaiming_uniform_(conv.weight, nonlinearity="relu")
        if conv.bias is not None:
            nn.init.zeros_(conv.bias)


def _convs(module: nn.Module) -> Iterator[nn.Conv2d | nn.ConvTranspose2d]:
    convs = (nn.Conv2d, nn.ConvTranspose2d)
    return (one for one in module.modules() if isinstance(one, convs))
