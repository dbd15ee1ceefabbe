"""The keys of a spec that may change when a job resumes from a checkpoint."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from adapt.engine.optim import schedule_length
from adapt.errors import JobError, written
from adapt.spec.job_spec import JobSpec

MAY_CHANGE = (
    "name",
    "stream.threads",
    "stream.prefetch_batches",
    "stream.decoded_mb",
    "stream.cache_gb",
    "stream.memory_gb",
    "tracking",
    "stores",
    "checkpoint.uri",
    "checkpoint.every_minutes",
    "checkpoint.every_steps",
    "checkpoint.keep",
    "report",
    "evaluate.pictures",
    "evaluate.batch_size",
    "evaluate.early_stop",
    "method.max_gap_points",
    "train.activation_checkpointing",
    "train.max_bad_steps",
    "train.stall_minutes",
    "train.log_every_steps",
    "train.max_cost",
    "train.profile_steps",
)
"""Keys that may differ between a checkpoint's spec and the spec that resumes it: none changes the
weights."""


def check_same_job(saved: JobSpec, now: JobSpec, weights_uri: str = "its weights") -> None:
    """Raise `JobError` naming the first key that changed and matters since a checkpoint was
    written.

    `train.steps` may change where the schedule of the learning rate stays. `weights_uri` are the
    checkpoint's, for messages.
    """
    _check_schedule(saved, now, weights_uri)
    free = (*MAY_CHANGE, *_moved(saved, now), "train.steps", "optim.schedule_steps")
    for key, before, after in changed_keys(saved.resolved(), now.resolved(), free):
        raise JobError(
            f"{key}: expected {written(before)}, the value of the run's checkpoint, "
            f"got {written(after)}",
            fix="change it back, rename the run, or start over with --fresh",
        )


def changed_keys(
    saved: Mapping[str, Any], now: Mapping[str, Any], free: Sequence[str] = MAY_CHANGE
) -> Iterator[tuple[str, Any, Any]]:
    """The keys of two resolved specs whose values differ and matter, with both: all but the `free`
    ones and where the same data lie."""
    before, after = _flat(saved), _flat(now)
    for key in sorted(before.keys() | after.keys()):
        kept = any(key == name or key.startswith(f"{name}.") for name in free)
        moved = key.endswith((".uri", ".labelled_keys_uri"))
        if not kept and not moved and before.get(key) != after.get(key):
            yield key, before.get(key), after.get(key)


def _moved(saved: JobSpec, now: JobSpec) -> tuple[str, ...]:
    """Addresses of weights that may change, since others than the run's are refused by their sha256
    when they are read."""
    stated = [job.model.weights_sha256 for job in (saved, now)]
    proven = now.checkpoint.trained_only or (stated[0] is not None and stated[0] == stated[1])
    return ("distillation.weights_uri", *(["model.weights_uri"] if proven else []))


def _check_schedule(saved: JobSpec, now: JobSpec, weights_uri: str) -> None:
    lengths = [schedule_length(job.optim, job.train.steps) for job in (saved, now)]
    if lengths[0] == lengths[1]:
        return
    key = "optim.schedule_steps"
    if saved.optim.schedule_steps == now.optim.schedule_steps:
        key = "train.steps"
    raise JobError(
        f"{key}: expected {lengths[0]}, at which the learning rate's schedule of the run's "
        f"checkpoint ends, got {lengths[1]}",
        fix="change it back, or train longer under another name with model.start_uri: "
        f"{weights_uri}; a run that may be prolonged sets optim.schedule_steps from the start",
    )


def _flat(values: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(values, list) and any(isinstance(one, dict) for one in values):
        values = dict(enumerate(values))
    if not isinstance(values, dict):
        return {prefix: values}
    pairs: dict[str, Any] = {}
    for key, value in values.items():
        pairs |= _flat(value, f"{prefix}.{key}" if prefix else key)
    return pairs
