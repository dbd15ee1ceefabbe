"""Exchange of low-frequency amplitudes between domains (Yang and Soatto, FDA, CVPR 2020).

The look of an image, its light and its colour cast, lies in the amplitudes of its low frequencies,
and its content in the phases. Source images get the target's low amplitudes and keep their phases.
"""

import torch
from torch import Tensor


def with_low_amplitudes_of(target: Tensor, source: Tensor, beta: float) -> Tensor:
    """Source (B, 3, H, W) with the target's amplitudes at the lowest frequencies; raw pixels.

    These are the frequencies -b to b - 1 of each axis, b = floor(beta min(H, W)), as in the
    program's training; the paper's Eq. 3 has b too. On images so small that b would be 0 it is 1,
    or the method would do nothing. Values may leave the source's range.
    """
    height, width = source.shape[-2:]
    reach = max(1, int(min(height, width) * beta)) if beta else 0
    spectrum, other = torch.fft.fft2(source), torch.fft.fft2(target)
    amplitude, wanted = spectrum.abs(), other.abs()
    rows, columns = (_low(side, reach, source.device) for side in (height, width))
    low = rows[:, None] & columns[None, :]
    changed = torch.polar(torch.where(low, wanted, amplitude), spectrum.angle())
    return torch.fft.ifft2(changed).real


def _low(side: int, reach: int, device: torch.device) -> Tensor:
    """bool (side,): whether a frequency of the transform's order lies in [-reach, reach)."""
    places = torch.arange(side, device=device)
    return (places < reach) | (places >= side - reach)
