"""One rank's predictions of the target's images, with its progress and an early end."""

import logging
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from typing import NamedTuple

import torch

from adapt.data.label_maps import LabelSpace
from adapt.data.packed.packed_split import PackedSplit
from adapt.evaluation.inference import (
    EnsembleMember,
    InferenceConfig,
    Predicted,
    decoded,
    image_size,
    predictions,
)
from adapt.labelling.split import LabelledSample
from adapt.methods.labeller import Facts, Labeller
from adapt.models.segmenter import Segmenter
from storage.store import Store

log = logging.getLogger(__name__)

REPORTS = 4
"""Lines of the log for each pass."""

Made = Generator[LabelledSample]


class Stage(NamedTuple):
    """The parts of a labelling beside the network.

    `store` is rooted at the labels' folder. `on_image` gets the images of a pass that this rank has
    done, and has to do; `stopped` ends the stage early.
    """

    store: Store
    target: PackedSplit
    labeller: Labeller
    classes: LabelSpace
    views: InferenceConfig
    device: torch.device
    threads: int = 2
    rank: int = 0
    num_ranks: int = 1
    on_image: Callable[[int, int], None] = lambda _done, _total: None
    stopped: Callable[[], bool] = lambda: False


def with_labels(stage: Stage, segmenter: Segmenter, samples: Sequence[int], facts: Facts) -> Made:
    """Samples with the labels that a network makes. Raises `Stopped`."""
    with closing(predicted(stage, segmenter, samples, "labelled")) as seen:
        for number, sample, logits in seen:
            made = stage.labeller.labels(facts, logits)
            yield LabelledSample(number, sample.pixels(), made.cpu().numpy())


def without_labels(stage: Stage, samples: Sequence[int]) -> Made:
    """Samples as they are. Raises `Stopped`."""
    progress = _Progress(stage, len(samples), "copied")
    for number, sample in decoded(stage.target, samples, stage.threads):
        progress.advance()
        yield LabelledSample(number, sample.pixels(), None)


def predicted(
    stage: Stage, segmenter: Segmenter, samples: Sequence[int], done: str
) -> Generator[Predicted]:
    """Predictions at the images' size. Raises `Stopped` before the next image."""
    progress = _Progress(stage, len(samples), done)
    seen = predictions(
        (EnsembleMember(segmenter),),
        stage.target,
        samples,
        image_size,
        stage.device,
        views=stage.views,
        threads=stage.threads,
    )
    with closing(seen):
        for one in seen:
            progress.advance()
            yield one


class Stopped(Exception):
    """This rank ends a pass early; never leaves the stage."""


class _Progress:
    """A pass of one rank over its images, `done` as the log calls them."""

    def __init__(self, stage: Stage, total: int, done: str) -> None:
        self._stage, self._total, self._done, self._count = stage, total, done, 0

    def advance(self) -> None:
        """Count an image. Raises `Stopped` where the stage is to end."""
        if self._stage.stopped():
            raise Stopped
        self._count += 1
        self._stage.on_image(self._count, self._total)
        if self._count * REPORTS // self._total > (self._count - 1) * REPORTS // self._total:
            log.info("pseudo-labels: %s %d of %d images", self._done, self._count, self._total)
