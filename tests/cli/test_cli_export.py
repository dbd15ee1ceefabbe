"""The command `export`: what it writes, prints and refuses."""

import json
from pathlib import Path

import pytest
import torch

from adapt.data.label_maps import LABEL_SPACES
from adapt.models import build_segmenter
from adapt.models.file_header import FileHeader, write_weights
from tests.cli.conftest import refused
from tests.commands import call

MODEL = {"architecture": "deeplab_v2", "encoder": "test_resnet", "output_stride": 16}


@pytest.fixture(scope="module")
def best(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a checkpoint's weights with random ones."""
    torch.manual_seed(0)
    segmenter = build_segmenter({**MODEL, "weights": "none"}, 19)
    space = LABEL_SPACES["cityscapes19"]
    header = FileHeader(segmenter.config, 19, segmenter.pixels, space, (64, 96))
    folder = tmp_path_factory.mktemp("best")
    write_weights(segmenter.state_dict(), header.entries(), folder / "weights.safetensors")
    return folder


@pytest.mark.slow
def test_a_file_and_a_folder_in_one_call(best: Path, tmp_path: Path) -> None:
    ended = call("export", best, "--out", "a/model.onnx", "--bundle", "edge", folder=tmp_path)
    assert ended.code == 0, ended.err
    assert "compared with the model" in ended.out and "2x97x161" in ended.out
    assert ended.out.splitlines()[-6:] == [
        "a/model.onnx",
        *(f"edge/{name}" for name in ("README.md", "classes.json", "model.onnx")),
        *("edge/predict.py", "edge/requirements.txt"),
    ]
    graph = (tmp_path / "a" / "model.onnx").read_bytes()
    assert graph == (tmp_path / "edge" / "model.onnx").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "edge"]
    again = call("export", best, "--bundle", "edge", folder=tmp_path)
    refused(again, 2, "--bundle: expected a new or an empty folder, got edge")


@pytest.mark.slow
def test_a_program_of_torch_as_json(best: Path, tmp_path: Path) -> None:
    arguments = ("--to", "torch", "--out", "model.pt2", "--json")
    ended = call("export", best / "weights.safetensors", *arguments, folder=tmp_path)
    assert ended.code == 0, ended.err
    answer = json.loads(ended.out)
    assert answer["written"] == ["model.pt2"] and answer["to"] == "torch"
    assert [one["difference"] for one in answer["compared"]] == [0.0] * 3
    assert (tmp_path / "model.pt2").stat().st_size > 100_000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "export: expected --out FILE or --bundle FOLDER, got neither"),
        (("--out", "model.pb"), "--out: expected a .onnx file with --to onnx, got 'model.pb'"),
        (("--to", "torch", "--out", "m.onnx"), "expected a .pt2 file with --to torch"),
        (("--to", "torch", "--bundle", "edge"), "--bundle: expected --to onnx, got torch"),
        (("--out", "m.onnx", "--int8"), "--int8: expected a labelled packed split, by which"),
        (("--out", "m.onnx", "--calibrate", "uri"), "--calibrate: expected --int8 beside it"),
        (
            ("--to", "torch", "--out", "m.pt2", "--int8", "--calibrate", "uri"),
            "--int8: expected --to onnx, got torch",
        ),
    ],
)
def test_refusals_come_before_any_work(
    arguments: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    refused(call("export", "missing", *arguments, folder=tmp_path), 2, message)
    assert list(tmp_path.iterdir()) == []


def test_an_opset_that_is_not_written(tmp_path: Path) -> None:
    ended = call("export", "missing", "--out", "m.onnx", "--opset", "9", folder=tmp_path)
    assert ended.code == 2 and "18" in ended.err and "Traceback" not in ended.err
