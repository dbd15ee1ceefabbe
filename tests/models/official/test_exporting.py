"""Our checkpoints as the papers' programs read them, and back again."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from adapt.errors import JobError
from adapt.methods import build_method
from adapt.models import build_segmenter
from adapt.models.official.exporting import adversaries_of, export_checkpoint
from adapt.models.official.importing import import_checkpoint
from adapt.models.weights import describe


def _checkpoint(folder: Path, method: str = "advent", **model: Any) -> Path:
    """A checkpoint's folder as the trainer writes it, as far as an export reads it."""
    torch.manual_seed(0)
    values = {"architecture": "deeplab_v2", "encoder": "caffe_resnet14", "weights": "none"}
    segmenter = build_segmenter({**values, **model})
    heads = len(segmenter.head_names)
    options = {} if method == "source_only" else {"weight_adv": [0.001] * heads}
    built = build_method({"name": method, **options}, segmenter)
    folder.mkdir()
    header = describe(segmenter.config, 19)
    save_file(segmenter.state_dict(), folder / "weights.safetensors", header)
    torch.save({"engine": {"method": built.state_dict()}}, folder / "state.pt")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("style", ["adaptsegnet", "advent"])
@pytest.mark.parametrize(
    "model", [{}, {"aux": False}, {"encoder": "caffe_vgg16", "aux": False}], ids=str
)
def test_what_is_exported_and_imported_again_is_the_same(
    tmp_path: Path, style: Any, model: dict[str, Any]
) -> None:
    folder = _checkpoint(tmp_path / "step", **model)
    report = export_checkpoint(folder, tmp_path / "theirs.pth", style)
    ours = load_file(folder / "weights.safetensors")
    back = import_checkpoint(report.written[0], tmp_path / "back.safetensors", aspp_branches=4)
    again = load_file(back.written)
    assert again.keys() == ours.keys() and not back.refused and not back.kept
    assert all(torch.equal(again[key], ours[key]) for key in ours)


def test_discriminators_are_written_beside_the_network(tmp_path: Path) -> None:
    folder = _checkpoint(tmp_path / "step")
    for style, endings in (("adaptsegnet", ("D2", "D1")), ("advent", ("D_main", "D_aux"))):
        report = export_checkpoint(folder, tmp_path / style / "GTA5_5.pth", style)  # type: ignore[arg-type]
        assert [path.name for path in report.written] == [
            "GTA5_5.pth", f"GTA5_5_{endings[0]}.pth", f"GTA5_5_{endings[1]}.pth"
        ]  # fmt: skip
        for path, own in zip(
            report.written[1:], adversaries_of(folder / "state.pt").values(), strict=True
        ):
            back = load_file(import_checkpoint(path, tmp_path / "d.safetensors").written)
            assert all(torch.equal(back[key], own[key]) for key in own)


def test_single_level_networks_are_named_as_each_program_does(tmp_path: Path) -> None:
    folder = _checkpoint(tmp_path / "step", method="source_only", aux=False)
    for style, head in (("adaptsegnet", "layer5"), ("advent", "layer6")):
        report = export_checkpoint(folder, tmp_path / f"{style}.pth", style)  # type: ignore[arg-type]
        state = torch.load(report.written[0], weights_only=True)
        assert {key.split(".")[0] for key in state if "conv2d_list" in key} == {head}
        assert len(report.written) == 1


def test_weights_without_description_are_refused(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "weights.safetensors")
    with pytest.raises(
        JobError, match=r"CHECKPOINT: expected weights that say .* got no description"
    ):
        export_checkpoint(tmp_path / "weights.safetensors", tmp_path / "x.pth", "advent")
    with pytest.raises(JobError, match=r"CHECKPOINT: expected a file, got none"):
        export_checkpoint(tmp_path / "nowhere", tmp_path / "x.pth", "advent")
    with pytest.raises(JobError, match=r"--out: expected a .pth file, got 'x.pt'"):
        export_checkpoint(tmp_path / "weights.safetensors", tmp_path / "x.pt", "advent")


def test_networks_the_programs_do_not_have_are_refused(tmp_path: Path) -> None:
    folder = _checkpoint(tmp_path / "step", encoder="resnet18", output_stride=16)
    with pytest.raises(JobError, match=r"model.encoder: .*'resnet18' with 2 heads"):
        export_checkpoint(folder, tmp_path / "x.pth", "advent")
