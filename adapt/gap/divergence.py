"""How far two distributions over the same bins are from one another."""

from torch import Tensor


def shares(counts: Tensor) -> Tensor:
    """Counts -> the same as shares of their sum, float64; zeros where nothing was counted."""
    values = counts.double()
    return values / values.sum().clamp(min=1e-12)


def kullback_leibler(of: Tensor, to: Tensor) -> float:
    """KL(of || to) of two distributions (N,), in bits; infinite where `to` lacks what `of` has."""
    there = of > 0
    return (of[there] * (of[there] / to[there]).log2()).sum().item()


def jensen_shannon(one: Tensor, other: Tensor) -> float:
    """Jensen-Shannon divergence of counts or shares (N,) twice, in bits: 0 for equal ones, 1 for
    distributions that share no bin; NaN where one of them is empty.

    Lin, Divergence Measures Based on the Shannon Entropy, IEEE Transactions on Information Theory,
    1991.
    """
    if not (one.sum() > 0 and other.sum() > 0):
        return float("nan")
    first, second = shares(one), shares(other)
    middle = (first + second) / 2
    return (kullback_leibler(first, middle) + kullback_leibler(second, middle)) / 2
