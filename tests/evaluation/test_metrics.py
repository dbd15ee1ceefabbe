"""Scores against golden matrices of the papers' programs, and at their edges."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from adapt.data.label_maps import LABEL_SPACES
from adapt.errors import JobError
from adapt.evaluation.metrics import (
    SUBSETS,
    confusion_matrix,
    iou,
    mean_of_known,
    miou,
    pixel_accuracy,
    subset_classes,
)
from benchmarks.evaluation import measure

CITYSCAPES19 = LABEL_SPACES["cityscapes19"].names
CITYSCAPES16 = LABEL_SPACES["cityscapes16"].names


@pytest.fixture(scope="module")
def golden(shared_dir: Path) -> dict[str, np.ndarray]:
    with np.load(shared_dir / "golden" / "metrics.npz") as file:
        return dict(file)


def golden_matrix(golden: dict[str, np.ndarray], case: str) -> torch.Tensor:
    labels, predicted = (torch.tensor(golden[f"{case}/{name}"]) for name in ("label", "pred"))
    return confusion_matrix(labels, predicted, num_classes=19)


def check_scores(matrix: torch.Tensor, golden: dict[str, np.ndarray], case: str) -> None:
    """All equal, but for the mean's last bits: numpy adds in pairs, cityscapesScripts in a row."""
    assert matrix.dtype == torch.int64
    np.testing.assert_array_equal(matrix.numpy(), golden[f"{case}/hist"])
    np.testing.assert_array_equal(iou(matrix).numpy(), golden[f"{case}/iou"])
    np.testing.assert_array_max_ulp(miou(matrix), golden[f"{case}/miou_nanmean"], maxulp=2)


@pytest.mark.parametrize("case", ["full", "absent_class"])
def test_scores_are_the_papers(golden: dict[str, np.ndarray], case: str) -> None:
    check_scores(golden_matrix(golden, case), golden, case)


def test_matrices_of_images_add_up(golden: dict[str, np.ndarray]) -> None:
    total = golden_matrix(golden, "full") + golden_matrix(golden, "absent_class")
    check_scores(total, golden, "accumulated")


def test_every_golden_entry_is_used(golden: dict[str, np.ndarray]) -> None:
    """`cityscapes_map` is tested with the label maps."""
    cases = {key.split("/")[0] for key in golden}
    assert cases == {"full", "absent_class", "accumulated", "cityscapes_map"}


def test_hand_counted() -> None:
    labels = torch.tensor([[0, 0, 1, 255]])
    predicted = torch.tensor([[0, 1, 1, 0]])
    matrix = confusion_matrix(labels, predicted, num_classes=3)
    assert matrix.tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 0]]
    scores = iou(matrix).tolist()
    assert scores[:2] == [0.5, 0.5] and math.isnan(scores[2])
    assert miou(matrix) == 0.5
    assert pixel_accuracy(matrix) == pytest.approx(2 / 3)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_every_label_value_and_class_is_counted_or_left_out(dtype: torch.dtype) -> None:
    """254 classes: the largest cell numbers there are."""
    labels = torch.arange(256, dtype=dtype).repeat(2, 1)
    predicted = torch.stack([torch.arange(256).clamp(max=253), torch.full((256,), 253)])
    matrix = confusion_matrix(labels, predicted, num_classes=254)
    expected = torch.eye(254, dtype=torch.int64)
    expected[:, 253] += 1
    assert torch.equal(matrix, expected)


def test_the_benchmark_compares_equal_matrices() -> None:
    """It asserts so itself: the papers' numpy on logits of its own making, against ours."""
    found = measure(number=1, size_hw=(64, 96), rounds=1)
    assert all(ratio > 0 and speed > 0 for ratio, speed in found.values())


def test_nothing_counted_scores_nan() -> None:
    matrix = confusion_matrix(torch.full((2, 2), 255), torch.zeros(2, 2, dtype=torch.long), 3)
    assert not matrix.any()
    assert math.isnan(miou(matrix)) and math.isnan(pixel_accuracy(matrix))


def test_a_mean_adds_one_after_the_other() -> None:
    """`sum` of Python 3.12 on, `numpy.mean` and `math.fsum` each end in another digit."""
    values = [0.1, math.nan, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]
    total = 0.0
    for value in values:
        total += 0.0 if math.isnan(value) else value
    assert total != math.fsum(value for value in values if not math.isnan(value))
    assert mean_of_known(values) == total / 8
    assert math.isnan(mean_of_known([])) and math.isnan(mean_of_known([math.nan]))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_counting_on_a_gpu_never_waits_for_it() -> None:
    labels = torch.randint(256, (64, 64), dtype=torch.uint8)
    predicted = torch.randint(19, (64, 64))
    on_gpu = labels.cuda(), predicted.cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        matrix = confusion_matrix(*on_gpu, 19)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(matrix.cpu(), confusion_matrix(labels, predicted, 19))


def test_subsets_are_synthia_s() -> None:
    assert set(SUBSETS["synthia16"]) == set(CITYSCAPES16)
    assert set(SUBSETS["synthia16"]) - set(SUBSETS["synthia13"]) == {"wall", "fence", "pole"}
    assert len(SUBSETS["synthia16"]) == 16 and len(SUBSETS["synthia13"]) == 13


def test_subsets_are_found_by_name() -> None:
    found = subset_classes(["synthia16", "synthia13"], CITYSCAPES19)
    assert found == {
        "synthia16": (0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13, 15, 17, 18),
        "synthia13": (0, 1, 2, 6, 7, 8, 10, 11, 12, 13, 15, 17, 18),
    }
    assert subset_classes(["synthia13"], CITYSCAPES16)["synthia13"] == (
        *(0, 1, 2),
        *range(6, 16),
    )
    assert subset_classes([], ["sky", "car"]) == {}


def test_a_subset_that_the_job_lacks_is_refused() -> None:
    with pytest.raises(JobError, match=r"evaluate.subsets: .*'synthia13'.* 'sidewalk', .*'rider'"):
        subset_classes(["synthia13"], LABEL_SPACES["camvid11"].names)


def test_means_over_subsets_are_the_published_ones() -> None:
    """AdvEnt + MinEnt, SYNTHIA -> Cityscapes (ADVENT, table 2): 41.2 of 16 classes, 48.0 of 13."""
    published = [85.6, 42.2, 79.7, 8.7, 0.4, 25.9, 5.4, 8.1, 80.4, 84.1, 57.9, 23.8, 73.3]
    published += [36.4, 14.2, 33.0]
    hits = [round(10 * value) for value in published]
    # in each class 1000 pixels, of which the misses are taken for a 17th class, never true
    matrix = torch.diag(torch.tensor([*hits, 0]))
    matrix[:16, 16] = 1000 - torch.tensor(hits)
    subsets = subset_classes(SUBSETS, CITYSCAPES16)
    assert round(100 * miou(matrix, subsets["synthia16"]), 1) == 41.2
    assert round(100 * miou(matrix, subsets["synthia13"]), 1) == 48.0
    assert miou(matrix) < miou(matrix, subsets["synthia16"])  # the 17th class scores 0


def test_a_subset_leaves_out_its_absent_classes() -> None:
    matrix = torch.diag(torch.tensor([5, 0, 5]))
    matrix[0, 2] = 5
    assert miou(matrix, [0, 1]) == iou(matrix)[0].item() == 0.5
    assert math.isnan(miou(matrix, [1]))
