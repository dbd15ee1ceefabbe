"""The choice among networks without labels: values by hand, and what is never chosen."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from adapt.data.packed.packed_split import PackedSplit
from adapt.errors import Interrupted
from adapt.evaluation import agreement as module
from adapt.evaluation.agreement import agreements
from adapt.evaluation.metrics import confusion_matrix, miou
from adapt.models.segmenter import Decoder, Segmenter
from adapt.stream.feed import normalise
from storage.shards.cache import ShardCache
from storage.stores import Stores
from tests.networks import network, varied_network

CPU = torch.device("cpu")


@pytest.fixture
def split(tiny_uri: str, tmp_path: Path) -> Iterator[PackedSplit]:
    """Five images without their labels."""
    split = PackedSplit(Stores().open(tiny_uri), "val", ShardCache(tmp_path / "cache"), None)
    yield split
    split.close()


class Fixed(Decoder):
    """The same logits for any image: one class on its left half, another one on its right."""

    def __init__(self, left: int, right: int, certainty: float) -> None:
        super().__init__()
        logits = torch.zeros(1, 3, 1, 2)
        logits[0, left, 0, 0] = logits[0, right, 0, 1] = certainty
        self.logits = logits.repeat_interleave(8, dim=3)

    def forward(
        self, images: Tensor, features: tuple[Tensor, ...]
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        return [self.logits.expand(len(images), -1, -1, -1)], {}


def halves(left: int, right: int, certainty: float = 20.0) -> Segmenter:
    return network(Fixed(left, right, certainty), 3)


def test_two_agree_and_the_third_half_agrees(split: PackedSplit) -> None:
    first, same, other = agreements([halves(0, 1), halves(0, 1), halves(0, 2)], split, CPU)
    assert first == same == pytest.approx(1)
    assert other == pytest.approx(1 / 3), "the IoU of class 0 is 1, those of 1 and 2 are 0"


def test_the_mean_is_of_probabilities_not_of_votes(split: PackedSplit) -> None:
    unsure, sure = halves(0, 1, certainty=0.1), halves(1, 2)
    found = agreements([unsure, unsure, sure], split, CPU)
    assert found[2] == pytest.approx(1) and found[0] == found[1] < 1


def test_it_is_that_of_a_plain_loop(split: PackedSplit) -> None:
    candidates = [varied_network(3, seed=seed) for seed in (5, 6, 7)]
    candidates[1].train()
    images, matrices = [], torch.zeros(3, 3, 3, dtype=torch.int64)
    found = agreements(candidates, split, CPU, on_image=lambda: images.append(1))
    for number in range(len(split)):
        image = split.read(number).image
        with torch.no_grad():
            p = torch.stack(
                [
                    one(normalise(image[None], one.pixels)).logits[0][0].softmax(0)
                    for one in candidates
                ]
            )
        for matrix, own in zip(matrices, p, strict=True):
            matrix += confusion_matrix(p.mean(0).argmax(0), own.argmax(0), 3)
    assert found == pytest.approx([miou(matrix) for matrix in matrices])
    assert len(images) == len(split) == 5
    assert [one.training for one in candidates] == [True, True, True]


def test_ranks_count_parts_of_it(split: PackedSplit, monkeypatch: pytest.MonkeyPatch) -> None:
    """The counts of three ranks' images, summed, are those of all."""
    candidates, counted = [varied_network(3, seed=seed) for seed in (5, 6)], []
    whole = agreements(candidates, split, CPU)

    def kept(counts: Tensor) -> Tensor:
        counted.append(counts.clone())
        return counts

    monkeypatch.setattr(module, "sum_over_ranks", kept)
    for rank in range(3):
        agreements(candidates, split, CPU, rank=rank, num_ranks=3)
    summed = sum(counted[::2], torch.zeros(2, 3, 3, dtype=torch.int64))
    assert [miou(matrix) for matrix in summed] == whole


def test_a_stop_ends_it_before_the_next_image(split: PackedSplit) -> None:
    seen: list[int] = []
    with pytest.raises(Interrupted, match="stopped while candidates were compared"):
        agreements(
            [halves(0, 1)],
            split,
            CPU,
            on_image=lambda: seen.append(1),
            stopped=lambda: len(seen) == 2,
        )
    assert len(seen) == 2


def test_logits_that_are_no_numbers_are_no_agreement(split: PackedSplit) -> None:
    found = agreements([halves(0, 1), halves(0, 1, float("nan"))], split, CPU)
    assert found[1] != found[1] and len(found) == 2
