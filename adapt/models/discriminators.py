"""Networks that tell source from target by looking at a segmentation network's output.

From AdaptSegNet (Tsai et al., CVPR 2018), after DCGAN; ADVENT (Vu et al., CVPR 2019) uses the same
one.
"""

from itertools import pairwise

from torch import Tensor, nn

from adapt.errors import JobError

SMALLEST_SIDE_PX = 32


class FullyConvolutionalDiscriminator(nn.Module):
    """Five 4x4 convolutions of stride 2: maps (B, C, H, W) -> logits (B, 1, H // 32, W // 32).

    PyTorch's default initialisation, as in the papers' programs. Below 32 pixels a side nothing
    would be left of the maps: `JobError`.
    """

    def __init__(self, in_channels: int, width: int = 64) -> None:
        super().__init__()
        widths = (in_channels, width, 2 * width, 4 * width, 8 * width, 1)
        self.convs = nn.ModuleList(
            nn.Conv2d(before, after, kernel_size=4, stride=2, padding=1)
            for before, after in pairwise(widths)
        )
        self.activation = nn.LeakyReLU(0.2)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, H, W) -> logits (B, 1, H // 32, W // 32); 0 stands for source, 1 for target."""
        if min(maps.shape[-2:]) < SMALLEST_SIDE_PX:
            raise JobError(
                f"size_hw: expected at least {SMALLEST_SIDE_PX} pixels a side for a discriminator, "
                f"found {tuple(maps.shape[-2:])}"
            )
        *hidden, last = self.convs
        for conv in hidden:
            maps = self.activation(conv(maps))
        return last(maps)
