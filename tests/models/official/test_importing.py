"""Files of the papers' programs, made here with their keys: what is taken, kept and refused."""

import hashlib
import io
import pickle
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from rich.console import Console
from safetensors.torch import load_file
from torch import Tensor

from adapt.data.label_maps import LABEL_SPACES
from adapt.errors import JobError
from adapt.models import build_encoder, build_segmenter
from adapt.models.discriminators import FullyConvolutionalDiscriminator
from adapt.models.file_header import read_file_header
from adapt.models.official.import_report import report_table
from adapt.models.official.importing import import_checkpoint
from adapt.models.official.names import (
    VGG_LAYERS,
    official_discriminator,
    official_heads,
    official_name,
)
from adapt.models.segmenter import Segmenter
from adapt.models.weights import read_description


def _network(seed: int = 0, classes: int = 19, **model: Any) -> Segmenter:
    torch.manual_seed(seed)
    values = {"architecture": "deeplab_v2", "encoder": "caffe_resnet14", "weights": "none"}
    segmenter = build_segmenter({**values, **model}, classes)
    for tensor in segmenter.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand_like(tensor))
    return segmenter


def _official(segmenter: Segmenter, heads: tuple[str, ...]) -> dict[str, Tensor]:
    return {
        official_name(key, heads): tensor.clone() for key, tensor in segmenter.state_dict().items()
    }


def _save(folder: Path, state: Any, **options: Any) -> Path:
    path = folder / "theirs.pth"
    torch.save(state, path, **options)
    return path


def _imported(file: Path, **options: Any) -> tuple[Any, dict[str, Tensor]]:
    report = import_checkpoint(file, file.with_name("ours.safetensors"), **options)
    return report, load_file(report.written)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "PyTorch 0.4"])
def test_a_trained_network_of_two_levels(tmp_path: Path, zipped: bool) -> None:
    segmenter = _network()
    state = _official(segmenter, ("layer6", "layer5"))
    counters = [key for key in state if key.endswith("num_batches_tracked")]
    for key in counters if not zipped else []:  # old files have none
        del state[key]
    file = _save(tmp_path, state, _use_new_zipfile_serialization=zipped)
    report, tensors = _imported(file, aspp_branches=2)
    assert report.use == "model.start_uri" and not report.refused
    assert report.mapped["layer5.conv2d_list.3.bias"] == "decoder.heads.1.branches.3.bias"
    assert len(report.kept) == (0 if zipped else len(counters))
    own = segmenter.state_dict()
    assert tensors.keys() == own.keys()
    for key in report.mapped.values():
        assert torch.equal(tensors[key], own[key]), key
    assert all(tensors[key].item() == 0 for key in report.kept)
    assert read_description(report.written) == {
        "architecture": "deeplab_v2",
        "encoder": "caffe_resnet14",
        "aspp_branches": 2,
        "aux": True,
        "num_classes": 19,
    }


@pytest.mark.parametrize("style", ["adaptsegnet", "advent"])
def test_trained_networks_of_one_level(tmp_path: Path, style: Any) -> None:
    segmenter = _network(classes=7, aux=False)
    heads = official_heads("caffe_resnet14", 1, style)
    report, tensors = _imported(_save(tmp_path, _official(segmenter, heads)), aspp_branches=4)
    own = segmenter.state_dict()
    assert all(torch.equal(tensors[key], own[key]) for key in own)
    described = read_description(report.written)
    assert described is not None
    assert (described["aux"], described["num_classes"]) == (False, 7)


def test_a_trained_vgg(tmp_path: Path) -> None:
    segmenter = _network(encoder="caffe_vgg16", aux=False)
    file = _save(tmp_path, _official(segmenter, ("classifier",)))
    _, tensors = _imported(file, aspp_branches=2, num_classes=19)
    own = segmenter.state_dict()
    assert tensors.keys() == own.keys() and len(own) == 38
    assert all(torch.equal(tensors[key], own[key]) for key in own)


@pytest.mark.parametrize("style", ["adaptsegnet", "advent"])
def test_discriminators(tmp_path: Path, style: Any) -> None:
    network = FullyConvolutionalDiscriminator(19)
    file = _save(tmp_path, official_discriminator(network.state_dict(), style))
    report, tensors = _imported(file)
    assert report.use == "method.discriminator_uris" and len(report.mapped) == 10
    network.load_state_dict(tensors)


