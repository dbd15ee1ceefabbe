"""The same figures as cityscapesScripts on the same PNGs, to the last digit.

Its own main program is run: it finds a prediction for each label file by name, and writes JSON.
"""

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as official
from PIL import Image

from adapt.data.label_maps import LABEL_SPACES
from adapt.data.packed.packed_split import PackedSplit
from adapt.data.writing.pack import pack
from adapt.evaluation.evaluate import Score, evaluate
from adapt.evaluation.inference import InferenceConfig
from adapt.evaluation.metrics import confusion_matrix
from adapt.evaluation.prediction_files import ids_of_classes, write_predictions
from storage.shards.cache import ShardCache
from storage.stores import open_store
from tests.networks import varied_network

SPACE = LABEL_SPACES["cityscapes19"]
TABLE = SPACE.table("cityscapes")
CITY = "gtFine/val/ulm"

RunOfficial = Callable[[Path, Path], dict[str, Any]]


@pytest.fixture
def run_official(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunOfficial:
    """run_official(raw_dir, predictions_dir) -> what its main program writes for split `val`."""

    def run(raw_dir: Path, predictions_dir: Path) -> dict[str, Any]:
        settings = {
            "groundTruthSearch": str(raw_dir / "gtFine" / "val" / "*" / "*_gtFine_labelIds.png"),
            "exportFile": str(tmp_path / "official" / "result.json"),
            "evalInstLevelScore": False,
            "quiet": True,
            "predictionPath": None,
            "predictionWalk": None,
        }
        for name, value in settings.items():
            monkeypatch.setattr(official.args, name, value)
        monkeypatch.setenv("CITYSCAPES_RESULTS", str(predictions_dir))
        monkeypatch.setattr(sys, "argv", ["csEvalPixelLevelSemanticLabeling"])
        official.main()
        found: dict[str, Any] = json.loads((tmp_path / "official" / "result.json").read_text())
        return found

    return run


def save_pairs(folder: Path, pairs: list[tuple[np.ndarray, np.ndarray]]) -> None:
    """Label ids and predicted ids, named as Cityscapes' are."""
    for number, (ids, predicted) in enumerate(pairs):
        name = f"ulm_{number:06d}_000019"
        for path, pixels in (
            (folder / CITY / f"{name}_gtFine_labelIds.png", ids),
            (folder / "predictions" / f"{name}.png", predicted),
        ):
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(path)


def score_of(folder: Path) -> Score:
    """Our score of the PNGs that `save_pairs` wrote."""
    matrix = torch.zeros(19, 19, dtype=torch.int64)
    for path in sorted((folder / CITY).iterdir()):
        name = path.name.replace("_gtFine_labelIds", "")
        with Image.open(path) as label, Image.open(folder / "predictions" / name) as prediction:
            labels, predicted = TABLE[np.asarray(label)], TABLE[np.asarray(prediction)]
        matrix += confusion_matrix(torch.from_numpy(labels), torch.from_numpy(predicted), 19)
    return Score(matrix)


def check_equal(score: Score, found: dict[str, Any]) -> None:
    for name, ours in zip(SPACE.names, score.iou.tolist(), strict=True):
        theirs = found["classScores"][name]
        assert ours == theirs or (math.isnan(ours) and math.isnan(theirs)), name
    assert score.metrics()["miou"] == found["averageScoreClasses"]


def noisy(ids: np.ndarray, random: np.random.Generator, share: float) -> np.ndarray:
    """A prediction: the ids themselves, but on a share of the pixels, and where no class is."""
    own = ids_of_classes(SPACE, "cityscapes")
    wrong = (random.random(ids.shape) < share) | (TABLE[ids] == 255)
    return np.where(wrong, random.choice(own, ids.shape), ids)


@pytest.mark.parametrize("seed", range(4))
def test_random_pictures(tmp_path: Path, run_official: RunOfficial, seed: int) -> None:
    """Every id from 0 to 33 occurs, ignored ones too, but for one class or two."""
    random = np.random.default_rng(seed)
    own = ids_of_classes(SPACE, "cityscapes")
    absent = random.choice(own[:-1], 1 + seed % 2, replace=False)
    pairs = []
    for size_hw in ((40, 60), (33, 57), (40, 60)):
        ids, anything = random.integers(0, 34, (2, *size_hw))
        ids[np.isin(ids, absent)] = 0
        predicted = noisy(np.where(anything < 20, own[anything % 19], ids), random, 0.3)
        predicted[np.isin(predicted, absent)] = own[-1]
        pairs.append((ids, predicted))
    save_pairs(tmp_path, pairs)
    score = score_of(tmp_path)
    assert np.isnan(score.iou).sum() == len(absent)
    check_equal(score, run_official(tmp_path, tmp_path / "predictions"))


def test_genuine_labels(tmp_path: Path, shared_dir: Path, run_official: RunOfficial) -> None:
    random = np.random.default_rng(0)
    folder = shared_dir / "data" / "cityscapes" / "gtFine" / "train" / "aachen"
    pairs = []
    for number, path in enumerate(sorted(folder.glob("*_gtFine_labelIds.png"))):
        with Image.open(path) as image:
            ids = np.asarray(image)[::8, ::8]
        pairs.append((ids, noisy(ids, random, 0.1 * number)))
    assert len(pairs) == 8
    save_pairs(tmp_path, pairs)
    check_equal(score_of(tmp_path), run_official(tmp_path, tmp_path / "predictions"))


def save_raw(raw_dir: Path, random: np.random.Generator) -> None:
    """A split `val` of six blotchy images in two cities."""
    for number in range(6):
        city = ("ulm", "jena")[number % 2]
        name = f"val/{city}/{city}_{number:06d}_000019"
        blotches = random.integers(0, 256, (5, 7, 3)).repeat(8, axis=0).repeat(8, axis=1)
        for path, pixels in (
            (raw_dir / "leftImg8bit" / f"{name}_leftImg8bit.png", blotches),
            (raw_dir / "gtFine" / f"{name}_gtFine_labelIds.png", random.integers(0, 34, (40, 56))),
        ):
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(path)


def test_written_predictions_score_as_evaluated(tmp_path: Path, run_official: RunOfficial) -> None:
    """Packed, predicted and written by us, paired and scored by them; colours are not in the
    way."""
    save_raw(tmp_path / "raw", np.random.default_rng(1))
    store, cpu = open_store(str(tmp_path / "packed")), torch.device("cpu")
    pack("cityscapes", tmp_path / "raw", store, "val", encoding="original")
    split = PackedSplit(store, "val", ShardCache(tmp_path / "cache"), TABLE, (20, 28))
    segmenter, views = varied_network(19), InferenceConfig(flip=True)
    score = evaluate(segmenter, split, cpu, views=views).score
    out = tmp_path / "results"
    assert write_predictions(segmenter, split, out, SPACE, cpu, views=views, colours=True) == 6
    split.close()
    assert np.count_nonzero(score.matrix.sum(dim=0)) > 5
    check_equal(score, run_official(tmp_path / "raw", out))
