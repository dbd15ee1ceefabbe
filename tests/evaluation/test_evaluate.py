"""Evaluation of a split against a plain loop over its images; a score as plain data."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from adapt.config.validation import validate
from adapt.data.packed.packed_split import PackedSplit
from adapt.errors import JobError
from adapt.evaluation import inference
from adapt.evaluation.evaluate import Score, evaluate
from adapt.evaluation.inference import EnsembleMember, InferenceConfig
from adapt.evaluation.metrics import SUBSETS, confusion_matrix, miou
from adapt.evaluation.protocol import EvaluateConfig
from adapt.models.segmenter import Segmenter
from adapt.stream.feed import normalise
from storage.shards.cache import ShardCache
from storage.stores import Stores
from tests.networks import varied_network

NAMES = ["road", "sky", "[car]"]
CPU = torch.device("cpu")
TABLE = np.array([0, 1, 2, 255] + [255] * 252, np.uint8)
"""Of the ids 0 to 3 the last is ignored."""


@pytest.fixture
def split(tiny_uri: str, tmp_path: Path) -> Iterator[PackedSplit]:
    split = PackedSplit(Stores().open(tiny_uri), "val", ShardCache(tmp_path / "cache"), TABLE)
    yield split
    split.close()


@pytest.fixture(scope="module")
def networks() -> list[Segmenter]:
    return [varied_network(3, seed=5), varied_network(3, seed=6)]


def test_the_worst_images_are_those_of_the_lowest_miou(
    split: PackedSplit, networks: list[Segmenter]
) -> None:
    evaluation = evaluate(networks[0], split, CPU, num_worst=2)
    means = {}
    for picture in evaluate(networks[0], split, CPU, num_pictures=len(split)).pictures:
        assert picture.truth is not None
        truth, found = torch.from_numpy(picture.truth), torch.from_numpy(picture.predicted)
        means[picture.key] = miou(confusion_matrix(truth, found, 3))
    assert [one.key for one in evaluation.worst] == sorted(means, key=lambda key: means[key])[:2]
    assert len(means) == 5 and evaluation.pictures == []
    assert list(evaluate(networks[0], split, CPU).worst) == []


def plain_matrix(split: PackedSplit, *members: EnsembleMember) -> np.ndarray:
    """The papers' programs: numpy's argmax of the weighted sum, then pairs counted one by one."""
    matrix = np.zeros((3, 3), np.int64)
    for number in range(len(split)):
        sample = split.read(number)
        assert sample.labels is not None
        size_hw = (sample.labels.shape[0], sample.labels.shape[1])
        logits = 0
        for segmenter, weight in members:
            with torch.no_grad():
                images = normalise(sample.image[None], segmenter.pixels)
                logits = logits + weight * segmenter(images, size_hw).logits[0][0].numpy()
        predicted = np.argmax(logits, axis=0)
        kept = sample.labels.numpy() < 3
        np.add.at(matrix, (sample.labels.numpy()[kept], predicted[kept]), 1)
    return matrix


def test_a_split_s_matrix_is_that_of_a_plain_loop(
    split: PackedSplit, networks: list[Segmenter]
) -> None:
    expected = plain_matrix(split, EnsembleMember(networks[0]))
    assert np.count_nonzero(expected.sum(axis=0)) > 1  # not one class throughout
    got = evaluate(networks[0].train(), split, CPU)
    assert networks[0].training and got.pictures == []
    np.testing.assert_array_equal(got.score.matrix.numpy(), expected)


def test_an_ensemble_s_matrix_is_that_of_a_plain_loop(
    split: PackedSplit, networks: list[Segmenter]
) -> None:
    for segmenter in networks:
        segmenter.eval()
    members = [EnsembleMember(networks[0], 0.5), EnsembleMember(networks[1], 0.5)]
    expected = plain_matrix(split, *members)
    assert not np.array_equal(expected, plain_matrix(split, members[0]))
    assert not np.array_equal(expected, plain_matrix(split, members[1]))
    np.testing.assert_array_equal(evaluate(members, split, CPU).score.matrix.numpy(), expected)


def test_views_change_the_score(split: PackedSplit, networks: list[Segmenter]) -> None:
    once = evaluate(networks[0], split, CPU).score.matrix
    twice = evaluate(networks[0], split, CPU, views=InferenceConfig(flip=True)).score.matrix
    assert once.sum() == twice.sum() and not torch.equal(once, twice)


@pytest.mark.parametrize("views", [InferenceConfig(), InferenceConfig(flip=True, scales=(1, 2))])
def test_batches_and_blocks_of_classes_change_nothing(
    split: PackedSplit,
    networks: list[Segmenter],
    views: InferenceConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    members = [EnsembleMember(networks[0], 0.25), EnsembleMember(networks[1], 0.75)]
    expected = evaluate(members, split, CPU, views=views).score
    blocks = blocks_of_classes(monkeypatch)
    found = evaluate(members, split, CPU, views=views, batch_size=4).score
    assert torch.equal(found.matrix, expected.matrix) and found.finite
    assert [*dict.fromkeys(map(str, blocks))] == [str(slice(n, n + 1)) for n in range(3)], (
        "never all at a time"
    )


def blocks_of_classes(monkeypatch: pytest.MonkeyPatch) -> list[slice]:
    """Have a class at a time at the wanted size; the classes that were asked for."""
    monkeypatch.setattr(inference, "BLOCK_BYTES", 1)
    whole, asked = inference.OwnSize.whole, list[slice]()

    def noted(self: inference.OwnSize, classes: slice = inference.ALL) -> torch.Tensor:
        asked.append(classes)
        return whole(self, classes)

    monkeypatch.setattr(inference.OwnSize, "whole", noted)
    return asked


def test_ranks_share_out_the_images(split: PackedSplit, networks: list[Segmenter]) -> None:
    whole = evaluate(networks[0], split, CPU).score.matrix
    parts = [
        evaluate(networks[0], split, CPU, rank=rank, num_ranks=7).score.matrix for rank in range(7)
    ]
    assert torch.equal(torch.stack(parts).sum(dim=0), whole)
    assert not parts[6].any()  # 5 images for 7 ranks


def test_pictures_show_what_was_scored(split: PackedSplit, networks: list[Segmenter]) -> None:
    first, last = evaluate(networks[0], split, CPU, num_pictures=2).pictures
    assert (first.key, last.key) == (split.key(0), split.key(4))
    sample = split.read(4)
    assert sample.labels is not None
    np.testing.assert_array_equal(last.image, sample.image.permute(1, 2, 0).numpy())
    np.testing.assert_array_equal(last.truth, sample.labels.numpy())
    assert last.logits.shape == (3, *last.truth.shape)
    np.testing.assert_array_equal(last.predicted, last.logits.argmax(axis=0))


def test_a_stop_between_images_leaves_the_network_as_it_was(
    split: PackedSplit, networks: list[Segmenter]
) -> None:
    seen = []

    def stop_at_second() -> None:
        seen.append(networks[0].training)
        if len(seen) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as stopped:
        evaluate(networks[0].train(), split, CPU, on_image=stop_at_second)
    assert seen == [False, False] and networks[0].training
    assert stopped.tb  # whoever still holds the error holds the frames with the images to come


def test_a_record_is_json_with_null_for_a_class_that_never_occurs() -> None:
    record = Score(torch.tensor([[2, 1, 0], [1, 4, 0], [0, 0, 0]])).record(NAMES)
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert record["iou"] == {"road": 2 / 4, "sky": 4 / 6, "[car]": None}
    assert record["miou"] == (2 / 4 + 4 / 6) / 2 and record["pixel_accuracy"] == 6 / 8


def test_a_record_of_nothing_has_no_mean() -> None:
    record = Score(torch.zeros(3, 3, dtype=torch.int64)).record(NAMES)
    assert record["miou"] is None
    json.dumps(record, allow_nan=False)


def test_subsets_are_figures_of_their_own(split: PackedSplit, networks: list[Segmenter]) -> None:
    subsets = {"synthia16": (1, 2), "synthia13": (2,)}
    score = Score(torch.tensor([[2, 1, 0], [1, 4, 0], [0, 0, 0]]), subsets)
    assert list(score.metrics()) == ["miou", "pixel_accuracy", "miou_synthia16", "miou_synthia13"]
    record = score.record(NAMES)
    assert record["miou_synthia16"] == 4 / 6 and record["miou_synthia13"] is None
    assert evaluate(networks[0], split, CPU, subsets=subsets).score.subsets == subsets


def test_every_subset_can_be_asked_for_and_selected_by() -> None:
    for subset in SUBSETS:
        values = {"subsets": [subset], "select_by": f"miou_{subset}"}
        assert validate(EvaluateConfig, values).select_by == f"miou_{subset}"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"subsets": ["synthia13"], "select_by": "miou_synthia16"},
            "select_by: .*'miou_synthia16' without 'synthia16' in evaluate.subsets. Fix: add it",
        ),
        ({"subsets": ["synthia12"]}, "subsets.0: .*'synthia12'; did you mean 'synthia1"),
        ({"select_by": "miou_16"}, "select_by: expected .*'miou_16'"),
    ],
)
def test_wrong_choices_are_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(JobError, match=message):
        validate(EvaluateConfig, values)
