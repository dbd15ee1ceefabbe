"""Scores a segmentation network on a labelled split: one confusion matrix over all pixels, IoU of
every class from it.

As the papers do it: network in eval mode, main head, logits upsampled to the labels' own size,
argmax. The matrix is summed on the device in whole numbers, so its value does not depend on batches
or ranks.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from pydantic import Field
from torch import Tensor

from adapt.data.augment import Sample
from adapt.data.packed import PackedSplit, SplitConfig
from adapt.data.stream import normalise
from adapt.metrics import confusion_matrix, iou, miou, pixel_accuracy
from adapt.models.segmenter import Segmenter
from adapt.section import Section


class ValidationConfig(SplitConfig):
    """The labelled split that checkpoints are scored on."""

    split: str = Field("val", description="Which split.")


class EvaluateConfig(Section):
    """When to evaluate on the validation split, and by what to choose the best checkpoint."""

    every_steps: int = Field(
        2000, ge=1, description="Steps between two evaluations (ADVENT's figure)."
    )
    select_by: Literal["miou", "pixel_accuracy"] = Field(
        "miou", description="The score whose highest value marks the best checkpoint."
    )
    pictures: int = Field(
        4, ge=0, description="Validation images drawn with truth, prediction, entropy."
    )


class Score(NamedTuple):
    """`matrix` (K, K) int64 pixels, row truth, column prediction; the figures follow from it."""

    matrix: Tensor

    @property
    def iou(self) -> np.ndarray:
        """(K,) intersection over union in [0, 1]; NaN for a class neither in truth nor
        predicted."""
        return iou(self.matrix).cpu().numpy()

    def figures(self) -> dict[str, float]:
        """The figures that `select_by` names, in [0, 1]."""
        return {
            "miou": float(miou(self.matrix)),
            "pixel_accuracy": float(pixel_accuracy(self.matrix)),
        }

    def record(self, names: Sequence[str]) -> dict[str, Any]:
        """All of it as plain data: figures, IoU by class (None where NaN) and the matrix."""
        per_class = [_or_none(float(value)) for value in self.iou]
        return {
            **{name: _or_none(value) for name, value in self.figures().items()},
            "iou": dict(zip(names, per_class, strict=True)),
            "matrix": self.matrix.tolist(),
        }


def _or_none(value: float) -> float | None:
    """JSON has no NaN."""
    return None if np.isnan(value) else value


class Picture(NamedTuple):
    """What a panel shows: `image` (H, W, 3) uint8, `truth` and `predicted` (h, w) uint8, `logits`
    (K, h, w)."""

    key: str
    image: np.ndarray
    truth: np.ndarray
    predicted: np.ndarray
    logits: np.ndarray


class Evaluation(NamedTuple):
    """A score and the pictures asked for."""

    score: Score
    pictures: list[Picture]


def predict(
    segmenter: Segmenter, image: Tensor, size_hw: tuple[int, int], device: torch.device
) -> Tensor:
    """(3, H, W) uint8 RGB -> main head's logits (K, *size_hw) float32, on the device."""
    images = normalise(image[None].to(device), segmenter.pixels)
    return segmenter(images, size_hw).logits[0][0].float()


@torch.no_grad()
def evaluate(
    segmenter: Segmenter,
    split: PackedSplit,
    device: torch.device,
    *,
    threads: int = 2,
    num_pictures: int = 0,
    rank: int = 0,
    num_ranks: int = 1,
    on_image: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Evaluate on all of `split`, shared out over ranks; every rank gets the same score, the leader
    the pictures.

    `on_image` is called after each image and may raise to stop. Leaves the network in the mode it
    was in.
    """
    training = segmenter.training
    segmenter.eval()
    classes = segmenter.num_classes
    matrix = torch.zeros(classes, classes, dtype=torch.int64, device=device)
    wanted = set(np.linspace(0, len(split) - 1, num_pictures).round().astype(int).tolist())
    pictures = []
    for index, sample in _decoded(split, range(rank, len(split), num_ranks), threads):
        assert sample.labels is not None, "an evaluation split is opened with its labels"
        labels = sample.labels.to(device)
        logits = predict(segmenter, sample.image, (labels.shape[0], labels.shape[1]), device)
        predicted = logits.argmax(0)
        matrix += confusion_matrix(labels, predicted, classes)
        if index in wanted:
            pictures.append(_picture(split.key(index), sample, predicted, logits))
        on_image()
    if dist.is_initialized():
        dist.all_reduce(matrix)
    segmenter.train(training)
    return Evaluation(Score(matrix.cpu()), pictures)


def _decoded(split: PackedSplit, indices: range, threads: int) -> Iterator[tuple[int, Sample]]:
    """Samples in order, a few decoded ahead."""
    split.fetch_ahead(range(len(split.shard_sizes)))
    with ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool:
        ahead = [pool.submit(split.read, index) for index in indices[: 2 * threads]]
        for place, index in enumerate(indices):
            following = place + 2 * threads
            if following < len(indices):
                ahead.append(pool.submit(split.read, indices[following]))
            yield index, ahead.pop(0).result()


def _picture(key: str, sample: Sample, predicted: Tensor, logits: Tensor) -> Picture:
    assert sample.labels is not None
    return Picture(
        key,
        sample.image.permute(1, 2, 0).numpy(),
        sample.labels.numpy(),
        predicted.to(torch.uint8).cpu().numpy(),
        logits.cpu().numpy(),
    )
