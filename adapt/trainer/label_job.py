"""Runs the labelling stage of a job by itself, and counts its labels."""

from collections.abc import Callable, Mapping, Sequence
from threading import Event
from typing import NamedTuple

import numpy as np

from adapt.batch import IGNORED
from adapt.data.packed.split_files import read_manifest
from adapt.engine.device import prepare_device
from adapt.errors import JobError
from adapt.methods import METHODS, labelling_of
from adapt.places import Place
from adapt.spec.job_spec import JobSpec
from adapt.trainer.labelling import Watch, label
from adapt.trainer.opening import open_job
from adapt.trainer.problems import refuse_problems
from adapt.trainer.writer import sole_writer


class LabelSummary(NamedTuple):
    """Finished labels: `splits` by name with their images; shares in [0, 1], one a class, of all
    labelled pixels; `shown` has what the method adds, by heading."""

    uri: str
    weights_uri: str
    splits: Mapping[str, int]
    labelled_share: float
    label_shares: Sequence[float]
    shown: Mapping[str, Sequence[float]]


def label_job(
    job: JobSpec, place: Place, on_image: Callable[[int, int], None] = lambda _done, _total: None
) -> LabelSummary:
    """Make the labels of a job's first stage, or find them.

    `on_image` gets the images of a pass that are done, and those in all. Raises `JobError` for a
    method without a stage, `RunInUse` where the run is trained, `DataError` and `StoreError`.
    """
    if labelling_of(job.method) is None:
        names = [name for name, row in METHODS.items() if row.labeller is not None]
        raise JobError(
            f"method.name: expected a method with a labelling stage ({', '.join(names)}), got "
            f"{job.method.name}"
        )
    refuse_problems(job, place)
    stop = Event()
    device = prepare_device(place.local_rank)
    with open_job(job, place) as opened, sole_writer(opened, stop) as own:
        stage, labels = label(own, device, Watch(stop.is_set, on_image))
        own.cache.close()
        manifests = {
            split: read_manifest(stage.store, split)[0] for split in labels.splits.values()
        }
        counts = np.zeros(IGNORED + 1, np.int64)
        for manifest in manifests.values():
            for train_id, pixels in manifest.id_pixels.items():
                counts[train_id] += pixels
        classes = counts[: job.classes.num_classes]
        return LabelSummary(
            uri=stage.store.uri,
            weights_uri=labels.weights_uri,
            splits={split: manifest.num_samples for split, manifest in manifests.items()},
            labelled_share=float(classes.sum() / max(1, counts.sum())),
            label_shares=(classes / max(1, classes.sum())).tolist(),
            shown=stage.labeller.shown(labels.facts),
        )
