"""Agreement of two predictions: values by hand, what scores best, the same over ranks."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from adapt.data.packed.packed_split import PackedSplit
from adapt.errors import JobError
from adapt.evaluation.consistency import class_pairs, consistency, recoloured
from adapt.evaluation.evaluate import evaluate
from adapt.evaluation.label_free import LABEL_FREE_SCORES, without_average
from adapt.evaluation.metrics import confusion_matrix, iou
from adapt.models.segmenter import Decoder, Segmenter
from adapt.stream.feed import normalise
from storage.shards.cache import ShardCache
from storage.stores import Stores
from tests.networks import network, varied_network
from tests.trainer.jobs import job_of

CPU = torch.device("cpu")
COMPARED = ("flip_consistency", "colour_consistency", "teacher_agreement")


@pytest.fixture
def split(tiny_uri: str, tmp_path: Path) -> Iterator[PackedSplit]:
    """Five images without their labels."""
    split = PackedSplit(Stores().open(tiny_uri), "val", ShardCache(tmp_path / "cache"), None)
    yield split
    split.close()


def sure_of(classes: list[list[int]], num_classes: int = 3) -> Tensor:
    return torch.nn.functional.one_hot(torch.tensor(classes), num_classes).permute(2, 0, 1).float()


def test_by_hand() -> None:
    """Class 0: 2 of 3 pixels in common, class 1: 3 of 4, class 2 in neither."""
    first, second = sure_of([[0, 0, 0, 1, 1, 1]]), sure_of([[0, 0, 1, 1, 1, 1]])
    counts = class_pairs(first, second)
    assert counts.tolist() == [2, 0, 0, 1, 3, 0, 0, 0, 0]
    assert consistency(counts) == pytest.approx((2 / 3 + 3 / 4 + 0) / 3)


def test_the_same_by_both_is_best_and_one_class_everywhere_is_not() -> None:
    varied, constant = sure_of([[0, 1, 2, 2]]), sure_of([[1, 1, 1, 1]])
    assert consistency(class_pairs(varied, varied)) == 1
    assert consistency(class_pairs(constant, constant)) == pytest.approx(1 / 3)
    assert consistency(class_pairs(varied, varied.flip(-1))) < 1


class Pixelwise(Decoder):
    """Classes by the image's own pixels: their share of red over a bound that `colours` sets, or
    by their column where it does not look at the image."""

    def __init__(self, looks: bool, classes: int = 3) -> None:
        super().__init__()
        self.looks, self.classes = looks, classes

    def forward(
        self, images: Tensor, features: tuple[Tensor, ...]
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        columns = torch.arange(images.shape[-1]).expand(images[:, 0].shape)
        value = images[:, 0] if self.looks else columns / images.shape[-1]
        cut = value.flatten(1).quantile(torch.tensor([1 / 3, 2 / 3]), dim=1)
        found = (value[None] > cut[..., None, None]).sum(dim=0)
        one_hot = torch.nn.functional.one_hot(found, self.classes).permute(0, 3, 1, 2)
        return [one_hot.float()], {}


def scored(network: Segmenter, split: PackedSplit, **given: Any) -> dict[str, float]:
    names = without_average(COMPARED, given.get("average"))
    return dict(evaluate(network, split, CPU, label_free=names, **given).score.label_free)


def test_what_follows_the_image_beats_what_follows_the_place(split: PackedSplit) -> None:
    looking, blind = network(Pixelwise(True), 3), network(Pixelwise(False), 3)
    seen, fixed = scored(looking, split), scored(blind, split)
    assert seen["flip_consistency"] == 1, "each pixel's class moves with the pixel"
    assert fixed["flip_consistency"] < 0.5, "only the middle third stays"
    assert fixed["colour_consistency"] == 1, "it sees no colours"
    assert 1 / 3 < seen["colour_consistency"] < 1


def test_it_is_that_of_a_plain_loop(split: PackedSplit) -> None:
    segmenter, average = varied_network(3, seed=5), varied_network(3, seed=6).train()

    def classes(one: Segmenter, image: Tensor) -> Tensor:
        with torch.no_grad():
            logits = one.eval()(normalise(image[None], one.pixels), (image.shape[1:])).logits[0][0]
        return logits.argmax(dim=0)

    matrices = {name: torch.zeros(3, 3, dtype=torch.int64) for name in COMPARED}
    for number in range(len(split)):
        image = split.read(number).image
        own = classes(segmenter, image)
        others = {
            "flip_consistency": classes(segmenter, image.flip(-1)).flip(-1),
            "colour_consistency": classes(segmenter, recoloured(image, number)),
            "teacher_agreement": classes(average, image),
        }
        for name, other in others.items():
            matrices[name] += confusion_matrix(other, own, 3)
    average.train()
    found = scored(segmenter, split, average=average)
    expected = {name: iou(one).nan_to_num().mean().item() for name, one in matrices.items()}
    assert found == pytest.approx(expected)
    assert len(set(expected.values())) == 3 and average.training


def test_ranks_count_parts_of_it(split: PackedSplit, monkeypatch: pytest.MonkeyPatch) -> None:
    """The counts of three ranks' images, summed, are those of all."""
    segmenter, summed = varied_network(3, seed=5), []
    whole = scored(segmenter, split)
    from adapt.evaluation import evaluate as module

    def kept(counts: Tensor) -> Tensor:
        summed.append(counts.clone())
        return counts

    monkeypatch.setattr(module, "sum_over_ranks", kept)
    parts = []
    for rank in range(3):
        summed.clear()
        scored(segmenter, split, rank=rank, num_ranks=3)
        parts.append([one for one in summed if one.shape == (9,)])
    sums = [consistency(sum(one, torch.zeros(9))) for one in zip(*parts, strict=True)]
    assert dict(zip(whole, sums, strict=True)) == whole


def test_other_colours_are_the_same_each_time_and_of_each_image_its_own() -> None:
    image = (torch.arange(3 * 8 * 8).reshape(3, 8, 8) % 256).to(torch.uint8)
    first, again, other = recoloured(image, 4), recoloured(image, 4), recoloured(image, 5)
    assert torch.equal(first, again) and first.dtype == torch.uint8
    assert not torch.equal(first, image) and not torch.equal(first, other)
    assert (first.float() - image.float()).abs().mean() < 64, "a change of light, not another image"


def test_without_pixels_it_is_no_number() -> None:
    for name in COMPARED:
        row = LABEL_FREE_SCORES[name]
        value = row.value(torch.zeros(row.size(4), dtype=torch.int64))
        assert value != value


@pytest.mark.parametrize("key", ["select_by", "log_label_free"])
def test_what_cannot_be_compared_is_refused(tiny_job: dict[str, Any], key: str) -> None:
    def with_score(name: str, *more: str) -> None:
        value = name if key == "select_by" else f"[{name}]"
        job_of(tiny_job, f"evaluate.{key}={value}", *more)

    teacher = (
        rf"evaluate.{key}: expected a score that the method can have, got 'teacher_agreement': "
        r"method advent has no teacher to agree with. Fix: name another one, or add train.ema"
    )
    with pytest.raises(JobError, match=teacher):
        with_score("teacher_agreement")
    with_score("teacher_agreement", "train.ema={alpha: 0.9}")
    flipped = rf"evaluate.{key}: expected another score with evaluate.flip, got 'flip_consistency'"
    with pytest.raises(JobError, match=flipped):
        with_score("flip_consistency", "evaluate.flip=true")
    with_score("flip_consistency")
