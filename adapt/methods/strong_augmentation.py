"""Strong augmentation of self-training, on the device: colour jitter, grey, Gaussian blur.

As DACS and DAFormer make the mixed image, and MIC the masked one: jitter with probability 0.8, blur
with 0.5, sigma 0.15 to 1.15 px. Their programs decide once a step for the whole batch; strengths
always vary from image to image.
"""

from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from adapt.batch import PixelFormat
from adapt.config.section import Section
from adapt.config.validation import Mistake
from adapt.methods.draws import Draws, sent

KERNEL_SHARE = 0.1
"""The blur's kernel over the image's shorter side (the programs)."""

HALF_TURN = 0.5
Sigma = Annotated[float, Field(gt=0)]


class StrongAugmentationConfig(Section):
    """Random changes of colours and sharpness."""

    jitter: float = Field(
        0.2,
        ge=0,
        le=1,
        description="Brightness, contrast and saturation are multiplied by 1 +- this, the hue is "
        "turned by +- this (DACS: 0.25; DAFormer, MIC: 0.2; VFM-UDA++'s source: 0.8).",
    )
    brightness: float | None = Field(
        None, ge=0, le=1, description="Of the brightness, where it is not jitter's."
    )
    hue: float | None = Field(
        None,
        ge=0,
        le=0.5,
        description="Of the hue, where it is not jitter's (VFM-UDA++'s source: 0.4).",
    )
    jitter_chance: float = Field(0.8, ge=0, le=1, description="Chance of the jitter.")
    grey_chance: float = Field(0.0, ge=0, le=1, description="Chance of a grey image (VFM-UDA++).")
    blur_chance: float = Field(0.5, ge=0, le=1, description="Chance of the blur.")
    blur_sigma_px: tuple[Sigma, Sigma] = Field(
        (0.15, 1.15),
        description="Least and greatest sigma of the blur (VFM-UDA++'s source: 3.0 at most).",
    )
    decided_per: Literal["batch", "image"] = Field(
        "batch",
        description="Images that a decision is for: the batch (DACS, DAFormer, MIC) or one "
        "(VFM-UDA).",
    )

    @property
    def strengths(self) -> tuple[float, float, float, float]:
        """Of brightness, contrast, saturation and hue."""
        brightness = self.jitter if self.brightness is None else self.brightness
        hue = self.jitter if self.hue is None else self.hue
        return brightness, self.jitter, self.jitter, hue

    @model_validator(mode="after")
    def _possible(self) -> "StrongAugmentationConfig":
        if self.hue is None and self.jitter > HALF_TURN:
            raise Mistake(
                f"jitter: expected at most {HALF_TURN}, which turns a hue to any other, got "
                f"{self.jitter} without hue",
                fix=f"write hue: {HALF_TURN} or less beside it",
            )
        least, most = self.blur_sigma_px
        if least > most:
            raise Mistake(
                f"blur_sigma_px: expected the least sigma first, got {[least, most]}",
                fix=f"write {[most, least]}",
            )
        return self


def strongly_augmented(
    images: Tensor,
    pixels: PixelFormat,
    config: StrongAugmentationConfig,
    keys: tuple[str, ...],
    draws: Draws,
    purpose: str,
) -> Tensor:
    """Normalised images (B, 3, H, W) in the network's `pixels` -> the same, changed.

    Each `purpose` has draws of its own.
    """
    shared = draws.of_step(purpose).random(3)
    changed = []
    for rgb, key in zip(unit_rgb(images, pixels), keys, strict=True):
        own = draws.of_sample(purpose, key)
        drawn = own.random(3)
        jittered, greyed, blurred = (shared if config.decided_per == "batch" else drawn) < (
            config.jitter_chance,
            config.grey_chance,
            config.blur_chance,
        )
        image = _jittered(rgb, config.strengths, own) if jittered else rgb
        image = _functional().rgb_to_grayscale(image, 3) if greyed else image
        changed.append(_blurred(image, config.blur_sigma_px, own) if blurred else image)
    return network_input(torch.stack(changed), pixels)


def unit_rgb(images: Tensor, pixels: PixelFormat) -> Tensor:
    """A network's input (B, 3, H, W) -> RGB from 0 to 1."""
    mean, deviation = _constants(pixels, images)
    raw = images * deviation + mean
    return raw.flip(1) / 255 if pixels.bgr else raw


def network_input(rgb: Tensor, pixels: PixelFormat) -> Tensor:
    """RGB from 0 to 1 (B, 3, H, W) -> a network's input."""
    mean, deviation = _constants(pixels, rgb)
    raw = rgb.flip(1) * 255 if pixels.bgr else rgb
    return (raw - mean) / deviation


def _constants(pixels: PixelFormat, like: Tensor) -> tuple[Tensor, Tensor]:
    values = torch.tensor((pixels.mean, pixels.std), dtype=like.dtype)
    mean, deviation = sent(values, like.device).view(2, 3, 1, 1).unbind()
    return mean, deviation


def _jittered(
    rgb: Tensor, strengths: tuple[float, float, float, float], draws: np.random.Generator
) -> Tensor:
    """The four changes in a random order, each by its drawn factor."""
    functional = _functional()
    changes = (
        functional.adjust_brightness,
        functional.adjust_contrast,
        functional.adjust_saturation,
        functional.adjust_hue,
    )
    factors = 1 + np.array(strengths) * draws.uniform(-1, 1, size=4)
    factors[3] -= 1  # the hue's turn
    for number in draws.permutation(4):
        rgb = changes[number](rgb, float(factors[number]))
    return rgb


def _blurred(rgb: Tensor, between_px: tuple[float, float], draws: np.random.Generator) -> Tensor:
    sigma_px = float(draws.uniform(*between_px))
    shorter = min(rgb.shape[-2:])
    kernel = min(2 * int(KERNEL_SHARE * shorter / 2) + 1, 2 * ((shorter - 1) // 2) + 1)
    return _functional().gaussian_blur(rgb, [kernel, kernel], [sigma_px, sigma_px])


def _functional():  # type: ignore[no-untyped-def]
    """torchvision's functions, whose import costs 2 s that `check` is spared."""
    from torchvision.transforms.v2 import functional

    return functional
