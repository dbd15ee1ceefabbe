"""Colour of images in CIE L*a*b*, where equal distances look about equal."""

import torch
from torch import Tensor

from adapt.gap.divergence import shares

LIGHTNESS_BINS = 50
_TO_XYZ = (
    (0.4124564, 0.3575761, 0.1804375),
    (0.2126729, 0.7151522, 0.0721750),
    (0.0193339, 0.1191920, 0.9503041),
)
"""sRGB to XYZ under D65 (IEC 61966-2-1)."""


def lab(image: Tensor) -> Tensor:
    """(3, H, W) uint8 sRGB -> (3, H, W) float32 L* in 0..100, a*, b* (CIE 1976, D65)."""
    share = image.float() / 255
    linear = torch.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    to_xyz = torch.tensor(_TO_XYZ, device=image.device)
    xyz = torch.einsum("ij,jhw->ihw", to_xyz / to_xyz.sum(dim=1, keepdim=True), linear)
    low = (24389 / 27 * xyz + 16) / 116
    x, y, z = torch.where(xyz > 216 / 24389, xyz.clamp(min=0) ** (1 / 3), low)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def colour_statistics(pixels: Tensor) -> Tensor:
    """L*a*b* (3, H, W) -> (6,) float64: means of the channels, then standard deviations."""
    flat = pixels.flatten(1).double()
    return torch.cat([flat.mean(dim=1), flat.std(dim=1, correction=0)]).cpu()


def lightness_counts(pixels: Tensor) -> Tensor:
    """L*a*b* (3, H, W) -> (50,) float64: pixels by lightness."""
    counted = torch.histc(pixels[0], LIGHTNESS_BINS, 0, 100)
    return counted.double().cpu()


def colour_difference(one: Tensor, other: Tensor) -> float:
    """Delta E (CIE 1976) of two mean colours (3,): about 2 is just noticeable, 100 is black to
    white."""
    return (one - other).norm().item()


def lightness_shift(one: Tensor, other: Tensor) -> float:
    """The earth mover's distance of two counts by lightness (N,), in units of L*: how far the
    lightness of an average pixel moves (Rubner et al., ICCV 1998)."""
    apart = (shares(one).cumsum(0) - shares(other).cumsum(0)).abs().sum()
    return apart.item() * 100 / len(one)
