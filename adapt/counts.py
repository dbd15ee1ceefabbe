"""The divisors of losses: how many pixels, or images, the whole batch counts.

A step's batch is spread over ranks and, with `train.accumulate`, over parts, and ignored pixels are
spread unevenly over both. Counts depend on labels alone, so all of them are known before any part
is learned from.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

from adapt.ranks import num_ranks, sum_over_ranks

_BATCHES: ContextVar[Sequence[Sequence[Tensor]]] = ContextVar("batches", default=())


@contextmanager
def counted_together(*batches: Sequence[Tensor]) -> Iterator[None]:
    """Within it losses on labels (B, H, W) that are a part of one of these batches are divided by
    the counts of all parts of that batch."""
    token = _BATCHES.set(batches)
    try:
        yield
    finally:
        _BATCHES.reset(token)


def shared_mean(total: Tensor, labels: Tensor, count: Callable[[Tensor], Tensor]) -> Tensor:
    """A sum over what `count` finds in the labels, divided by `shared_count`; in the sum's type."""
    return (total / shared_count(labels, count)).to(total.dtype)


def shared_count(labels: Tensor, count: Callable[[Tensor], Tensor]) -> Tensor:
    """The divisor of a sum over what `count` finds in the labels: its mean over ranks and over the
    parts that are `counted_together`; 1 for none.

    Gradients are averaged over ranks and parts afterwards, so that ranks and parts which see
    different numbers of ignored pixels train as one rank does on all of them at once. Alone it is
    the count itself.
    """
    parts = next(
        (batch for batch in _BATCHES.get() if any(labels is part for part in batch)), (labels,)
    )
    total = torch.stack([count(part) for part in parts]).sum()
    shares = len(parts) * num_ranks()
    if shares > 1:
        total = sum_over_ranks(total).double() / shares
    return torch.where(total > 0, total, 1)
