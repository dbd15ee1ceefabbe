"""A pyramid of a vision transformer's equal stages: strides 4, 8, 16 and 32, by resizing alone.

As Rein (Wei et al., CVPR 2024) and SoMA (Yun et al., CVPR 2025) have it: without parameters, so
every architecture that joins stages of a CNN runs over a ViT. Patches of 14 pixels become 16, as
theirs do, since no stride of a pyramid is a multiple of 14.
"""

from typing import Any

import torch
from torch import Tensor

from adapt.models.encoders.encoder import UNDILATED_STRIDE
from adapt.models.encoders.vit import ViTEncoder
from adapt.models.layers import resize, rounded_up

STRIDES = (4, 8, 16, UNDILATED_STRIDE)
PATCH = 16
"""Side of patches, where the network's own does not divide `UNDILATED_STRIDE`."""


class ResizePyramid(ViTEncoder):
    """A ViT with its stages resized to `STRIDES`, none of them reduced by more than
    `output_stride`."""

    def __init__(
        self, name: str, output_stride: int, drop_path: float | None = None, **options: Any
    ) -> None:
        super().__init__(name, _patch_of_pyramid(name, options), drop_path, **options)
        self.output_stride = output_stride
        self.reductions = tuple(min(stride, output_stride) for stride in STRIDES)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, H, W) -> stages (B, C, ceil(H / stride), ceil(W / stride)), shallow to deep."""
        height, width = images.shape[-2:]
        stages = []
        for tokens, stride in zip(super().forward(images), self.reductions, strict=True):
            stage = self._resized(tokens, stride)
            stages.append(stage[..., : rounded_up(height, stride), : rounded_up(width, stride)])
        return tuple(stages)

    def _resized(self, tokens: Tensor, stride: int) -> Tensor:
        """Tokens of the padded image -> a map of it at this stride, in its own precision."""
        if stride == self.patch_px:
            return tokens
        rows, columns = (rounded_up(side * self.patch_px, stride) for side in tokens.shape[-2:])
        return resize(tokens, (rows, columns), align_corners=False).to(tokens.dtype)


def _patch_of_pyramid(name: str, options: dict[str, Any]) -> int | None:
    """None, the network's own, where that divides the strides."""
    with torch.device("meta"):
        own = ViTEncoder(name, **options).patch_px
    return None if UNDILATED_STRIDE % own == 0 else PATCH
