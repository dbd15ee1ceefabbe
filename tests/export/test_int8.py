"""Graphs of 8 bits, with their loss on a packed split; the table of latencies."""

from collections.abc import Iterator

import numpy as np
import onnx
import pytest

from adapt.config.validation import validate
from adapt.data.label_maps import LabelSpace
from adapt.errors import DataError
from adapt.export import int8
from adapt.export.export import export_model
from adapt.export.int8 import quantise
from adapt.export.latency import Latency, latencies, latency_sizes
from adapt.export.programs import onnx_run
from adapt.models import build_segmenter
from adapt.models.file_header import FileHeader
from adapt.use.model import LoadedModel
from storage.stores import Stores
from tests.conftest import TINY_CLASSES, TINY_HW
from tests.networks import tiny_model

SPACE = validate(LabelSpace, TINY_CLASSES, "classes")


@pytest.mark.slow
def test_a_graph_of_8_bits_states_its_loss(tiny_uri: str) -> None:
    values = tiny_model("deeplab_v2")
    segmenter = build_segmenter(values, SPACE.num_classes)
    header = FileHeader(segmenter.config, SPACE.num_classes, segmenter.pixels, SPACE, TINY_HW)
    content = export_model(LoadedModel(segmenter, header, Stores(), "cpu")).content
    seen: list[tuple[int, int]] = []
    store = Stores().open(tiny_uri)
    found = quantise(content, store, "train", SPACE, TINY_HW, 3, lambda *pair: seen.append(pair))
    assert (found.loss.images, found.loss.calibrated_on) == (3, 3)
    assert found.loss.split.endswith("/train") and seen == [(n, 9) for n in range(1, 10)]
    assert abs(found.loss.lost) < 0.2 and 0 <= found.loss.miou_float32 <= 1
    graph = onnx.load_from_string(found.content)
    assert {node.op_type for node in graph.graph.node} >= {"QuantizeLinear", "DequantizeLinear"}
    assert "segadapt.classes" in {entry.key for entry in graph.metadata_props}
    images = np.zeros((1, *TINY_HW, 3), np.uint8)
    one, other = onnx_run(content)(images, TINY_HW), onnx_run(found.content)(images, TINY_HW)
    assert one[2].shape == other[2].shape and not np.array_equal(one[2], other[2])


def test_images_are_shared_out() -> None:
    assert int8._shared_out(10, 2, "uri") == ([0, 6], [3, 9])
    assert int8._shared_out(3, 99, "uri") == ([0, 2], [1])
    with pytest.raises(DataError, match=r"uri: expected two images or more.*got 1"):
        int8._shared_out(1, 2, "uri")


def test_latencies_leave_out_the_first_passes() -> None:
    ticks: Iterator[float] = iter([0, 9, 9, 12, 12, 13, 13, 15])
    seen: list[tuple[int, int]] = []
    (found,) = latencies(
        {"torch": lambda *_: ()}, [(32, 48)], 2, lambda *pair: seen.append(pair), ticks.__next__
    )
    assert found == Latency("torch", (32, 48), 1500.0, pytest.approx(1950.0), 2)
    assert seen[-1] == (4, 4)
    assert latency_sizes((64, 96), 48) == [(48, 48), (64, 96)]
    assert latency_sizes(None, 32) == [(256, 512), (512, 1024)]
