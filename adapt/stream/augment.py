"""Random changes to a training sample, drawn from a generator seeded by the sample's draw number
alone, and made on the CPU or on the device.

The papers' programs use none (a fixed resize only), so every default is "off". Geometry moves image
and labels together, labels by nearest neighbour with `IGNORED` where the crop leaves the image;
colour touches the image only.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from adapt.batch import IGNORED, Sample
from adapt.config.section import Section
from adapt.config.validation import Mistake

CROPS = 10
"""Number of random crops tried for what a crop should show (DAFormer's program)."""


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
    largest_class_share: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Share of a crop's labelled pixels that no class should exceed; such crops are "
        "drawn again, up to ten times (DAFormer, MIC: 0.75).",
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
        if self.largest_class_share < 1 and self.crop_hw is None:
            raise Mistake(
                f"largest_class_share: expected 1 without crop_hw, got {self.largest_class_share}",
                fix="set crop_hw, or leave it out",
            )
        return self


class WantedClass(NamedTuple):
    """A class that a random crop should show on more than `pixels` pixels."""

    train_id: int
    pixels: int


class Changes(NamedTuple):
    """The changes of one sample. `window` is (top, left, height, width) in pixels of the sample,
    and is brought to `size_hw`; None leaves a property as it is."""

    size_hw: tuple[int, int]
    window: tuple[int, int, int, int]
    flip: bool
    brightness: float | None
    contrast: float | None
    saturation: float | None
    hue: float | None
    blur_sigma_px: float | None


def draw_changes(
    sample: Sample,
    config: AugmentConfig,
    random: np.random.Generator,
    wanted: WantedClass | None = None,
) -> Changes:
    """Draw what is to happen to a sample. A crop that shows too little of a `wanted` class, as in
    rare-class sampling, or too much of any, is drawn again, up to `CROPS` times (DAFormer)."""
    height, width = sample.image.shape[-2:]
    size_hw = config.crop_hw or (height, width)
    tries = CROPS if config.crop_hw is not None else 1
    for _ in range(tries):
        window = _window((height, width), size_hw, config, random)
        if _suits(sample.labels, window, size_hw, config, wanted):
            break
    flip = random.random() < config.flip
    brightness, contrast, saturation = (
        factor if strength else None
        for strength in (config.brightness, config.contrast, config.saturation)
        for factor in [1 + strength * random.uniform(-1, 1)]
    )
    turn = config.hue * random.uniform(-1, 1)
    blurred, sigma_px = random.random() < config.blur, random.uniform(0.1, 2.0)
    return Changes(
        size_hw,
        window,
        flip,
        brightness,
        contrast,
        saturation,
        turn if config.hue else None,
        sigma_px if blurred else None,
    )


def change(sample: Sample, changes: Changes) -> Sample:
    """Make the changes, on whatever device the sample lies: (3, H, W) -> (3, *size_hw)."""
    return _colours(_geometry(sample, changes), changes)


def _window(
    full_hw: tuple[int, int],
    size_hw: tuple[int, int],
    config: AugmentConfig,
    random: np.random.Generator,
) -> tuple[int, int, int, int]:
    """A random window of the size that, zoomed, gives `size_hw`."""
    zoom = float(np.exp(random.uniform(*np.log(config.scale))))
    window_h, window_w = (max(1, round(side / zoom)) for side in size_hw)
    top = _offset(full_hw[0] - window_h, random)
    left = _offset(full_hw[1] - window_w, random)
    return top, left, window_h, window_w


def _suits(
    labels: Tensor | None,
    window: tuple[int, int, int, int],
    size_hw: tuple[int, int],
    config: AugmentConfig,
    wanted: WantedClass | None,
) -> bool:
    """Return whether the window, brought to `size_hw`, shows enough of the wanted class and not
    too much of any."""
    if labels is None or (wanted is None and config.largest_class_share == 1):
        return True
    pixels = torch.bincount(_crop_labels(labels, *window).flatten(), minlength=IGNORED + 1)
    zoom_area = size_hw[0] * size_hw[1] / (window[2] * window[3])
    if wanted is not None and pixels[wanted.train_id] * zoom_area <= wanted.pixels:
        return False
    labelled = pixels[:IGNORED]
    return int(labelled.max()) <= config.largest_class_share * int(labelled.sum())


def _geometry(sample: Sample, changes: Changes) -> Sample:
    size_hw, window = changes.size_hw, changes.window
    image, labels = sample
    if window != (0, 0, *sample.image.shape[-2:]):
        image = _functional().crop_image(image, *window)
        labels = None if labels is None else _crop_labels(labels, *window)
    if window[2:] != size_hw:
        image = _functional().resize_image(image, list(size_hw), antialias=True)
        labels = None if labels is None else _resize_labels(labels, size_hw)
    if changes.flip:
        image = image.flip(-1)
        labels = None if labels is None else labels.flip(-1)
    return Sample(image, labels)


def _functional() -> Any:
    """torchvision's functions, whose import costs 2 s that `check` is spared."""
    from torchvision.transforms.v2 import functional

    return functional


def _resize_labels(labels: Tensor, size_hw: tuple[int, int]) -> Tensor:
    from torchvision.transforms.v2 import InterpolationMode

    nearest = InterpolationMode.NEAREST_EXACT
    resized: Tensor = _functional().resize(labels[None], list(size_hw), nearest)[0]
    return resized


def _offset(room_px: int, random: np.random.Generator) -> int:
    """Where a window starts: anywhere inside, or anywhere that keeps the whole image where it is
    larger."""
    low, high = sorted((0, room_px))
    return int(random.integers(low, high, endpoint=True))


def _crop_labels(labels: Tensor, top: int, left: int, height: int, width: int) -> Tensor:
    canvas = torch.full((height, width), IGNORED, dtype=labels.dtype, device=labels.device)
    kept = labels[max(top, 0) : top + height, max(left, 0) : left + width]
    y, x = max(-top, 0), max(-left, 0)
    canvas[y : y + kept.shape[0], x : x + kept.shape[1]] = kept
    return canvas


def _colours(sample: Sample, changes: Changes) -> Sample:
    image = sample.image
    if changes.brightness is not None:
        image = _functional().adjust_brightness(image, changes.brightness)
    if changes.contrast is not None:
        image = _functional().adjust_contrast(image, changes.contrast)
    if changes.saturation is not None:
        image = _functional().adjust_saturation(image, changes.saturation)
    if changes.hue is not None:
        image = _functional().adjust_hue(image, changes.hue)
    if changes.blur_sigma_px is not None:
        image = _functional().gaussian_blur(image, [9, 9], [changes.blur_sigma_px] * 2)
    return sample._replace(image=image)
