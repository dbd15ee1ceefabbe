"""ICNet's encoder (Zhao et al., ECCV 2018): half of a ResNet-50's channels, two image sizes.

Half the image goes through the first blocks; their output, halved again, through the rest: both
branches share activations, not weights alone.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from adapt.models.encoders.encoder import PlainEncoder
from adapt.models.layers import conv_bn, conv_bn_relu, resize

SHARED = ((32, 128, 1, 1), (32, 128, 1, 1), (32, 128, 1, 1), (64, 256, 2, 1))
"""Inner and outer channels, stride and dilation of the blocks up to conv3_1."""

REST = ((64, 256, 1, 1),) * 3 + ((128, 512, 1, 2),) * 6 + ((256, 1024, 1, 4),) * 3


class ICNetBottleneck(nn.Module):
    """ReLU(x + 1x1, dilated 3x3, 1x1); the stride in the first 1x1, as in the authors' model."""

    def __init__(
        self, in_channels: int, inner: int, channels: int, stride: int, dilation: int
    ) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            conv_bn_relu(in_channels, inner, 1, stride),
            conv_bn_relu(inner, inner, 3, dilation=dilation),
            conv_bn(inner, channels, 1),
        )
        same = in_channels == channels and stride == 1
        self.shortcut = nn.Identity() if same else conv_bn(in_channels, channels, 1, stride)

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, `channels`, h / stride, w / stride)."""
        return F.relu(self.shortcut(features) + self.branch(features))


class ICNetEncoder(PlainEncoder):
    """The half image's branch and, from its halved features, the quarter image's.

    Stages: conv3_1 at 1/16 and conv5_3 at 1/32 of the image.
    """

    def __init__(self, name: str, output_stride: int) -> None:
        super().__init__(name, output_stride, channels=(256, 1024), reductions=(16, 32))
        self.stem = nn.Sequential(
            conv_bn_relu(3, 32, stride=2),
            conv_bn_relu(32, 32),
            conv_bn_relu(32, 64),
            nn.MaxPool2d(3, 2, 1),
        )
        self.shared = _blocks(64, SHARED)
        self.rest = _blocks(256, REST)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, H, W) -> (B, 256, H / 16, W / 16), (B, 1024, H / 32, W / 32)."""
        middle = self.shared(self.stem(_halved(images)))
        return middle, self.rest(_halved(middle))


def _blocks(in_channels: int, rows: tuple[tuple[int, int, int, int], ...]) -> nn.Sequential:
    blocks = nn.Sequential()
    for inner, channels, stride, dilation in rows:
        blocks.append(ICNetBottleneck(in_channels, inner, channels, stride, dilation))
        in_channels = channels
    return blocks


def _halved(images: Tensor) -> Tensor:
    height, width = images.shape[-2:]
    return resize(images, ((height + 1) // 2, (width + 1) // 2), align_corners=True)
