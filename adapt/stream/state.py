"""The state of a stream in a checkpoint, and the check that a job may resume from it."""

from collections.abc import Mapping
from typing import Any

from adapt.errors import JobError, written

FIXES = {
    "dataset_id": "use the dataset that it was trained on (tag segadapt.* in MLflow)",
    "seed": "set seed back",
    "batch_size": "set batch_size back",
    "sampling": "set stream.sampling back",
    "window_shards": "set stream.window_shards back",
}
"""Everything that decides the samples of a run, and how to have it back."""


def check_state(state: Mapping[str, Any], now: Mapping[str, Any], key: str) -> None:
    """Raise `JobError` naming the first difference between a checkpoint's stream and this job's;
    `key` is the domain's section of the job spec."""
    for name, fix in FIXES.items():
        if state[name] != now[name]:
            raise JobError(
                f"{key}: expected {name} {written(state[name])}, with which the run's checkpoint "
                f"was made, got {written(now[name])}: its samples cannot be resumed",
                fix=f"{fix}, rename the run, or start over with --fresh",
            )
