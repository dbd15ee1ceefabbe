"""Comparison of an exported file with the loaded model, before the file gets its name.

The model's side is what evaluations compute (`predict_batch`), not the network that was exported.
The sizes are the model's own, an odd one in a batch of two and an upright one; outputs have another
size than inputs. A file that differs by more than `TOLERANCE` is refused.
"""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from adapt.errors import JobError
from adapt.evaluation.inference import EnsembleMember, InferenceConfig, predict_batch
from adapt.export.programs import Run
from adapt.models.segmenter import Segmenter

_ODD_HW, _UPRIGHT_HW, _USUAL_HW = (97, 161), (224, 128), (256, 512)
_PATCH_PX = 12


class Tolerance(NamedTuple):
    """The largest difference of logits, as a share of the largest logit, and the smallest share of
    pixels of the same class."""

    difference: float = 1e-3
    equal_pixels: float = 0.999


TOLERANCE = Tolerance()


class Compared(NamedTuple):
    """One size: the images' (batch, height, width), the outputs' size, the largest absolute
    difference of the logits and of the confidences, the largest logit, and the share of pixels of
    the same class."""

    images: tuple[int, int, int]
    size_hw: tuple[int, int]
    difference: float
    confidence: float
    largest_logit: float
    equal_pixels: float

    @property
    def fits(self) -> bool:
        """True within the tolerance."""
        allowed = TOLERANCE.difference * self.largest_logit
        return self.difference <= allowed and self.equal_pixels >= TOLERANCE.equal_pixels


def sizes_to_compare(
    size_hw: tuple[int, int] | None, smallest_side_px: int
) -> list[tuple[tuple[int, int, int], tuple[int, int]]]:
    """(batch, height, width) of the images and the size of the outputs, three of them."""
    own = size_hw or _USUAL_HW
    odd, upright = (_at_least(size, smallest_side_px) for size in (_ODD_HW, _UPRIGHT_HW))
    return [
        ((1, *_at_least(own, smallest_side_px)), own),
        ((2, *odd), (odd[0] + 6, 2 * odd[1] - 1)),
        ((1, *upright), (upright[0] // 2, upright[1] // 2)),
    ]


def compare(
    run: Run, segmenter: Segmenter, views: InferenceConfig, size_hw: tuple[int, int] | None
) -> list[Compared]:
    """Run the exported file and the model at three sizes."""
    sizes = sizes_to_compare(size_hw, segmenter.encoder.smallest_side_px)
    return [_compared(run, segmenter, views, *pair) for pair in sizes]


def refuse_differences(found: list[Compared], what: str) -> None:
    """Raise `JobError` where a size is beyond the tolerance."""
    for one in found:
        if not one.fits:
            raise JobError(
                f"{what}: expected logits within {TOLERANCE.difference:g} of the largest "
                f"({one.largest_logit:.3g}) and {TOLERANCE.equal_pixels:.1%} of the pixels as the "
                f"model's, got a difference of {one.difference:.3g} and {one.equal_pixels:.3%} at "
                f"{one.images[1]}x{one.images[2]} pixels",
                "export to another format or with another --opset, and report this network",
            )


def example_images(images: tuple[int, int, int]) -> np.ndarray:
    """Patches of chance colours with noise: (B, H, W, 3) uint8, the same at each call."""
    batch, height, width = images
    generator = torch.Generator().manual_seed(height * width)
    grid = (batch, 3, height // _PATCH_PX + 1, width // _PATCH_PX + 1)
    patches = F.interpolate(torch.rand(grid, generator=generator), (height, width), mode="bicubic")
    noise = 0.05 * torch.randn(patches.shape, generator=generator)
    pixels = ((patches + noise) * 255).clamp(0, 255).to(torch.uint8)
    return np.ascontiguousarray(pixels.permute(0, 2, 3, 1).numpy())


@torch.no_grad()
def _compared(
    run: Run,
    segmenter: Segmenter,
    views: InferenceConfig,
    images: tuple[int, int, int],
    size_hw: tuple[int, int],
) -> Compared:
    pixels = example_images(images)
    planes = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    logits: Tensor = predict_batch((EnsembleMember(segmenter),), planes, size_hw, views)
    class_map, confidence, found = run(pixels, size_hw)
    expected = logits.softmax(dim=1).max(dim=1)
    return Compared(
        images,
        size_hw,
        _largest(logits.numpy() - found),
        _largest(expected.values.numpy() - confidence),
        _largest(logits.numpy()),
        float((logits.max(dim=1).indices.numpy() == class_map).mean()),
    )


def _largest(values: np.ndarray) -> float:
    """NaN counts as infinite."""
    return float(np.nan_to_num(np.abs(values), nan=np.inf).max())


def _at_least(size_hw: tuple[int, int], side: int) -> tuple[int, int]:
    return max(size_hw[0], side), max(size_hw[1], side)
