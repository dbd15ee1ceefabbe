"""Batch norm over too few values for bf16.

Two values are normalised to plus and minus one whatever they are: rounding decides the sign, and
the gradient is noise. Measured on stacks of convolution, norm and ReLU in bf16 against fp32, cosine
of the gradients: 2 values a channel 0.46 for one layer and 0.13 for four, 3 values 0.94 and 0.60, 4
values 1.00 and 0.96, from 8 on as good as 128. One value is normalised by running statistics.
"""

from collections.abc import Callable, Iterable
from inspect import signature
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from adapt.check.subject import Findings, Subject
from adapt.errors import JobError, counted
from adapt.methods import METHODS
from adapt.models.segmenter import Segmenter
from adapt.platforms.platform import Finding
from adapt.spec.job_spec import JobSpec
from adapt.trainer.networks import build_without_memory
from adapt.trainer.problems import BATCHES, problems

LEAST_VALUES = 4
"""Values a channel that bf16 needs."""

ADVICE = (
    "rounding decides their gradients; 8 or more images a rank, larger crops, "
    "train.sync_batch_norm: true or train.precision: fp32 avoid it"
)

_SIGNATURE = signature(F.batch_norm)


def norm_findings(subject: Subject) -> Findings:
    """A warning for each domain on whose images norms of the network see too few values in bf16.

    Nothing for images without a size in the spec, and where the checks of the spec are red.
    """
    job = subject.job
    if job.train.precision != "bf16" or any(problems(job, subject.place_of_job, BATCHES)):
        return
    try:
        segmenter = build_without_memory(job).segmenter
    except JobError:
        return
    for key in ("source", "target") if METHODS[job.method.name].needs_target else ("source",):
        sizes = [part.config.image_hw for part in job.parts(key)]
        for size_hw in sorted({size for size in sizes if size is not None}):
            images = images_together(job, key, subject.num_ranks)
            values = norm_values(segmenter, images, size_hw)
            few = [value for value in values if 1 < value < LEAST_VALUES]
            if few:
                seen = "2 or 3 values" if len(set(few)) > 1 else f"{few[0]} values"
                size = f"{size_hw[0]}x{size_hw[1]}"
                yield Finding(
                    "batch norm",
                    True,
                    f"warning: {len(few)} of {len(values)} norms see {seen} a channel of "
                    f"{counted(images, f'{key} image')} of {size} in bf16: {ADVICE}",
                )


def images_together(job: JobSpec, key: str, num_ranks: int) -> int:
    """The images of a domain that a norm sees together."""
    batch_size: int = getattr(job, key).batch_size
    ranks_apart = 1 if job.train.sync_batch_norm else num_ranks
    return max(1, batch_size // (ranks_apart * job.train.accumulate))


def norm_values(segmenter: Segmenter, images: int, size_hw: tuple[int, int]) -> list[int]:
    """The values a channel that each norm with statistics of the batch sees in training. The
    network is on the meta device."""
    with _Counting() as counting, torch.device("meta"):
        segmenter.train()(torch.empty(images, 3, *size_hw))
    return counting.values


class _Counting(TorchFunctionMode):
    """Records, within it, the values a channel of batches that are normalised by their own
    statistics, by any module."""

    def __init__(self) -> None:
        super().__init__()
        self.values: list[int] = []

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run the function; note what a norm gets."""
        if function is F.batch_norm:
            given = _SIGNATURE.bind(*args, **(kwargs or {}))
            given.apply_defaults()
            if given.arguments["training"]:
                features = given.arguments["input"]
                self.values.append(features.numel() // features.shape[1])
        return function(*args, **(kwargs or {}))
