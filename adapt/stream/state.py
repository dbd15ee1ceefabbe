"""The state of a stream in a checkpoint, and the check that a job may resume from it."""

from collections.abc import Mapping
from typing import Any

from adapt.data.packed.mixture import Mixture
from adapt.data.packed.packed_split import PackedSplit
from adapt.errors import JobError, written
from adapt.stream.config import StreamConfig

FIXES = {
    "dataset_id": "use the dataset that it was trained on (tag segadapt.* in MLflow)",
    "seed": "set seed back",
    "batch_size": "set batch_size back",
    "sampling": "set stream.sampling back",
    "window_shards": "set stream.window_shards back",
}
"""Everything that decides the samples of a run, and how to have it back."""


def state_of(
    split: PackedSplit | Mixture, seed: int, batch_size: int, config: StreamConfig, draw: int
) -> dict[str, Any]:
    """The state of a domain's stream, with `draw` as the next one: plain values, under 300 bytes of
    JSON."""
    return {
        "dataset_id": split.dataset_id,
        "seed": seed,
        "batch_size": batch_size,
        "sampling": config.sampling,
        "window_shards": config.window_shards,
        "draw": draw,
    }


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