def _init_file(prefix: str = "Scale.") -> dict[str, Tensor]:
    state = {
        f"{prefix}{key}": tensor
        for key, tensor in _network().encoder.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
    for branch in range(4):
        state[f"{prefix}layer5.conv2d_list.{branch}.weight"] = torch.zeros(21, 2048, 3, 3)
        state[f"{prefix}layer5.conv2d_list.{branch}.bias"] = torch.zeros(21)
    return state


@pytest.mark.parametrize("prefix", ["Scale.", "module_of_old."])
def test_the_file_that_training_starts_from(tmp_path: Path, prefix: str) -> None:
    state = _init_file(prefix)
    report, tensors = _imported(_save(tmp_path, state))
    assert report.use == "model.weights_uri" and report.what == "encoder caffe_resnet14"
    assert report.mapped[f"{prefix}conv1.weight"] == "conv1.weight"
    assert sorted(report.refused) == sorted(key for key in state if "layer5" in key)
    assert all("old head" in reason for reason in report.refused.values())
    assert all(key.endswith("num_batches_tracked") for key in report.kept) and report.kept
    build_encoder("caffe_resnet14", 8).load(tensors)
    assert torch.equal(
        tensors["layer4.0.bn3.running_var"], state[f"{prefix}layer4.0.bn3.running_var"]
    )
    assert read_description(report.written) == {"encoder": "caffe_resnet14"}


@pytest.mark.slow
@pytest.mark.parametrize("bare", [False, True])
def test_vgg16_of_imagenet(tmp_path: Path, bare: bool) -> None:
    encoder = build_encoder("caffe_vgg16", 8).state_dict()
    theirs = {
        f"{'' if bare else 'features.'}{index}.{kind}": encoder[f"features.{ours}.{kind}"]
        for index, ours in VGG_LAYERS.items()
        for kind in ("weight", "bias")
    }
    if not bare:
        theirs["classifier.0.weight"] = torch.zeros(3, 3)
    file = _save(tmp_path, theirs)
    with pytest.raises(JobError, match="--pixels: expected bgr_mean, got none"):
        _imported(file)
    report, tensors = _imported(file, pixels="bgr_mean")
    assert report.what == "encoder caffe_vgg16" and len(report.mapped) == 26
    assert list(report.refused) == ([] if bare else ["classifier.0.weight"])
    fresh = build_encoder("caffe_vgg16", 8)
    fresh.load(tensors)
    found = fresh.state_dict()
    for key in tensors:
        assert torch.equal(found[key], encoder[key])
    assert "features.29.weight" not in tensors


def test_a_resnet_of_imagenet_is_not_taken_for_caffes(tmp_path: Path) -> None:
    state = {**_network().encoder.state_dict(), "fc.weight": torch.zeros(1000, 2048)}
    file = _save(tmp_path, state)
    for pixels in (None, "rgb_std"):
        with pytest.raises(JobError, match=r"--pixels: expected bgr_mean.*--encoder resnet101"):
            _imported(file, pixels=pixels)
    prefixed = _save(tmp_path, {f"backbone.{key}": tensor for key, tensor in state.items()})
    with pytest.raises(JobError, match="FILE: expected the init file"):
        _imported(prefixed)
    report, _ = _imported(_save(tmp_path, state), pixels="bgr_mean")
    assert report.refused == {"fc.weight": "ImageNet's classifier"}


def test_weights_of_timm(tmp_path: Path) -> None:
    state = timm.create_model("resnet18").state_dict()
    report, tensors = _imported(_save(tmp_path, state), encoder="resnet18")
    assert list(report.refused) == ["fc.weight", "fc.bias"]
    build_encoder("resnet18", 32).load(tensors)
    with pytest.raises(JobError, match="expected weights of encoder 'resnet34'"):
        _imported(_save(tmp_path, state), encoder="resnet34")


@pytest.mark.slow
def test_the_classifier_of_torchvisions_vgg_has_other_names_than_timms(tmp_path: Path) -> None:
    encoder = build_encoder("vgg11", 32).state_dict()
    names = [key.removeprefix("backbone.").replace("features_", "features.") for key in encoder]
    state = dict(zip(names, encoder.values(), strict=True))
    report, tensors = _imported(
        _save(tmp_path, {**state, "classifier.0.weight": torch.zeros(2, 2)}), encoder="vgg11"
    )
    assert list(report.refused) == ["classifier.0.weight"] and tensors.keys() == state.keys()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "--aspp-branches: expected 2 .* or 4 .*, got none"),
        ({"aspp_branches": 3}, "--aspp-branches: .* got 3"),
        (
            {"aspp_branches": 2, "num_classes": 16},
            "--num-classes: expected 19, .*, got 16. Fix: pass --num-classes 19",
        ),
    ],
)
def test_what_a_network_does_not_show_must_be_said(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    file = _save(tmp_path, _official(_network(), ("layer6", "layer5")))
    with pytest.raises(JobError, match=message):
        _imported(file, **options)


def _with(change: dict[str, Tensor | None]) -> dict[str, Tensor]:
    state = {**_official(_network(), ("layer6", "layer5")), **change}
    return {key: tensor for key, tensor in state.items() if tensor is not None}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"layer5.conv2d_list.0.weight": torch.zeros(19, 512, 3, 3)},
            "FILE: expected layer6 on 2048 channels .* got .*'layer5': 512",
        ),
        ({"layer2.1.conv3.weight": torch.zeros(1)}, r"FILE: .* got \[1, 2, 1, 1\]"),
        ({"conv1.weight": None}, "missing: encoder.conv1.weight"),
        ({"surprise": torch.zeros(1)}, "unexpected: encoder.surprise"),
        (
            {"layer5.conv2d_list.0.weight": torch.zeros(16, 1024, 3, 3)},
            "expected weights for 19 classes, got 16",
        ),
    ],
)
def test_networks_of_other_shapes_are_refused(
    tmp_path: Path, change: dict[str, Tensor | None], message: str
) -> None:
    with pytest.raises(JobError, match=message):
        _imported(_save(tmp_path, _with(change)), aspp_branches=2)
    assert not list(tmp_path.glob("ours*"))


