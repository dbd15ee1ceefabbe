"""Block masks of masked image consistency (Hoyer et al., MIC, CVPR 2023)."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from adapt.batch import Batch
from adapt.methods.draws import Draws


def block_mask(batch: Batch, block_px: int, ratio: float, draws: Draws) -> Tensor:
    """(B, 1, H, W) of 1, and of 0 in the squares of `block_px` pixels drawn with chance `ratio`."""
    height, width = batch.images.shape[-2:]
    grid = (math.ceil(height / block_px), math.ceil(width / block_px))
    kept = np.stack([draws.of_sample("block mask", key).random(grid) > ratio for key in batch.keys])
    blocks = torch.from_numpy(kept[:, None]).to(batch.images.device, batch.images.dtype)
    wide = F.interpolate(blocks, scale_factor=block_px, mode="nearest")
    return wide[..., :height, :width]
