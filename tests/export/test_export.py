"""Exported graphs compute what loaded models do, at any size, and state what they are."""

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from timm.layers import padding
from torch import Tensor, nn

from adapt.errors import JobError
from adapt.export import export as module
from adapt.export.compare import Compared, compare, example_images, refuse_differences
from adapt.export.export import Exported, export_model, write_export
from adapt.export.pooling import TRANSLATIONS
from adapt.export.programs import FORMATS, METADATA_FILE, same_padding
from adapt.export.wanted import DEFAULT_OPSET, need_libraries
from adapt.models import ARCHITECTURES, build_segmenter, layers
from adapt.models.file_header import FileHeader
from adapt.use.model import LoadedModel
from tests.export.conftest import LINEAGE, SPACE, loaded, of_architecture
from tests.networks import varied_network


@pytest.mark.slow
def test_the_graph_is_the_loaded_model_at_every_size(
    exported: Exported, mirrored: LoadedModel
) -> None:
    """At sizes that no comparison had; outputs at the size that is asked for."""
    run = FORMATS["onnx"].run(exported.content)
    for batch, height, width in ((1, 33, 50), (3, 70, 41)):
        images = example_images((batch, height, width))
        classes, confidence, logits = run(images, (height, width))
        assert logits.shape == (batch, 19, height, width)
        mirrored.size_hw = None
        results = mirrored.predict(list(images))
        mirrored.size_hw = (64, 96)
        for index, result in enumerate(results):
            assert np.mean(result.class_map != classes[index]) < 1e-3
            assert np.allclose(result.probabilities.max(0), confidence[index], atol=1e-5)
        assert len(np.unique(classes)) > 1, "a test of one class could not fail"
    assert (classes.dtype, confidence.dtype) == (np.uint8, np.float32)


@pytest.mark.slow
def test_the_file_states_its_network_and_its_comparison(exported: Exported) -> None:
    graph = onnx.load_from_string(exported.content)
    onnx.checker.check_model(graph)
    assert [one.version for one in graph.opset_import if not one.domain] == [DEFAULT_OPSET]
    found = {entry.key: json.loads(entry.value) for entry in graph.metadata_props}
    assert [row["name"] for row in found["segadapt.classes"]] == list(SPACE.names)
    assert found["segadapt.input"]["size_hw"] == [64, 96]
    assert found["segadapt.views"]["flip"] is True and found["segadapt.lineage"] == LINEAGE
    stated = found["segadapt.export"]
    assert stated == exported.record() and len(stated["compared"]) == 3
    assert stated["compared"][0]["images"] == [1, 64, 96]
    assert any(height % 2 for _, height, _ in (one["images"] for one in stated["compared"]))
    sizes = {value.name: shape_of(value) for value in (*graph.graph.input, *graph.graph.output)}
    assert sizes == {
        "images": ["batch", "height", "width", 3],
        "size_hw": [2],
        "class_map": ["batch", "out_height", "out_width"],
        "confidence": ["batch", "out_height", "out_width"],
        "logits": ["batch", 19, "out_height", "out_width"],
    }
    root = str(Path(module.__file__).parents[2]).encode()
    assert root not in exported.content, "paths of this machine"


def shape_of(value: onnx.ValueInfoProto) -> list[str | int]:
    return [one.dim_param or one.dim_value for one in value.type.tensor_type.shape.dim]


@pytest.mark.slow
def test_a_program_of_torch(tmp_path: Path) -> None:
    model = loaded(varied_network(19))
    exported = export_model(model, "torch")
    write_export(exported.content, tmp_path / "model.pt2", "torch")
    notes = {METADATA_FILE: ""}
    program = torch.export.load(tmp_path / "model.pt2", extra_files=notes).module()
    assert json.loads(notes[METADATA_FILE]) == exported.entries
    images = example_images((3, 31, 22))
    classes, _, logits = program(torch.from_numpy(images), torch.tensor([31, 22]))
    for index, result in enumerate(model.predict(list(images))):
        assert np.array_equal(result.class_map, classes[index].numpy())
        assert np.array_equal(result.probabilities, logits[index].softmax(0).numpy())
    with pytest.raises(RuntimeError):
        program(torch.zeros(1, 31, 22, 3), torch.tensor([31, 22]))


@pytest.mark.parametrize("to", ["onnx", pytest.param("torch", marks=pytest.mark.nightly)])
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name == "pspnet" else pytest.mark.nightly)
        for name in ARCHITECTURES
    ],
)
@pytest.mark.slow
def test_every_architecture_exports(name: str, to: str) -> None:
    exported = export_model(of_architecture(name), to)
    assert all(one.fits for one in exported.compared)
    assert min(one.equal_pixels for one in exported.compared) > 0.9999
    assert str(Path(module.__file__).parents[2]).encode() not in exported.content


