"""Networks that classify source and target by a segmentation network's output or features.

The fully convolutional one is AdaptSegNet's (Tsai et al., CVPR 2018), after DCGAN; ADVENT (Vu et
al., CVPR 2019) uses the same.
"""

from itertools import pairwise
from typing import Literal

from torch import Tensor, nn

from adapt.errors import JobError

SMALLEST_SIDE_PX = 32


class FullyConvolutionalDiscriminator(nn.Module):
    """Five convolutions: maps (B, C, H, W) -> logits (B, 1, H // 32, W // 32).

    4x4 with stride 2, and PyTorch's default initialisation, as in the papers' programs. Below 32
    pixels a side nothing would be left of the maps: `JobError`. With `stride` 1, for features,
    which are small already, they are 3x3 and keep the size: (B, C, h, w) -> (B, 1, h, w).
    """

    def __init__(self, in_channels: int, width: int = 64, stride: Literal[1, 2] = 2) -> None:
        super().__init__()
        widths = (in_channels, width, 2 * width, 4 * width, 8 * width, 1)
        self.convs = nn.ModuleList(
            nn.Conv2d(before, after, kernel_size=stride + 2, stride=stride, padding=1)
            for before, after in pairwise(widths)
        )
        self.activation = nn.LeakyReLU(0.2)
        self.smallest_side_px = SMALLEST_SIDE_PX if stride == 2 else 1

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, H, W) -> logits (B, 1, h, w); 0 stands for source, 1 for target."""
        if min(maps.shape[-2:]) < self.smallest_side_px:
            raise JobError(
                f"images: expected at least {self.smallest_side_px} pixels a side for a "
                f"discriminator, got {tuple(maps.shape[-2:])}"
            )
        *hidden, last = self.convs
        for conv in hidden:
            maps = self.activation(conv(maps))
        return last(maps)


class DomainClassifier(nn.Module):
    """Classifies every spatial unit by itself: features (B, C, h, w) -> logits (B, 1, h, w).

    Three 1x1 convolutions. FCNs in the Wild (Hoffman et al., 2016) has such a classifier and
    does not state its layers; these are ours.
    """

    def __init__(self, in_channels: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, width, 1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, width, 1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, 1, 1),
        )

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, h, w) -> logits (B, 1, h, w); 0 stands for source, 1 for target."""
        logits: Tensor = self.layers(features)
        return logits
