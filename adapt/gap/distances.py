"""Distances of two sets of feature vectors, source (N, C) and target (M, C), all in float64.

Features are first standardised over both sets together, so that layers and networks can be
compared; the distances themselves are as published.
"""

import torch
from torch import Tensor

FOLDS, RIDGE = 5, 0.1
"""Parts of the cross-validation, and the regularisation of its linear classifier."""


def standardised(source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Both sets with mean 0 and standard deviation 1 of each channel over both together; channels
    that are constant become 0."""
    both = torch.cat([source, target]).double()
    mean, std = both.mean(dim=0), both.std(dim=0, correction=0)
    scale = torch.where(std > 1e-9, std, torch.inf)
    return (source.double() - mean) / scale, (target.double() - mean) / scale


def frechet_distance(source: Tensor, target: Tensor) -> float:
    """Squared Frechet distance of the Gaussians with the sets' means and covariances:
    |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)).

    Dowson and Landau, 1982; as FID in Heusel et al., NeurIPS 2017. The trace of the root is the sum
    of the singular values of X1 X2^T, so that no root of a (C, C) matrix is taken. It grows as sets
    get smaller: compare with the distance of two halves of one domain.
    """
    apart = (source.mean(dim=0) - target.mean(dim=0)).square().sum()
    first, second = _centred(source), _centred(target)
    root = torch.linalg.svdvals(first @ second.T).sum()
    spread = first.square().sum() + second.square().sum() - 2 * root
    return (apart + spread).clamp(min=0).item()


def _centred(features: Tensor) -> Tensor:
    """Rows whose products are those of the covariance."""
    return (features - features.mean(dim=0)) / max(1, len(features) - 1) ** 0.5


def kernel_distance(source: Tensor, target: Tensor) -> float:
    """Unbiased squared maximum mean discrepancy with KID's kernel (x y / C + 1)^3.

    Gretton et al., JMLR 2012; Binkowski et al., Demystifying MMD GANs, ICLR 2018. Its mean is 0 for
    sets of one distribution at any size, so it may be slightly negative.
    """
    within = [_mean_without_diagonal(_kernel(one, one)) for one in (source, target)]
    return (sum(within) - 2 * _kernel(source, target).mean()).item()


def _kernel(one: Tensor, other: Tensor) -> Tensor:
    return (one @ other.T / one.shape[1] + 1) ** 3


def _mean_without_diagonal(matrix: Tensor) -> Tensor:
    count = len(matrix)
    return (matrix.sum() - matrix.trace()) / (count * (count - 1))


def proxy_a_distance(source: Tensor, target: Tensor) -> float:
    """2 (1 - 2 err), err the error of a linear classifier of the domain on images that it was
    not fitted to: 2 where they never look alike, 0 where it guesses.

    Ben-David et al., Analysis of Representations for Domain Adaptation, NIPS 2006. The classifier
    is ridge regression, err the mean of both domains' errors over five folds; less than 0 is 0.
    """
    features = torch.cat([source, target]).double()
    domain = torch.cat([features.new_ones(len(source)), -features.new_ones(len(target))])
    fold = torch.cat([torch.arange(len(source)), torch.arange(len(target))]) % FOLDS
    said = torch.zeros_like(domain)
    for number in range(FOLDS):
        held = fold == number
        said[held] = _ridge(features[~held], domain[~held], features[held])
    wrong = (said.sign() != domain).double()
    error = (wrong[domain > 0].mean() + wrong[domain < 0].mean()) / 2
    return max(0.0, 2 * (1 - 2 * error.item()))


def _ridge(known: Tensor, domain: Tensor, asked: Tensor) -> Tensor:
    """Predictions (M,) for `asked` (M, C), fitted to both domains alike."""
    weights = torch.where(domain > 0, 1 / (domain > 0).sum(), 1 / (domain < 0).sum())
    middle = (known * weights[:, None]).sum(dim=0) / 2
    known, asked = known - middle, asked - middle
    products = known @ known.T / known.shape[1]
    regular = RIDGE * torch.eye(len(known), dtype=known.dtype)
    return asked @ known.T / known.shape[1] @ torch.linalg.solve(products + regular, domain)


def nearest(source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Of each target vector the least cosine distance to a source vector, in [0, 2], and that one's
    number: (M,) float64 and (M,) int64."""
    unit = [torch.nn.functional.normalize(one, dim=1) for one in (target, source)]
    found = (1 - unit[0] @ unit[1].T).min(dim=1)
    return found.values, found.indices
