"""GCN (Peng, Zhang, Yu, Luo & Sun, Large Kernel Matters, CVPR 2017).

A global convolution sees k x k pixels by two pairs of one-dimensional convolutions, straight to
classes, with nothing between them. From there on all maps are score maps: each is refined at the
boundaries by a residual block, doubled, and added to that of the next shallower stage. Doubling is
bilinear here, and learned in the paper.
"""

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field, field_validator
from torch import Tensor, nn

from adapt.models.config import PyramidConfig, SegmenterConfig
from adapt.models.demands import PYRAMID, QUARTERS, Demands
from adapt.models.encoders.encoder import Encoder
from adapt.models.layers import resize, resize_to
from adapt.models.segmenter import Decoder, Heads, Stages


class GCNConfig(PyramidConfig):
    """GCN's own choices."""

    described: ClassVar[tuple[str, ...]] = (*PyramidConfig.described, "kernel_size")
    architecture: Literal["gcn"] = Field(
        "gcn", description="Large separable kernels on score maps (CVPR 2017)."
    )
    encoder: str = Field("resnet152.tv_in1k", description="A backbone; the paper's is ResNet-152.")
    kernel_size: int = Field(15, ge=1, description="k of the global convolution, odd (paper: 15).")
    aux: bool = Field(
        True, description="The sums of scores at 1/8 and 1/16 are heads too: our addition."
    )

    @field_validator("kernel_size")
    @classmethod
    def _odd(cls, size: int) -> int:
        if size % 2 == 0:
            raise ValueError(f"expected an odd number, so that the size is kept, got {size}")
        return size


class GlobalConvolution(nn.Module):
    """k x 1 then 1 x k, plus 1 x k then k x 1: (B, C, h, w) -> (B, K, h, w)."""

    def __init__(self, in_channels: int, num_classes: int, kernel_size: int) -> None:
        super().__init__()
        tall, wide = (kernel_size, 1), (1, kernel_size)
        self.branches = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(in_channels, num_classes, first, padding="same"),
                nn.Conv2d(num_classes, num_classes, second, padding="same"),
            )
            for first, second in ((tall, wide), (wide, tall))
        )

    def forward(self, features: Tensor) -> Tensor:
        first, second = self.branches
        return first(features) + second(features)


class BoundaryRefinement(nn.Module):
    """x + conv(ReLU(conv(x))) on score maps, without batch norm."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(num_classes, num_classes, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(num_classes, num_classes, 3, padding=1),
        )

    def forward(self, scores: Tensor) -> Tensor:
        return scores + self.branch(scores)


class ScorePyramid(nn.Module):
    """Scores of four stages, summed from deep to shallow and refined up to the full size.

    `channels` are the stages', deepest first; `enlarge` is done to the deepest scores.
    """

    def __init__(
        self,
        channels: Sequence[int],
        num_classes: int,
        kernel_size: int,
        enlarge: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.scores = nn.ModuleList(
            nn.Sequential(
                GlobalConvolution(one, num_classes, kernel_size), BoundaryRefinement(num_classes)
            )
            for one in channels
        )
        self.enlarge = enlarge or nn.Identity()
        self.sums = nn.ModuleList(BoundaryRefinement(num_classes) for _ in channels[1:])
        self.enlarged = nn.ModuleList(BoundaryRefinement(num_classes) for _ in range(2))

    def forward(self, stages: Sequence[Tensor], size_hw: tuple[int, int]) -> list[Tensor]:
        """Stages, deepest first -> the deepest scores, three sums, scores at half and full size."""
        deepest, *shallower = (score(one) for score, one in zip(self.scores, stages, strict=True))
        maps = [self.enlarge(deepest)]
        for refine, scores in zip(self.sums, shallower, strict=True):
            maps.append(refine(resize_to(maps[-1], scores) + scores))
        half_hw = ((size_hw[0] + 1) // 2, (size_hw[1] + 1) // 2)
        for refine, larger_hw in zip(self.enlarged, (half_hw, size_hw), strict=True):
            maps.append(refine(resize(maps[-1], larger_hw, align_corners=False)))
        return maps


class GCNDecoder(Decoder):
    """GCN: large separable kernels on score maps.

    The pyramid of scores; the sums at 1/8 and 1/16 are heads too.
    """

    Config: ClassVar[type[SegmenterConfig]] = GCNConfig
    demands: ClassVar[Demands] = PYRAMID

    def __init__(self, config: GCNConfig, encoder: Encoder, num_classes: int) -> None:
        super().__init__(config.heads())
        self.stages = [encoder.stage_at(reduction) for reduction in QUARTERS[::-1]]
        channels = [encoder.channels[stage] for stage in self.stages]
        self.pyramid = ScorePyramid(channels, num_classes, config.kernel_size)

    def forward(self, images: Tensor, features: Stages) -> Heads:
        """Stages -> [main logits at full size, and those at 1/8 and 1/16]."""
        size_hw = (images.shape[-2], images.shape[-1])
        _, at_16, at_8, _, _, full = self.pyramid([features[one] for one in self.stages], size_hw)
        return [full, at_8, at_16][: len(self.head_names)], {}
