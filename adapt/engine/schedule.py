"""The learning rate as a pure function of the step: DeepLab's poly law after a linear warm-up."""


def poly(
    step: int, base: float, schedule_steps: int, power: float = 0.9, warmup_steps: int = 0
) -> float:
    """`base` (1 - step / schedule_steps) ^ power.

    Over the first `warmup_steps` it also climbs linearly. `step` counts the optimizer steps already
    done. From `schedule_steps` on the rate is 0.
    """
    rate = base * max(0.0, 1 - step / schedule_steps) ** power
    return rate * min(1.0, (step + 1) / warmup_steps) if warmup_steps else rate
