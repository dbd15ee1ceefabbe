"""Static quantisation of an ONNX graph to 8 bits for CPUs, and its loss on a packed split.

Ranges of activations are those seen on images of the split; weights have a range a channel and 7
bits, because products of 8 bits saturate on CPUs without VNNI. All but convolutions stays in
float32. The loss is the mIoU of the same graph in float32 minus that in 8 bits, on other images of
the split than the calibration's.
"""

import io
import itertools
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from adapt.batch import Sample
from adapt.data.label_maps import LabelSpace
from adapt.data.packed.packed_split import PackedSplit
from adapt.data.packed.split_files import read_manifest
from adapt.errors import DataError
from adapt.evaluation.inference import decoded
from adapt.evaluation.metrics import confusion_matrix, miou
from adapt.export.deployed import INPUTS
from adapt.export.programs import Run, onnx_run, quiet
from storage.shards.cache import ShardCache
from storage.store import Store

QUANTISED = ("Conv",)
"""Operators of 8 bits: nearly all the time is theirs."""

Progress = Callable[[int, int], None]


class Loss(NamedTuple):
    """mIoU in [0, 1] of the graph in float32 and in 8 bits, on how many images of a split, and the
    number of those that calibrated it."""

    split: str
    images: int
    calibrated_on: int
    miou_float32: float
    miou_int8: float

    @property
    def lost(self) -> float:
        """mIoU that 8 bits lose; below 0 where they gain."""
        return self.miou_float32 - self.miou_int8


class Quantised(NamedTuple):
    """The graph of 8 bits and its loss."""

    content: bytes
    loss: Loss


def quantise(
    content: bytes,
    store: Store,
    split_name: str,
    classes: LabelSpace,
    size_hw: tuple[int, int] | None,
    count: int,
    on_image: Progress = lambda _done, _total: None,
) -> Quantised:
    """Calibrate on `count` images of a labelled split, score on as many others.

    Raises `DataError` for a split without labels of these classes or of fewer than two images,
    `StoreError`.
    """
    with tempfile.TemporaryDirectory(prefix="segadapt-int8-") as folder:
        split = _opened(store, split_name, classes, size_hw, Path(folder) / "shards")
        try:
            calibrating, scored = _shared_out(len(split), count, split.uri)
            steps, total = itertools.count(1), len(calibrating) + 2 * len(scored)

            def seen(indices: Sequence[int]) -> Iterator[Sample]:
                for _, sample in decoded(split, indices, threads=2):
                    yield sample
                    on_image(next(steps), total)

            small = _quantised(content, seen(calibrating), Path(folder))
            scores = [
                score(onnx_run(graph), seen(scored), classes.num_classes)
                for graph in (content, small)
            ]
        finally:
            split.cache.close()
            split.close()
    return Quantised(small, Loss(split.uri, len(scored), len(calibrating), *scores))


def score(run: Run, samples: Iterator[Sample], num_classes: int) -> float:
    """mIoU of a graph on labelled samples."""
    matrix = torch.zeros(num_classes, num_classes, dtype=torch.int64)
    for sample in samples:
        assert sample.labels is not None, "opened with labels"
        height, width = sample.labels.shape
        class_map, *_ = run(sample.pixels()[None], (height, width))
        matrix += confusion_matrix(sample.labels, torch.from_numpy(class_map[0]), num_classes)
    return miou(matrix)


def _opened(
    store: Store, name: str, classes: LabelSpace, size_hw: tuple[int, int] | None, folder: Path
) -> PackedSplit:
    manifest, _ = read_manifest(store, name)
    uri = f"{store.uri}/{name}"
    if not manifest.labelled:
        raise DataError(
            f"{uri}: expected labels, by which the loss of 8 bits is measured, got a split packed "
            "without",
            "name a labelled split: --split val",
        )
    table = classes.table(manifest.dataset)
    split = PackedSplit(store, name, ShardCache(folder), table, size_hw)
    manifest.check_classes(classes.names, uri)
    return split


def _shared_out(length: int, count: int, uri: str) -> tuple[list[int], list[int]]:
    """Images to calibrate on and to score, spread evenly over the split, none in both."""
    if length < 2:
        raise DataError(
            f"{uri}: expected two images or more, to calibrate on one and score another, got "
            f"{length}",
            "name a larger split",
        )
    spread = np.linspace(0, length - 1, min(length, 2 * count)).round().astype(int).tolist()
    return spread[0::2], spread[1::2]


class _Reader:
    """Images in the form in which onnxruntime calibrates."""

    def __init__(self, samples: Iterator[Sample]) -> None:
        self._samples = samples

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The graph's inputs for the next image; None at the end."""
        sample = next(self._samples, None)
        if sample is None:
            return None
        pixels = sample.pixels()[None]
        size_hw = np.array(pixels.shape[1:3], np.int64)
        return dict(zip(INPUTS, (pixels, size_hw), strict=True))


def _quantised(content: bytes, samples: Iterator[Sample], folder: Path) -> bytes:
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    result = folder / "int8.onnx"
    graph = onnx.load(io.BytesIO(content))
    with quiet():
        quantize_static(
            graph,
            result,
            _Reader(samples),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(QUANTISED),
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            extra_options={"ActivationSymmetric": False},
        )
    written: Any = onnx.load(result)
    kept = {entry.key: entry.value for entry in graph.metadata_props}
    onnx.helper.set_model_props(written, kept)
    found: bytes = written.SerializeToString()
    return found
