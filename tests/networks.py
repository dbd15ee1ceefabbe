"""Small networks: for tests of what is done with predictions, and the smallest of each
architecture."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from adapt.batch import PixelFormat
from adapt.models import ARCHITECTURES
from adapt.models.config import SegmenterConfig
from adapt.models.encoders.encoder import Encoder, LoadReport
from adapt.models.segmenter import Decoder, Segmenter

SHARES = PixelFormat(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
"""RGB from 0 to 1."""


SMALLER: dict[str, dict[str, Any]] = {
    "fc_densenet": {"encoder": "fc_densenet56"},
    "dense_decoder_shortcuts": {"width": 64},
    "segformer": {"width": 32},
    "daformer_head": {"width": 32},
}
"""What makes some architectures smaller, beside a small encoder."""


TEACHER: dict[str, Any] = {
    "architecture": "deeplab_v2",
    "encoder": "test_resnet",
    "output_stride": 16,
    "weights": "none",
    "norm": "frozen",
}
NEEDED: dict[str, dict[str, Any]] = {
    "distil": {
        "teacher": {
            "model": TEACHER,
            "trained_by": {"name": "dacs", "pseudo_labels": {"threshold": 0.3}},
        },
        "pseudo_labels": {"threshold": 0.3},
    }
}
"""Keys without which a method cannot be built: a teacher that learns."""

SURE: dict[str, dict[str, Any]] = {
    "dacs": {"pseudo_labels": {"threshold": 0.3}},
    "daformer": {"pseudo_labels": {"threshold": 0.3}},
    "mic": {"host": {"name": "daformer", "pseudo_labels": {"threshold": 0.3}}},
    "masktwins": {"host": {"name": "daformer", "pseudo_labels": {"quality": "class"}}},
    "vfm_uda": {"pseudo_labels": {"threshold": 0.3}},
    **NEEDED,
}
"""Teachers of random networks are sure of some pixels only if little is enough."""

IN_A_JOB: dict[str, dict[str, Any]] = {
    name: {"pseudo_labels": {"run": "before"}}
    for name in ("class_balanced_self_training", "intra_da")
} | {name: {"block_px": 8} for name in ("mic", "masktwins")}
IN_A_JOB |= {"vfm_uda": {"masks": {"block_px": 8}}, **NEEDED}
"""Keys that a job on tiny images needs of some methods, which a method alone does not."""


def tiny_model(architecture: str, encoder: str = "test_resnet") -> dict[str, Any]:
    """Values of `model` for an architecture over `encoder`, or its own where it has its own."""
    demands = ARCHITECTURES[architecture].demands
    small: dict[str, Any] = {"architecture": architecture, "weights": "none"}
    if demands.equal_strides:
        small["encoder"] = "test_vit"
    elif not demands.encoders:
        pyramid = bool(demands.reductions) or demands.halving
        small |= {"encoder": encoder, "output_stride": 32 if pyramid else 16}
    return {**small, **SMALLER.get(architecture, {})}


def random_stages(
    segmenter: Segmenter,
    size_hw: tuple[int, int],
    batch: int = 1,
    draw: Callable[..., Tensor] = torch.randn,
) -> list[Tensor]:
    """What the encoder might give for images of this size, as leaves that gradients reach."""
    height, width = size_hw
    described = zip(segmenter.encoder.channels, segmenter.encoder.reductions, strict=True)
    return [
        draw(batch, channels, height // step, width // step, requires_grad=True)
        for channels, step in described
    ]


class Untouched(Encoder):
    """Has the image itself for its one stage, and notes what it was shown."""

    name, output_stride, channels, reductions = "untouched", 1, (3,), (1,)

    def __init__(self, pixels: PixelFormat) -> None:
        super().__init__()
        self.pixels, self.seen = pixels, list[Tensor]()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        self.seen.append(images)
        return (images,)

    def load(self, state: Mapping[str, Tensor]) -> LoadReport:
        return LoadReport(0, ())

    def multiplicities(self) -> dict[str, int]:
        return {}


class ByColour(Decoder):
    """A random linear function of each pixel's colour, at half the size."""

    align_corners = True

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.classifier = nn.Conv2d(3, num_classes, 1, stride=2, bias=False)

    def forward(
        self, images: Tensor, features: tuple[Tensor, ...]
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        return [self.classifier(features[0] - 0.5)], {}


def network(decoder: Decoder, num_classes: int, pixels: PixelFormat = SHARES) -> Segmenter:
    """The decoder on the image itself."""
    config = SegmenterConfig(architecture="none", norm="train")
    return Segmenter(config, Untouched(pixels), decoder, num_classes)


def varied_network(num_classes: int, seed: int = 5) -> Segmenter:
    """Its random predictions vary from pixel to pixel."""
    torch.manual_seed(seed)
    return network(ByColour(num_classes), num_classes)
