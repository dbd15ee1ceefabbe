"""The learning rate as a pure function of the step: DeepLab's poly law after a linear warm-up.

With power 1 the poly law is the linear decay of DAFormer, MIC and VFM-UDA.
"""

import math
from collections.abc import Callable


def poly(
    step: int,
    base: float,
    schedule_steps: int,
    power: float = 0.9,
    warmup_steps: int = 0,
    warmup: str = "even",
    warmup_ratio: float = 1e-6,
) -> float:
    """`base` (1 - step / schedule_steps) ^ power.

    Over the first `warmup_steps` the rate climbs by a law of `WARMUPS`. `step` counts the optimizer
    steps already done. From `schedule_steps` on the rate is 0.
    """
    share = max(0.0, 1 - step / schedule_steps) ** power
    if step < min(warmup_steps, schedule_steps):
        share = WARMUPS[warmup](step, warmup_steps, warmup_ratio, share)
    return base * share


def cosine(step: int, schedule_steps: int) -> float:
    """1 at the start, 0 from `schedule_steps` on, along half a cosine."""
    return (1 + math.cos(math.pi * min(1.0, step / schedule_steps))) / 2


def _even(step: int, length: int, _ratio: float, share: float) -> float:
    return share * min(1.0, (step + 1) / length)


def _daformer(step: int, length: int, ratio: float, share: float) -> float:
    return share * (1 - (1 - step / length) * (1 - ratio))


def _vfm_uda(step: int, length: int, ratio: float, _share: float) -> float:
    return ratio + (1 - ratio) * step / max(1, length - 1)


Warmup = Callable[[int, int, float, float], float]
"""Step, steps of warm-up, first ratio and the decay's share -> share of the base rate."""

WARMUPS: dict[str, Warmup] = {"even": _even, "daformer": _daformer, "vfm_uda": _vfm_uda}
"""By the spec's `optim.warmup`.

even: the decay times (step + 1) / warmup_steps. daformer: the decay times a factor that climbs from
the ratio to 1 at `warmup_steps` (mmcv's linear warm-up, of DAFormer, MIC and SegFormer). vfm_uda:
from the ratio to 1 at the last step of the warm-up, without the decay, which then begins as if it
had run all along (VFM-UDA).
"""