@pytest.mark.slow
def test_pyramids_of_averages_in_onnx() -> None:
    """Also where a grid is finer than the map, and its windows overlap."""

    class Pyramid(nn.Module):
        def forward(self, images: Tensor) -> tuple[Tensor, ...]:
            return tuple(F.adaptive_avg_pool2d(images, size) for size in (1, 2, 3, 6))

    pyramid, vary = Pyramid().eval(), {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    program = torch.export.export(
        pyramid, (torch.zeros(2, 3, 20, 21),), dynamic_shapes={"images": vary}
    )
    written = torch.onnx.export(
        program, dynamo=True, custom_translation_table=TRANSLATIONS, verbose=False
    )
    assert written is not None
    session = onnxruntime.InferenceSession(written.model_proto.SerializeToString())
    for size_hw in ((5, 6), (13, 32), (31, 7)):
        images = torch.rand(2, 3, *size_hw)
        found = session.run(None, {"images": images.numpy()})
        for one, expected in zip(found, pyramid(images), strict=True):
            assert np.allclose(one, expected.numpy(), atol=1e-6)


@pytest.mark.parametrize("sizes", [((16, 24), (8, 6)), ((33, 50), (4, 3)), ((7, 9), (7, 2))])
def test_pooling_and_resizing_while_exporting(
    sizes: tuple[tuple[int, int], tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The forms that are exported give the values of those that are trained."""
    features, partner = torch.randn(2, 3, *sizes[0]), torch.randn(2, 1, *sizes[1])
    expected = layers.max_pool_to(features, partner)
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    assert torch.equal(layers.max_pool_to(features, partner), expected)
    assert torch.equal(layers.resize_to(features, features), features)
    assert torch.equal(layers.resize_to(features, features, align_corners=True), features)


def test_a_file_that_differs_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = loaded(varied_network(19))

    def shifted(images: np.ndarray, size_hw: tuple[int, int]) -> tuple[np.ndarray, ...]:
        logits = np.stack([np.zeros((19, *size_hw), np.float32)] * len(images))
        return logits[:, 0].astype(np.uint8), logits[:, 0], logits

    found = compare(shifted, model.segmenter, model.views, None)
    assert [one.images[0] for one in found] == [1, 2, 1]
    with pytest.raises(JobError, match=r"--to onnx: expected logits within 0.001 .* at 256x512"):
        refuse_differences(found, "--to onnx")
    close = Compared((1, 9, 9), (9, 9), 1e-4, 0.0, 1.0, 1.0)
    refuse_differences([close], "--to onnx")
    for other in (
        close._replace(difference=float("inf")),
        close._replace(difference=2e-3),
        close._replace(equal_pixels=0.99),
    ):
        assert not other.fits
        with pytest.raises(JobError, match="9x9 pixels"):
            refuse_differences([close, other], "--to onnx")


@pytest.mark.slow
def test_what_a_graph_cannot_hold_is_refused(tmp_path: Path) -> None:
    scales = loaded(varied_network(19), scales=[1.0, 1.5])
    with pytest.raises(JobError, match=r"got \{'scales': \[1.0, 1.5\].*give --whole-image"):
        export_model(scales, "torch")
    exported = export_model(scales, "torch", whole_image=True)
    assert json.loads(exported.entries["segadapt.views"])["scales"] == [1.0]
    with pytest.raises(JobError, match=r"expected a .pt2 file with --to torch, got 'model.onnx'"):
        write_export(exported.content, tmp_path / "model.onnx", "torch")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_network_of_fixed_sizes_is_named() -> None:
    class Fixed(nn.Module):
        def forward(self, images: Tensor, features: tuple[Tensor, ...]) -> object:
            return [images[:, :1].reshape(-1, 1, 97, 161)], {}

    segmenter = varied_network(19)
    segmenter.decoder.forward = Fixed().forward  # type: ignore[method-assign,assignment]
    with pytest.raises(JobError, match=r"expected a network that .* sizes that vary.*got none on"):
        export_model(loaded(segmenter), "torch")


@pytest.mark.parametrize("kernel", [(3, 2, 1), (5, 2, 1), (3, 1, 4), (1, 2, 1), (7, 4, 2)])
def test_same_padding_is_timms(kernel: tuple[int, int, int]) -> None:
    sides = range(1, 40)
    own = [padding.get_same_padding(side, *kernel) for side in sides]
    with same_padding():
        assert [padding.get_same_padding(side, *kernel) for side in sides] == own
        assert padding.get_same_padding.__name__ == "_same_padding_px"
    assert padding.get_same_padding.__name__ == "get_same_padding"


@pytest.mark.nightly
@pytest.mark.parametrize(
    "encoder",
    [
        "tf_efficientnet_lite0",
        "resnet18",
        "convnext_atto",
        "test_vit",
        "vit_pe_spatial_tiny_patch16_512",
    ],
)
def test_kinds_of_encoders_export(encoder: str) -> None:
    values = {"architecture": "bisenet", "encoder": encoder, "weights": "none"}
    exported = export_model(loaded(build_segmenter({**values, "output_stride": 32}, 19)))
    assert all(one.fits for one in exported.compared)


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(JobError, match=r"library onnxscript, got none.*segadapt\[export\]"):
        need_libraries()


def test_the_header_of_a_model_is_that_of_its_file(mirrored: LoadedModel) -> None:
    header = module.header_of_model(mirrored, mirrored.views)
    assert isinstance(header, FileHeader)
    assert (header.classes, header.size_hw, header.lineage) == (SPACE, (64, 96), LINEAGE)
