"""The amplitude of images by spatial frequency: which frequencies carry the difference of two
domains.

Frequencies are in cycles a pixel of the images that the network sees, 0.5 the finest. FDA (Yang and
Soatto, CVPR 2020) swaps amplitudes up to `beta` of them; its three values are edges of bands here.
"""

import torch
from torch import Tensor

EDGES = (0.0, 0.01, 0.02, 0.03, 0.05, 0.07, 0.09, 0.13, 0.18, 0.25, 0.35, 0.5)
FDA_BETAS = (0.01, 0.05, 0.09)
"""Those of the paper."""
_SMALLEST = 1e-8


def radial_amplitude(grey: Tensor) -> Tensor:
    """(H, W) -> (11,) float64: log10 of the mean amplitude in each band of `EDGES`, after the mean
    is taken out and the borders are faded (Hann); NaN for a band that so small an image lacks."""
    height, width = grey.shape
    window = torch.outer(_hann(height, grey), _hann(width, grey))
    amplitude = torch.fft.fft2((grey - grey.mean()) * window, norm="ortho").abs().double()
    down, across = (torch.fft.fftfreq(n, device=grey.device) for n in (height, width))
    radius = (down[:, None].square() + across[None, :].square()).sqrt()
    edges = torch.tensor(EDGES, device=grey.device)
    band = torch.bucketize(radius, edges) - 1  # the constant part, radius 0, is in none
    known = (band >= 0) & (band < len(EDGES) - 1)
    summed = amplitude.new_zeros(len(EDGES) - 1).index_add_(0, band[known], amplitude[known])
    counts = torch.bincount(band[known], minlength=len(EDGES) - 1)
    return (summed / counts).clamp(min=_SMALLEST).log10().cpu()


def _hann(length: int, like: Tensor) -> Tensor:
    return torch.hann_window(length, periodic=False, dtype=like.dtype, device=like.device)


def spectrum_difference(one: Tensor, other: Tensor) -> float:
    """Mean difference of two log10 spectra (N,) over the bands that both have: 0.3 is a factor of
    two in amplitude."""
    return (one - other).abs().nanmean().item()


def low_share(one: Tensor, other: Tensor) -> float:
    """The share of the summed difference of two log10 spectra (N,) that lies at FDA's frequencies,
    up to 0.09; NaN where there is no difference."""
    apart = (one - other).abs().nan_to_num()
    low = apart[: EDGES.index(FDA_BETAS[-1])].sum()
    return (low / apart.sum()).item()


def suggested_beta(one: Tensor, other: Tensor, least: float) -> float:
    """The smallest of FDA's values of beta up to which all the low bands lie whose amplitude
    differs by `least` (log10) or more; the smallest where none does."""
    apart = (one - other).abs().nan_to_num()
    last = EDGES.index(FDA_BETAS[-1])
    different = [EDGES[band + 1] for band in range(last) if apart[band] >= least]
    top = max(different, default=0.0)
    return next(beta for beta in FDA_BETAS if beta >= top)
