"""How long and how precisely to train: the job spec's `train`, and the tables of its choices."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from adapt.batch import Batch
from adapt.config.section import Section
from adapt.config.validation import Mistake
from adapt.counts import counted_together
from adapt.methods.moving_average import MovingAverageConfig


class TrainConfig(Section):
    """How long and how precisely to train."""

    steps: int = Field(120_000, ge=1, description="Optimizer steps (ADVENT's value).")
    precision: Literal["fp32", "bf16"] = Field(
        "fp32",
        description="bf16: autocast, and images channels last, as its kernels are fastest; losses "
        "that need it stay in float32.",
    )
    accumulate: int = Field(
        1,
        ge=1,
        description="Parts into which a rank's batch is split, one backward each, to save memory.",
    )
    accumulate_mean: Literal["batch", "parts"] = Field(
        "batch",
        description="Mean of losses over labelled pixels where a batch is split. batch: "
        "over those of the whole batch, so that parts train as one batch does; parts: the mean of "
        "the parts' means, the papers' iter_size.",
    )
    activation_checkpointing: Literal["none", "blocks"] = Field(
        "none",
        description="blocks: of each block of the encoder the input alone is kept for the backward "
        "pass, which computes the rest again: less memory for about a third more time, and the "
        "same numbers.",
    )
    frozen_weights: Literal["fp32", "bf16"] = Field(
        "fp32",
        description="bf16: weights of convolutions and linear layers that never move are held in "
        "half the memory; with precision bf16, which rounds them at every use, the numbers are the "
        "same.",
    )
    parallel: Literal["average", "fsdp2"] = Field(
        "average",
        description="The share of each rank. average: all networks, and gradients are averaged "
        "once a step; fsdp2: a part of the segmentation network's parameters, gradients and "
        "optimizer states, of its averages, teachers and fixed encoders (PyTorch's fully_shard); "
        "adversaries whole.",
    )
    clip_norm: float | None = Field(
        None,
        gt=0,
        description="Largest gradient norm of the segmentation network; null: no clipping.",
    )
    ema: MovingAverageConfig | None = Field(
        None,
        description="A moving average of the network to evaluate and save (`evaluate.ema`), with "
        "the running statistics of its norms; null: the method's teacher, where it has one.",
    )
    sync_batch_norm: bool = Field(
        False,
        description="Batch norm by the statistics of all ranks' images, as one rank with the whole "
        "batch has them; else each rank normalises by its own. Costs two small exchanges a layer.",
    )
    max_bad_steps: int = Field(
        10,
        ge=0,
        description="Steps whose loss or gradient is not finite are refused: nothing moves, and "
        "their samples are named at the next step that is logged. After more than so many the job "
        "ends there.",
    )
    stall_minutes: float = Field(
        20.0,
        gt=0,
        description="Watchdog timeout: longest time without progress on any rank, from its start "
        "on. Then the stacks of all ranks are logged and stored, and the job ends with 75. Longer "
        "than the ten minutes for which an unreachable store is retried.",
    )
    max_cost: float | None = Field(
        None,
        gt=0,
        description="Cost of the run, restarts included, at which it is saved and ends with 75, in "
        "`report.currency` by `report.price_per_hour`; raised, it continues. null: no limit.",
    )
    profile_steps: int = Field(
        0,
        ge=0,
        le=100,
        description="Steps that PyTorch's profiler traces, after ten others, on the leader: the "
        "trace and a page of where the time goes are left in the run's `profile/` and in MLflow "
        "(`--profile`: 5). Every start of the run traces anew. 0: none, and nothing is measured.",
    )
    log_every_steps: int = Field(
        20,
        ge=1,
        description="Steps between two lines of the log, at which alone Python waits for the GPU; "
        "of refused steps every 100 at the latest.",
    )

    @model_validator(mode="after")
    def _rounded_at_use(self) -> "TrainConfig":
        if self.frozen_weights == "bf16" and self.precision != "bf16":
            raise Mistake(
                f"frozen_weights: expected fp32 with precision {self.precision}, got bf16: steps "
                "would compute with other weights than fp32's",
                fix="set train.precision: bf16, or train.frozen_weights: fp32",
            )
        return self


PRECISIONS: dict[str, Callable[[str], AbstractContextManager[Any]]] = {
    "fp32": lambda _device_type: nullcontext(),
    "bf16": lambda device_type: torch.autocast(device_type, torch.bfloat16),
}
"""By the spec's `train.precision`: the context in which terms are computed, by type of device."""

MEANS: dict[str, Callable[..., AbstractContextManager[Any]]] = {
    "batch": lambda *batches: counted_together(*map(_labels_of, batches)),
    "parts": lambda *_batches: nullcontext(),
}
"""By the spec's `train.accumulate_mean`: the context in which a step's batches, each given as its
parts, are learned from."""


def _labels_of(parts: Sequence[Batch | None]) -> list[Tensor]:
    """The labels of a batch's parts; none where it has none."""
    return [one.labels for one in parts if one is not None and one.labels is not None]
