"""The papers' networks against what their own programs compute: logits, statistics, sizes, names.

Networks are built as a job builds them, from plain values.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from adapt.models import build_segmenter
from adapt.models.layers import resize
from adapt.models.segmenter import Segmenter
from tests.golden_recipe import fill, image, program_key

torch.set_num_threads(1)
DTYPES = {"f32": torch.float32, "f64": torch.float64}
TOLERANCE = {"f32": 1e-5, "f64": 1e-12}
RESNET = {"architecture": "deeplab_v2", "weights": "none", "encoder": "caffe_resnet14"}
FULL = {**RESNET, "encoder": "caffe_resnet101"}
VGG = {**RESNET, "encoder": "caffe_vgg16", "aux": False, "aspp_branches": 2}


class Case(NamedTuple):
    """A golden network: our config, its tag, and its names of heads' weights and outputs."""

    model: dict[str, Any]
    tag: str
    heads: tuple[str, ...]
    outputs: tuple[str, ...]


_MULTI = ("G", ("layer6", "layer5"), ("main", "aux"))
_SINGLE = {"aux": False}
CASES = {
    "adaptsegnet/tiny1111/65x129": Case({**RESNET, "aspp_branches": 2}, *_MULTI),
    "adaptsegnet/tiny1111/64x128": Case({**RESNET, "aspp_branches": 2}, *_MULTI),
    "advent/tiny1111/65x129": Case({**RESNET, "aspp_branches": 4}, *_MULTI),
    "advent/tiny1111/64x128": Case({**RESNET, "aspp_branches": 4}, *_MULTI),
    "advent_singlelevel/tiny1111/65x129": Case({**RESNET, **_SINGLE}, "G", ("layer6",), ("main",)),
    "adaptsegnet_res_deeplab/tiny1111/65x129": Case(
        {**RESNET, **_SINGLE, "aspp_branches": 2}, "G", ("layer5",), ("out",)
    ),
    "adaptsegnet_vgg/vgg16/65x129": Case(VGG, "VGG", ("classifier",), ("out",)),
    "adaptsegnet_vgg/vgg16/64x128": Case(VGG, "VGG", ("classifier",), ("out",)),
}


def _golden(shared_dir: Path, prefix: str) -> dict[str, np.ndarray]:
    with np.load(shared_dir / "golden" / "forward.npz") as file:
        found = {key.removeprefix(prefix): file[key] for key in file if key.startswith(prefix)}
    assert found, prefix
    return found


def _close(found: torch.Tensor, expected: np.ndarray, tolerance: float) -> None:
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found.numpy(), expected, rtol=tolerance, atol=tolerance * scale)


@pytest.mark.slow
@pytest.mark.parametrize("precision", DTYPES)
@pytest.mark.parametrize("name", CASES)
def test_logits_and_statistics_are_the_programs(
    shared_dir: Path, name: str, precision: str
) -> None:
    case, tolerance = CASES[name], TOLERANCE[precision]
    golden = _golden(shared_dir, f"{name}/{precision}/")
    height, width = map(int, name.rsplit("/", 1)[1].split("x"))
    images = image(f"forward_image/{height}x{width}", (height, width)).to(DTYPES[precision])
    segmenter = build_segmenter(case.model)
    fill(segmenter, case.tag, case.heads)
    segmenter.to(DTYPES[precision])
    compared = set()
    for mode in ("eval", "train"):
        expected = {output: golden[f"{mode}/{output}"] for output in case.outputs}
        size_hw = expected[case.outputs[0]].shape[-2:]
        with torch.no_grad():
            logits = segmenter.train(mode == "train")(images, size_hw=size_hw).logits
        for output, found in zip(case.outputs, logits, strict=True):
            _close(found, expected[output], tolerance)
            compared.add(f"{mode}/{output}")
    for key, value in segmenter.state_dict().items():
        after = f"train/after/{program_key(key, case.heads)}"
        if after in golden:
            _close(value, golden[after], tolerance)
            compared.add(after)
    assert compared == golden.keys()


def test_the_two_branch_counts_differ() -> None:
    """Names and shapes are the same, logits are not: the count must be told."""
    images, logits = image("forward_image/65x129", (65, 129)), []
    for branches in (2, 4):
        segmenter = build_segmenter({**RESNET, "aspp_branches": branches})
        fill(segmenter, "G")
        with torch.no_grad():
            logits.append(segmenter.eval()(images).logits[0])
    assert (logits[0] - logits[1]).abs().max() > 0.1


@pytest.mark.parametrize("precision", DTYPES)
def test_upsampling_is_the_programs(shared_dir: Path, precision: str) -> None:
    golden = _golden(shared_dir, "upsample/")
    features = torch.tensor(golden["in"], dtype=DTYPES[precision])
    segmenter = build_segmenter(RESNET)
    found = resize(features, (65, 129), segmenter.align_corners)
    _close(found, golden["align_corners_true_65x129"], TOLERANCE[precision])


@pytest.mark.slow
@pytest.mark.parametrize(("name", "model"), [("resnet", FULL), ("vgg", VGG)])
def test_sizes_at_real_inputs_are_the_programs(
    shared_dir: Path, name: str, model: dict[str, Any]
) -> None:
    with torch.device("meta"):
        segmenter = build_segmenter(model)
    for size, shape in _golden(shared_dir, f"shape/{name}/").items():
        height, width = map(int, size.split("x"))
        images = torch.empty(1, 3, height, width, device="meta")
        logits, _ = segmenter.decoder(images, segmenter.encoder(images))
        assert {tuple(head.shape) for head in logits} == {tuple(shape)}, size


@pytest.mark.parametrize(
    ("tag", "model", "heads", "count"),
    [("G", FULL, ("layer6", "layer5"), 640), ("VGG", VGG, ("classifier",), 38)],
)
def test_names_shapes_and_what_trains_are_the_programs(
    shared_dir: Path, tag: str, model: dict[str, Any], heads: tuple[str, ...], count: int
) -> None:
    with torch.device("meta"):
        segmenter = build_segmenter({**model, "aspp_branches": 4})
    with np.load(shared_dir / "golden" / "recipe.npz") as recipe:
        shapes = dict(zip(recipe[f"{tag}/keys"], recipe[f"{tag}/shapes"], strict=True))
        trains = dict(zip(recipe[f"{tag}/keys"], recipe[f"{tag}/requires_grad"], strict=True))
    assert len(shapes) == count
    found = segmenter.state_dict(keep_vars=True)
    ours = {program_key(key, heads): value for key, value in found.items()}
    assert {key: ",".join(map(str, value.shape)) for key, value in ours.items()} == shapes
    assert {key: value.requires_grad for key, value in ours.items()} == trains


@pytest.mark.parametrize(
    ("changes", "total", "trainable"),
    [
        ({}, 44_601_560, 44_496_216),
        ({"aux": False}, 43_901_068, 43_795_724),
        ({"aspp_branches": 2}, 44_601_560, 44_496_216 - 700_492 // 2 - 1_400_908 // 2),
    ],
)
def test_as_many_parameters_as_the_programs(
    changes: dict[str, Any], total: int, trainable: int
) -> None:
    with torch.device("meta"):
        segmenter: Segmenter = build_segmenter({**FULL, **changes})
    sizes = {name: parameter.numel() for name, parameter in segmenter.named_parameters()}
    assert sum(sizes.values()) == total
    groups = segmenter.parameter_groups()
    assert sum(p.numel() for group in groups.values() for p in group) == trainable
