"""Steps that move nothing, since a loss or a gradient is not finite: named in the log, and the end
of a job that has too many, or nothing else."""

import logging
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from adapt.errors import JobError

log = logging.getLogger(__name__)

BadStep = tuple[int, tuple[str, ...]]
"""The steps before it, and the keys of its samples."""


class PendingStep(NamedTuple):
    """A step of which the device alone knows whether it was `taken`: the steps before it, the keys
    of this rank's samples, its losses."""

    step: int
    keys: tuple[str, ...]
    taken: Tensor
    logged: Mapping[str, Tensor]


def refused(pending: Sequence[PendingStep]) -> list[PendingStep]:
    """Those that were not taken. Waits for the device, once."""
    if not pending:
        return []
    taken = torch.stack([one.taken for one in pending]).tolist()
    return [one for one, was_taken in zip(pending, taken, strict=True) if not was_taken]


def refuse_step(bad_steps: Sequence[BadStep], logged: Mapping[str, Tensor], most: int) -> None:
    """Log the last of a run's bad steps, with its losses. Raises `JobError` after more than `most`
    of them."""
    step, keys = bad_steps[-1]
    wrong = [name for name, value in logged.items() if not bool(value.isfinite())]
    log.warning(
        "step %d is refused, %s not finite (bad step %d of at most %d); its samples: %s",
        step + 1,
        f"{', '.join(wrong)} is" if wrong else "a gradient, or another rank's loss, is",
        len(bad_steps),
        most,
        ", ".join(keys),
    )
    if len(bad_steps) > most:
        listed = "\n".join(f"  step {step + 1}: {', '.join(keys)}" for step, keys in bad_steps)
        raise JobError(
            f"train.max_bad_steps: expected at most {most} steps whose loss or gradient is not "
            f"finite, got {len(bad_steps)}:\n{listed}",
            fix="lower optim.lr, set train.clip_norm, or check these samples",
        )


def refuse_standstill(bad_steps: Sequence[BadStep], step_count: int) -> None:
    """Raise `JobError` where steps were made and each of them was bad."""
    if step_count and len(bad_steps) == step_count:
        raise JobError(
            f"train: expected steps that move the networks, got {step_count} of which the loss or "
            "gradient was never finite: nothing was learned",
            fix="lower optim.lr, set train.clip_norm, or check the weights that it starts from",
        )
