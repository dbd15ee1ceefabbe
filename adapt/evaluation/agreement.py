"""Chooses among networks without labels: the one that agrees most with all of them together.

EnsV (NeurIPS 2024, Datasets and Benchmarks): the mean of the candidates' probabilities labels the
images, and a candidate's score is how well it predicts these labels, here by mIoU. The choice is
among what is given: where most candidates are wrong alike, so is the choice.
"""

from collections.abc import Callable, Sequence
from contextlib import closing

import torch

from adapt.data.packed.packed_split import PackedSplit
from adapt.errors import Interrupted
from adapt.evaluation.inference import (
    WHOLE_IMAGE,
    EnsembleMember,
    InferenceConfig,
    class_map,
    decoded,
    evaluating,
    predict,
)
from adapt.evaluation.metrics import confusion_matrix, miou
from adapt.models.segmenter import Segmenter
from adapt.ranks import any_rank, sum_over_ranks


@torch.no_grad()
def agreements(
    candidates: Sequence[Segmenter],
    split: PackedSplit,
    device: torch.device,
    *,
    views: InferenceConfig = WHOLE_IMAGE,
    threads: int = 2,
    rank: int = 0,
    num_ranks: int = 1,
    on_image: Callable[[], None] = lambda: None,
    stopped: Callable[[], bool] = lambda: False,
) -> list[float]:
    """The mIoU of each candidate's classes against those of the candidates' mean probability, in
    [0, 1], on the images of `split` at their own size; labels are not read. NaN for a candidate
    whose logits are no numbers, which means nothing for the others either.

    All candidates are on the device at the same time. The images are shared out over ranks, and
    every rank gets the same. `on_image` is called after each image. Where `stopped` returns true
    before an image on any rank, all ranks raise `Interrupted`.
    """
    classes = candidates[0].num_classes
    matrices = torch.zeros(len(candidates), classes, classes, dtype=torch.int64, device=device)
    unusual = torch.zeros(len(candidates), dtype=torch.bool, device=device)
    early = False
    seen = decoded(split, range(rank, len(split), num_ranks), threads)
    with evaluating(candidates), closing(seen):
        for _, sample in seen:
            early = stopped()
            if early:
                break
            size_hw = sample.image_hw
            maps, together = [], torch.zeros((), device=device)
            for number, segmenter in enumerate(candidates):
                logits = predict([EnsembleMember(segmenter)], sample.image, size_hw, device, views)
                unusual[number] |= ~logits.isfinite().all()
                maps.append(class_map(logits))
                together = together + logits.softmax(dim=0)
            labels = class_map(together)
            for matrix, predicted in zip(matrices, maps, strict=True):
                matrix += confusion_matrix(labels, predicted, classes)
            on_image()
    if any_rank(early)[0]:
        raise Interrupted("stopped while candidates were compared")
    matrices, unusual = sum_over_ranks(matrices), sum_over_ranks(unusual.long())
    pairs = zip(matrices.cpu(), unusual.tolist(), strict=True)
    return [float("nan") if bad else miou(matrix) for matrix, bad in pairs]
