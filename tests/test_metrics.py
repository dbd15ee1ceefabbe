"""Scores against golden matrices of the papers' programs, and at their edges."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from adapt.metrics import confusion_matrix, iou, miou, pixel_accuracy


@pytest.fixture(scope="module")
def golden(shared_dir: Path) -> dict[str, np.ndarray]:
    with np.load(shared_dir / "golden" / "metrics.npz") as file:
        return dict(file)


@pytest.mark.parametrize("case", ["full", "absent_class"])
def test_scores_are_the_papers(golden: dict[str, np.ndarray], case: str) -> None:
    labels, predicted = (torch.tensor(golden[f"{case}/{name}"]) for name in ("label", "pred"))
    matrix = confusion_matrix(labels, predicted, num_classes=19)
    assert matrix.dtype == torch.int64
    np.testing.assert_array_equal(matrix.numpy(), golden[f"{case}/hist"])
    np.testing.assert_allclose(iou(matrix).numpy(), golden[f"{case}/iou"], rtol=1e-14)
    assert miou(matrix) == pytest.approx(golden[f"{case}/miou_nanmean"].item(), rel=1e-14)


def test_matrices_of_images_add_up(golden: dict[str, np.ndarray]) -> None:
    total = sum(
        confusion_matrix(
            torch.tensor(golden[f"{case}/label"]), torch.tensor(golden[f"{case}/pred"]), 19
        )
        for case in ("full", "absent_class")
    )
    assert isinstance(total, torch.Tensor)
    np.testing.assert_array_equal(total.numpy(), golden["accumulated/hist"])
    assert miou(total) == pytest.approx(golden["accumulated/miou_nanmean"].item(), rel=1e-14)


def test_hand_counted() -> None:
    labels = torch.tensor([[0, 0, 1, 255]])
    predicted = torch.tensor([[0, 1, 1, 0]])
    matrix = confusion_matrix(labels, predicted, num_classes=3)
    assert matrix.tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 0]]
    scores = iou(matrix).tolist()
    assert scores[:2] == [0.5, 0.5] and math.isnan(scores[2])
    assert miou(matrix) == 0.5
    assert pixel_accuracy(matrix) == pytest.approx(2 / 3)


def test_nothing_counted_scores_nan() -> None:
    matrix = confusion_matrix(torch.full((2, 2), 255), torch.zeros(2, 2, dtype=torch.long), 3)
    assert not matrix.any()
    assert math.isnan(miou(matrix)) and math.isnan(pixel_accuracy(matrix))
