"""Block masks of masked image consistency (Hoyer et al., MIC, CVPR 2023)."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from adapt.batch import Batch
from adapt.errors import JobError, counted
from adapt.methods.draws import Draws, sent


def block_mask(batch: Batch, block_px: int, ratio: float, draws: Draws) -> Tensor:
    """(B, 1, H, W) of 1, and of 0 in the squares of `block_px` pixels drawn with chance `ratio`."""
    height, width = batch.images.shape[-2:]
    grid = (math.ceil(height / block_px), math.ceil(width / block_px))
    kept = np.stack([draws.of_sample("block mask", key).random(grid) > ratio for key in batch.keys])
    blocks = sent(torch.from_numpy(kept[:, None]), batch.images.device).to(batch.images.dtype)
    wide = F.interpolate(blocks, scale_factor=block_px, mode="nearest")
    return wide[..., :height, :width]


def check_block(
    block_px: int, block_key: str, size_key: str, size_hw: tuple[int, int], other_fix: str = ""
) -> None:
    """Raise `JobError` for a block as large as target images, whose size `size_key` sets: it hides
    all of an image or nothing. `other_fix` is what else could be done."""
    shorter = min(size_hw)
    if size_key.startswith("target.") and block_px >= shorter:
        problem = (
            f"{block_key}: expected less than the shorter side of target images, "
            f"{counted(shorter, 'pixel')} ({size_key}), got {block_px}"
        )
        fixes = [f"write {max(1, shorter // 8)}"] if shorter > 1 else []
        fixes += [one for one in (other_fix, "enlarge target images") if one]
        raise JobError(problem, ", or ".join(fixes))
