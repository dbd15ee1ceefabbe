"""Tables of positions of vision transformers, resized in exported programs by matrix products.

ONNX has the bicubic resizing that timm uses, antialiased, but what the exporter writes for it has
other values. Keys' cubic (a = -0.5, as PyTorch's antialiased one) is stretched where the table
shrinks.
"""

import contextlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from adapt.models.encoders.vit import MODULES

_NAME = "resample_abs_pos_embed"


@contextlib.contextmanager
def tables_by_products() -> Iterator[None]:
    """Within it timm's vision transformers resize their tables by `resized`."""
    loaded = [sys.modules[name] for name in MODULES if name in sys.modules]
    own = {module: getattr(module, _NAME) for module in loaded}
    for module in loaded:
        setattr(module, _NAME, resized)
    try:
        yield
    finally:
        for module, function in own.items():
            setattr(module, _NAME, function)


def resized(
    posemb: Tensor,
    new_size: Sequence[int],
    old_size: Sequence[int],
    num_prefix_tokens: int = 1,
    **_others: Any,
) -> Tensor:
    """(1, prefix + h w, C) of the grid `old_size` -> (1, prefix + H W, C) of `new_size`, as timm's
    function of the name."""
    prefix, table = posemb[:, :num_prefix_tokens], posemb[0, num_prefix_tokens:]
    rows, columns = (shares(*pair) for pair in zip(new_size, old_size, strict=True))
    grid = table.reshape(*old_size, -1).permute(2, 0, 1)
    found = rows @ grid @ columns.T
    return torch.cat([prefix, found.flatten(1).T[None]], dim=1)


def shares(count: int, length: int) -> Tensor:
    """The share of each of `length` values in each of `count` new ones: (count, length) float32."""
    number = torch.arange(count)[:, None].float()
    scale = length / (number[-1:] + 1)
    centres = (number + 0.5) * scale
    distances = ((torch.arange(length) + 0.5 - centres) / scale.clamp(min=1)).abs()
    near = (1.5 * distances - 2.5) * distances**2 + 1
    far = ((-0.5 * distances + 2.5) * distances - 4) * distances + 2
    weights = torch.where(distances < 1, near, torch.where(distances < 2, far, 0.0))
    return weights / weights.sum(dim=1, keepdim=True)
