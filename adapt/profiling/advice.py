"""Advice on a profile: a sentence for each limit that it exceeds, with the key that helps.

The numbers that decide are guesses, above what a run that needs nothing shows.
"""

from collections.abc import Callable, Iterator

from adapt.profiling.profile import Profile
from adapt.profiling.timeline import (
    BACKWARD,
    COMMUNICATION,
    DATA,
    DISCRIMINATORS,
    EVALUATION,
    FORWARD,
    LOGGING,
    OPTIMIZER,
    SAVING,
    TEACHER,
)

MOST = {
    DATA: 0.05,
    COMMUNICATION: 0.15,
    OPTIMIZER: 0.2,
    LOGGING: 0.05,
    "idle": 0.2,
    EVALUATION: 0.2,
    SAVING: 0.05,
}
"""Share from which there is advice, of the traced steps; of evaluation and saving of the start."""
FASTER_BF16 = 1.3
FREE_MEMORY = 0.4
GOOD_MFU = 0.4

Rule = Callable[[Profile], str | None]


def advise(profile: Profile) -> list[str]:
    """Sentences on settings that make the run faster, in the order of `RULES`; never empty."""
    found = [text for rule in RULES if (text := rule(profile)) is not None]
    return found or [_nothing(profile)]


def _data(profile: Profile) -> str | None:
    share, threads = profile.share(DATA), profile.machine.threads
    if share < MOST[DATA]:
        return None
    return (
        f"{share:.0%} of the time waits for data: raise stream.threads ({threads} a rank now) "
        "where cores are free, pack with --classes and --size-hw, or with --small."
    )


def _idle(profile: Profile) -> str | None:
    """Without waiting for data, for ranks and for the host's own work."""
    if profile.idle is None:
        return None
    hidden = (DATA, COMMUNICATION, EVALUATION, SAVING, LOGGING)
    share = profile.idle - sum(profile.share(kind) for kind in hidden)
    if share < MOST["idle"]:
        return None
    return (
        f"The GPU is idle for {share:.0%} of the time, until the process has launched its next "
        "kernel: raise batch_size or crop_hw, so that a step has larger kernels and not more."
    )


def _communication(profile: Profile) -> str | None:
    share = profile.share(COMMUNICATION)
    if share < MOST[COMMUNICATION]:
        return None
    return (
        f"{share:.0%} of the time goes to other ranks: raise batch_size, with train.accumulate "
        "where memory is short, for fewer exchanges a sample; keep ranks on one node; a rank that "
        "is slower than the others makes all wait."
    )


def _precision(profile: Profile) -> str | None:
    machine = profile.machine
    if machine.precision != "fp32" or (machine.faster_bf16 or 0) < FASTER_BF16:
        return None
    return (
        f"The device multiplies {machine.faster_bf16:.1f} times as fast in bf16: set "
        "train.precision: bf16."
    )


def _checkpointing(profile: Profile) -> str | None:
    machine = profile.machine
    if machine.activation_checkpointing == "none" or (machine.free_memory or 0) < FREE_MEMORY:
        return None
    return (
        f"{machine.free_memory:.0%} of the GPU's memory is free: set "
        "train.activation_checkpointing: none, which computes no activation twice."
    )


def _optimizer(profile: Profile) -> str | None:
    share = profile.share(OPTIMIZER)
    if share < MOST[OPTIMIZER]:
        return None
    return (
        f"{share:.0%} of the time goes to updates of the weights: raise batch_size, for fewer "
        "updates a sample."
    )


def _logging(profile: Profile) -> str | None:
    share = profile.share(LOGGING)
    if share < MOST[LOGGING]:
        return None
    return f"{share:.0%} of the time goes to logging: raise train.log_every_steps."


def _evaluation(profile: Profile) -> str | None:
    share = profile.start_share(EVALUATION)
    if share < MOST[EVALUATION]:
        return None
    return f"{share:.0%} of this start went to evaluations: raise evaluate.every_steps."


def _saving(profile: Profile) -> str | None:
    share = profile.start_share(SAVING)
    if share < MOST[SAVING]:
        return None
    return (
        f"{share:.0%} of this start went to copying checkpoints: raise checkpoint.every_minutes, "
        "or set checkpoint.every_steps to more."
    )


RULES: tuple[Rule, ...] = (
    *(_data, _idle, _communication, _precision, _checkpointing),
    *(_optimizer, _logging, _evaluation, _saving),
)
"""In the order of the page."""


def _nothing(profile: Profile) -> str:
    return " ".join(_sentences(profile))


def _sentences(profile: Profile) -> Iterator[str]:
    passes = (FORWARD, BACKWARD, DISCRIMINATORS, TEACHER)
    share = sum(profile.share(kind) for kind in passes)
    yield f"No setting stands out: {share:.0%} of the time is the networks' own."
    if profile.mfu is not None and profile.mfu < GOOD_MFU:
        yield (
            f"They reach {profile.mfu:.0%} of the device's peak; larger batches or crops use it "
            "better, and the table of operators has where the time goes."
        )
