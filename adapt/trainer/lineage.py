"""The header of a job's weights: its network, its classes, their input, and the lineage."""

from typing import Any

import adapt
from adapt.batch import PixelFormat
from adapt.evaluation.inference import InferenceConfig
from adapt.models.file_header import FileHeader
from adapt.spec.job_spec import JobSpec
from adapt.tracking.tracker import TrackedDataset
from adapt.trainer.opening import Opened, splits_in_use

_DIGEST_CHARS = 32
"""Of a dataset's id; MLflow takes 36."""


def header_of(job: JobSpec, pixels: PixelFormat, lineage: dict[str, Any]) -> FileHeader:
    """The header of weights that a job trains, for a network of this input.

    The size is that of the images that evaluations read, else of those that training does.
    """
    trained = {**job.datasets("source"), **job.datasets("target")}
    last = list(trained.values())[-1]
    return FileHeader(
        job.model,
        job.classes.num_classes,
        pixels,
        job.classes,
        last.image_hw if job.validation is None else job.validation.size_hw,
        job.evaluate.model_dump(mode="json", include=set(InferenceConfig.model_fields)),
        lineage,
    )


def lineage_of(opened: Opened, step: int) -> dict[str, Any]:
    """The origin of a checkpoint: version, step, and the fingerprint of each packed split.

    Not the run's name or address, which the files beside the weights have: two runs of one job
    write the same bytes, so that weights are known by their sha256.
    """
    splits = splits_in_use(opened)
    return {
        "version": adapt.__version__,
        "step": step,
        "data": {key: split.dataset_id for key, (split, _) in splits.items()},
    }


def tracked_datasets(opened: Opened) -> list[TrackedDataset]:
    """The packed splits of a job as MLflow lists them; the context is the key of the spec."""
    return [
        TrackedDataset(
            f"{config.dataset}/{config.split}",
            split.dataset_id[:_DIGEST_CHARS],
            config.uri,
            key,
            len(split),
        )
        for key, (split, config) in splits_in_use(opened).items()
    ]


def scored_dataset(opened: Opened) -> tuple[str, str] | None:
    """Name and digest of the dataset that evaluations read, as MLflow lists it; None without."""
    named = (one for one in tracked_datasets(opened) if one.context == "validation")
    return next(((one.name, one.digest) for one in named), None)
