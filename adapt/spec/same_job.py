"""The keys of a spec that may change when a job resumes from a checkpoint."""

from typing import Any

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
    "checkpoint",
    "evaluate.pictures",
    "train.max_bad_steps",
    "train.stall_minutes",
    "train.log_every_steps",
)
"""Keys that may differ between a checkpoint's spec and the spec that resumes it: none changes the
weights."""


def check_same_job(saved: JobSpec, now: JobSpec) -> None:
    """Raise `JobError` naming the first key that changed and matters since a checkpoint was
    written."""
    before, after = _flat(saved.resolved()), _flat(now.resolved())
    free = (*MAY_CHANGE, "train.steps") if now.optim.schedule_steps else MAY_CHANGE
    for key in sorted(before.keys() | after.keys()):
        kept = any(key == name or key.startswith(f"{name}.") for name in free) or key.endswith(
            ".uri"
        )
        if not kept and before.get(key) != after.get(key):
            raise JobError(
                f"{key}: expected {written(before.get(key))}, the value of the run's checkpoint, "
                f"got {written(after.get(key))}",
                fix="change it back, rename the run, or start over with --fresh",
            )


def _flat(values: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(values, dict):
        return {prefix: values}
    pairs: dict[str, Any] = {}
    for key, value in values.items():
        pairs |= _flat(value, f"{prefix}.{key}" if prefix else key)
    return pairs
