"""Texture of images: local binary patterns, sharpness, and where in the picture the detail is."""

import torch
import torch.nn.functional as F
from torch import Tensor

PATTERNS, ROWS = 10, 8
_AROUND = ((0, 0), (0, 1), (0, 2), (1, 2), (2, 2), (2, 1), (2, 0), (1, 0))
"""Rows and columns of a pixel's eight neighbours, in order round it."""


def pattern_counts(grey: Tensor) -> Tensor:
    """(H, W) -> (10,) float64: pixels by local binary pattern, the number of the eight neighbours
    that are as light or lighter where those lie side by side, else 9.

    LBP riu2 of Ojala, Pietikainen and Maenpaa, IEEE TPAMI 2002, at radius 1. Neither lightness nor
    contrast changes it; noise, blur and rendering do.
    """
    height, width = grey.shape
    middle = grey[1:-1, 1:-1]
    around = torch.stack(
        [grey[y : height - 2 + y, x : width - 2 + x] >= middle for y, x in _AROUND]
    )
    changes = (around != around.roll(1, dims=0)).sum(dim=0)
    patterns = torch.where(changes <= 2, around.sum(dim=0), PATTERNS - 1)
    return torch.bincount(patterns.flatten(), minlength=PATTERNS).double().cpu()


def sharpness(grey: Tensor) -> float:
    """Variance of the Laplacian of (H, W): low for blurred images (Pech-Pacheco et al., ICPR
    2000)."""
    kernel = grey.new_tensor([[0, 1, 0], [1, -4, 1], [0, 1, 0]])
    return F.conv2d(grey[None, None], kernel[None, None]).double().var(correction=0).item()


def detail_by_row(grey: Tensor) -> Tensor:
    """(H, W) -> (8,) float64: summed size of the gradient in eighths of the height, top to bottom.

    The horizon, the road and the sky leave their mark here: another viewpoint moves it.
    """
    across, down = grey[:-1, 1:] - grey[:-1, :-1], grey[1:, :-1] - grey[:-1, :-1]
    by_line = (across.square() + down.square()).sqrt().sum(dim=1).double().cpu()
    return in_rows(by_line)


def in_rows(by_line: Tensor) -> Tensor:
    """Values by line (..., H) -> their sums by eighth of the height, (..., 8)."""
    height = by_line.shape[-1]
    rows = torch.arange(height) * ROWS // height
    summed = by_line.new_zeros(*by_line.shape[:-1], ROWS)
    return summed.index_add_(-1, rows, by_line)
