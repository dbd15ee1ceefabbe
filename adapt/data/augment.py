"""Random changes to a training sample, drawn from a generator seeded by the sample's draw number
alone.

The papers' programs use none (a fixed resize only), so every default is "off". Geometry moves image
and labels together, labels by nearest neighbour with `IGNORED` where the crop leaves the image;
colour touches the image only.
"""

from typing import NamedTuple

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from adapt.batch import IGNORED
from adapt.section import Section


class AugmentConfig(Section):
    """Random changes of the training samples of one domain.

    All off by default, as in the papers.
    """

    flip: float = Field(0.0, ge=0, le=1, description="Probability of a left-right flip.")
    scale: tuple[float, float] = Field(
        (1.0, 1.0), description="Zoom factor, drawn log-uniformly from this range."
    )
    crop_hw: tuple[int, int] | None = Field(
        None,
        description="Height and width of a random crop in pixels; none keeps the sample's size.",
    )
    brightness: float = Field(0.0, ge=0, lt=1, description="Factor drawn from 1 +- this.")
    contrast: float = Field(0.0, ge=0, lt=1, description="Factor drawn from 1 +- this.")
    saturation: float = Field(0.0, ge=0, lt=1, description="Factor drawn from 1 +- this.")
    hue: float = Field(
        0.0, ge=0, le=0.5, description="Turn of the colour circle, drawn from +- this."
    )
    blur: float = Field(
        0.0, ge=0, le=1, description="Probability of a Gaussian blur, sigma 0.1 to 2 px."
    )

    @model_validator(mode="after")
    def _ranges(self) -> "AugmentConfig":
        low, high = self.scale
        if not 0 < low <= high:
            raise ValueError(f"scale: expected 0 < low <= high, got [{low}, {high}]")
        if self.crop_hw is not None and min(self.crop_hw) < 1:
            raise ValueError(f"crop_hw: expected two positive sizes, got {list(self.crop_hw)}")
        return self


class Sample(NamedTuple):
    """One decoded sample: `image` (3, H, W) uint8 RGB, `labels` (H, W) uint8 train ids or None."""

    image: Tensor
    labels: Tensor | None


def augment(sample: Sample, config: AugmentConfig, random: np.random.Generator) -> Sample:
    """Apply `config` to one sample: (3, H, W) -> (3, h, w), where (h, w) is `crop_hw` or (H, W)."""
    return _colour(_geometry(sample, config, random), config, random)


def _geometry(sample: Sample, config: AugmentConfig, random: np.random.Generator) -> Sample:
    from torchvision.transforms.v2 import (
        InterpolationMode,
        functional,
    )  # 2 s that `check` is spared

    height, width = sample.image.shape[-2:]
    size_hw = config.crop_hw or (height, width)
    zoom = float(np.exp(random.uniform(*np.log(config.scale))))
    window_h, window_w = (max(1, round(side / zoom)) for side in size_hw)
    top = _offset(height - window_h, random)
    left = _offset(width - window_w, random)
    flip = random.random() < config.flip
    window = [top, left, window_h, window_w]
    image = functional.crop_image(sample.image, *window)
    labels = None if sample.labels is None else _crop_labels(sample.labels, *window)
    if (window_h, window_w) != size_hw:
        image = functional.resize_image(image, list(size_hw), antialias=True)
        nearest = InterpolationMode.NEAREST_EXACT
        labels = (
            labels if labels is None else functional.resize(labels[None], list(size_hw), nearest)[0]
        )
    if flip:
        image = image.flip(-1)
        labels = None if labels is None else labels.flip(-1)
    return Sample(image, labels)


def _offset(room_px: int, random: np.random.Generator) -> int:
    """Where a window starts: anywhere inside, or anywhere that keeps the whole image where it is
    larger."""
    low, high = sorted((0, room_px))
    return int(random.integers(low, high, endpoint=True))


def _crop_labels(labels: Tensor, top: int, left: int, height: int, width: int) -> Tensor:
    canvas = torch.full((height, width), IGNORED, dtype=labels.dtype)
    kept = labels[max(top, 0) : top + height, max(left, 0) : left + width]
    y, x = max(-top, 0), max(-left, 0)
    canvas[y : y + kept.shape[0], x : x + kept.shape[1]] = kept
    return canvas


def _colour(sample: Sample, config: AugmentConfig, random: np.random.Generator) -> Sample:
    from torchvision.transforms.v2 import functional

    image = sample.image
    for strength, change in (
        (config.brightness, functional.adjust_brightness),
        (config.contrast, functional.adjust_contrast),
        (config.saturation, functional.adjust_saturation),
    ):
        factor = 1 + strength * random.uniform(-1, 1)
        image = change(image, factor) if strength else image
    turn = config.hue * random.uniform(-1, 1)
    image = functional.adjust_hue(image, turn) if config.hue else image
    blurred, sigma_px = random.random() < config.blur, random.uniform(0.1, 2.0)
    image = functional.gaussian_blur(image, [9, 9], [sigma_px, sigma_px]) if blurred else image
    return sample._replace(image=image)