def test_a_vgg_with_another_head_is_refused(tmp_path: Path) -> None:
    state = {"features.0.weight": torch.zeros(1), "layer6.conv2d_list.0.weight": torch.zeros(1)}
    with pytest.raises(JobError, match=r"FILE: expected a head with classifier.conv2d_list.0"):
        _imported(_save(tmp_path, state), aspp_branches=2)


def test_files_of_nothing_known_are_refused(tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"FILE: expected the init file.*keys such as a.weight"):
        _imported(_save(tmp_path, {"a.weight": torch.zeros(2)}))
    with pytest.raises(
        JobError, match=r"--encoder: expected caffe_resnet14, .* got 'caffe_resnet101'"
    ):
        _imported(_save(tmp_path, _init_file()), encoder="caffe_resnet101")
    with pytest.raises(JobError, match=r"--out: expected a .safetensors file, got 'x.pth'"):
        import_checkpoint(_save(tmp_path, {"a": torch.zeros(1)}), tmp_path / "x.pth")


class Attack:
    """A pickle that would run code."""

    def __reduce__(self) -> Any:
        return Path.touch, (Path("attacked"),)


@pytest.mark.parametrize("zipped", [True, False])
def test_nothing_in_a_file_is_executed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zipped: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    file = _save(
        tmp_path, {"a": Attack()}, pickle_module=pickle, _use_new_zipfile_serialization=zipped
    )
    with pytest.raises(JobError, match="cannot be read"):
        _imported(file)
    assert not (tmp_path / "attacked").exists()


def test_the_table_shows_counts_and_reasons(tmp_path: Path) -> None:
    report, _ = _imported(_save(tmp_path, _init_file()))
    page = Console(width=200, record=True, file=io.StringIO())
    page.print(report_table(report))
    text = page.export_text()
    assert "Scale.conv1.weight -> conv1.weight" in text and "old head" in text
    assert str(len(report.mapped)) in text and "use it as model.weights_uri" in text
    assert report.as_dict()["refused"] == report.refused


def test_the_header_states_the_classes_that_are_given(tmp_path: Path) -> None:
    """So that `adapt.load` needs no spec; without them it asks for one."""
    file = _save(tmp_path, _official(_network(), ("layer6", "layer5")))
    space = LABEL_SPACES["cityscapes19"]
    report, tensors = _imported(file, aspp_branches=2, classes=space)
    header = read_file_header(report.written, "FILE")
    assert header is not None and header.classes == space and header.pixels.bgr
    assert header.config.aspp_branches == 2  # type: ignore[attr-defined]
    assert header.lineage["imported_from"] == "theirs.pth"
    assert header.lineage["imported_sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    report, bare = _imported(file, aspp_branches=2)
    header = read_file_header(report.written, "FILE")
    assert header is not None and header.classes is None
    assert all(torch.equal(bare[key], value) for key, value in tensors.items())
    with pytest.raises(JobError, match=r"--classes: expected 19, the classes .*, got 16"):
        _imported(file, aspp_branches=2, classes=LABEL_SPACES["cityscapes16"])
