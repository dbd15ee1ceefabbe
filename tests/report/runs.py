"""Runs made up for reports: a resolved spec and a history, without training."""

from typing import Any

import numpy as np
import torch

from adapt.data.label_maps import LABEL_SPACES, LabelSpace
from adapt.evaluation.evaluate import Picture, Score
from adapt.report.history import TRAIN, VALIDATION, History
from adapt.report.run_record import RunRecord
from adapt.report.thumbnails import panels
from adapt.spec.loading import parse_spec

HOSTILE = "<img src=x onerror=alert(1)>&\"'"
"""A name that would run a script where it is not escaped."""


def session(**changes: Any) -> dict[str, Any]:
    """The facts of a start of a job."""
    split = {"dataset": "gta5", "split": "train", "samples": 24966, "fingerprint": "ab" * 32}
    return {
        "started": "2026-11-30T06:00:00+00:00",
        "platform": "sagemaker",
        "nodes": 1,
        "ranks": 2,
        "device": "cuda",
        "gpu": "NVIDIA H200, 139 GiB",
        "processor": "Some processor",
        "cores": 16,
        "memory_gib": 128,
        "system": "Linux x86_64",
        "versions": {"python": "3.12.1", "torch": "2.14.1"},
        "data": {"source": {**split, "uri": "s3://bucket/gta5"}},
        **changes,
    }


def spec_of(name: str, classes: Any, **changes: Any) -> str:
    """A resolved spec; the changes are of its sections."""
    domain = {"dataset": "gta5", "uri": "s3://bucket/gta5", "batch_size": 2, "size_hw": [720, 1280]}
    values: dict[str, Any] = {
        "name": name,
        "classes": classes,
        "source": domain,
        "validation": {"dataset": "cityscapes", "uri": "s3://bucket/cityscapes"},
        "model": {"architecture": "deeplab_v2", "encoder": "resnet101", "weights": "none"},
        "method": {"name": "source_only"},
        "train": {"steps": 4000},
        "checkpoint": {"uri": "runs"},
    }
    return parse_spec(values | changes, name).to_yaml()


def made_run(
    name: str = "made",
    classes: LabelSpace = LABEL_SPACES["cityscapes19"],
    *,
    seed: int = 0,
    scale: float = 1.0,
    num_pictures: int = 3,
    num_evaluations: int = 4,
    **changes: Any,
) -> RunRecord:
    """A run of 4000 steps; `scale` shifts its scores."""
    history, random = History(), np.random.default_rng(seed)
    history.start_session(session(), 0)
    for step in range(50, 4001, 50):
        noise = 1 + 0.1 * random.normal()
        losses = {"train/loss.main": 2 * 0.999**step * noise + 0.2, "train/loss.adv": 0.001 * noise}
        rates = {"train/lr.segmenter": 2.5e-4 * (1 - step / 4001) ** 0.9}
        history.log(TRAIN, step, {**losses, **rates, "speed/samples_per_s": 12 * noise})
    for number in range(1, num_evaluations + 1):
        record = score_of(classes, scale * number / (num_evaluations + 1), seed)
        values = {"miou": record["miou"], "pixel_accuracy": record["pixel_accuracy"]}
        values |= {f"iou/{one}": value for one, value in record["iou"].items() if value is not None}
        step = 4000 * number // num_evaluations
        history.log(VALIDATION, step, values)
        shown = panels([picture(f"street {n}", classes, n) for n in range(num_pictures)], classes)
        entry = {"step": step, "record": record, "pictures": shown, "worst": shown[:1]}
        history.log_evaluation(entry, record["miou"])
    history.text()
    history.sessions[-1]["seconds"] = 5400.0
    return RunRecord.of(spec_of(name, classes.short(), **changes), history, f"runs/{name}")


def score_of(classes: LabelSpace, sure: float, seed: int = 0) -> dict[str, Any]:
    """The record of a confusion matrix whose diagonal has about the share `sure`."""
    random, count = np.random.default_rng(seed), classes.num_classes
    matrix = random.integers(1, 60, (count, count))
    matrix += np.diag(random.integers(300, 3000, count) * sure).astype(np.int64)
    return Score(torch.from_numpy(matrix)).record(classes.names)


def picture(key: str, classes: LabelSpace, seed: int = 0) -> Picture:
    """A picture of bands, its prediction shifted."""
    rows = np.arange(48)[:, None] + np.zeros((1, 96), int)
    truth = (rows * classes.num_classes // 48).astype(np.uint8)
    predicted = np.roll(truth, 3 + seed, axis=0)
    image = np.repeat((255 * rows / 48).astype(np.uint8)[..., None], 3, axis=2)
    logits = np.random.default_rng(seed).normal(size=(classes.num_classes, 48, 96))
    return Picture(key, image, truth, predicted, logits.astype(np.float32))
