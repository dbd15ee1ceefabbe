"""The main job on real images, shortened: AirSim -> CamVid through a real bucket and MLflow."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file

from adapt.models import build_segmenter
from adapt.models.decoders.deeplab_v2 import DeepLabV2Config
from adapt.platforms.local_stack import S3Server
from tests.commands import call

ROOT = Path(__file__).resolve().parents[1]
SPECS = ROOT / "job_specs" / "airsim_to_camvid"
SHORT = ["train.steps=4", "evaluate.every_steps=4", "train.log_every_steps=1"]


Command = Callable[..., str]


@pytest.fixture
def command(tmp_path: Path) -> Command:
    """Runs one command without servers; its standard output."""
    return commands_in(tmp_path, {})


@pytest.fixture
def command_on_stack(s3_server: S3Server, mlflow_uri: str, tmp_path: Path) -> Command:
    """Runs one command in the environment that `make stack` prints; its standard output."""
    s3_server.make_bucket("segadapt")
    return commands_in(tmp_path, {**s3_server.environment(), "MLFLOW_TRACKING_URI": mlflow_uri})


def commands_in(folder: Path, environment: dict[str, str]) -> Command:
    def run(*arguments: object) -> str:
        ended = call(*arguments, folder=folder, environment=environment)
        assert ended.code == 0, ended.err
        return ended.out

    return run


def train(command: Command, method: str, *overrides: str) -> dict[str, Any]:
    sets = [part for one in (*SHORT, *overrides) for part in ("--set", one)]
    answer: dict[str, Any] = json.loads(command("run", SPECS / f"{method}.yaml", "--json", *sets))
    return answer


def start_of(command: Command, raw: Path, folder: Path) -> Path:
    """Both datasets are packed, the start is trained; its downloaded weights."""
    command("pack", "folders", raw / "airsim", "s3://segadapt/airsim", "--name", "airsim")
    camvid = ("pack", "camvid", raw / "camvid", "s3://segadapt/camvid")
    command(*camvid, "--split", "train", "--size-hw", "192", "256")
    for split in ("val", "test"):
        command(*camvid, "--split", split, "--original")
    train(command, "start")
    command("download-best", "start", "--out", folder / "start")
    return folder / "start" / "weights.safetensors"


def check_method(command: Command, method: str, start: Path, best: Path) -> None:
    """The file of a method's best checkpoint has the score that its run recorded."""
    answer = train(command, method, f"model.start_uri={start}")
    found = json.loads(command("download-best", method, "--out", best, "--json"))
    assert found["score"] == answer["best"]["score"]
    weights = ("--checkpoint", best / "weights.safetensors")
    scored = command("evaluate", best / "spec.yaml", *weights, "--json")
    assert json.loads(scored)[answer["chosen_by"]] == found["score"]


@pytest.mark.slow
def test_airsim_to_camvid_from_raw_folders_to_the_downloaded_best(
    shared_dir: Path, tmp_path: Path, command_on_stack: Command
) -> None:
    command, best = command_on_stack, tmp_path / "advent"
    start = start_of(command, shared_dir / "data", tmp_path)
    check_method(command, "source_only", start, tmp_path / "source_only")
    check_method(command, "advent", start, best)
    test = ("--set", "validation.split=test", "--pictures", best / "test.png", "--json")
    scored = command("evaluate", best / "spec.yaml", "--checkpoint", best, *test)
    assert 0.1 < json.loads(scored)["miou"] < 1
    assert Image.open(best / "test.png").width > 500


@pytest.mark.nightly
def test_every_method_trains_on_airsim_to_camvid(
    shared_dir: Path, tmp_path: Path, command_on_stack: Command
) -> None:
    first = ["source_only", "advent"]  # their runs label the target for others
    others = {path.stem for path in SPECS.glob("*.yaml")} - {"start", *first}
    start = start_of(command_on_stack, shared_dir / "data", tmp_path)
    for method in [*first, *sorted(others)]:
        check_method(command_on_stack, method, start, tmp_path / method)


@pytest.mark.slow
def test_the_genuine_cityscapes_pairs_evaluate_with_exact_labels(
    shared_dir: Path, tmp_path: Path, command: Command
) -> None:
    from cityscapesscripts.helpers.labels import labels

    raw = shared_dir / "data" / "cityscapes"
    command("pack", "cityscapes", raw, tmp_path / "packed", "--original")
    model = {"encoder": "tf_efficientnet_lite0", "output_stride": 32, "weights": "none"}
    save_file(
        build_segmenter(DeepLabV2Config(**model), 19).state_dict(),  # type: ignore[arg-type]
        tmp_path / "weights.safetensors",
    )
    split = {"dataset": "cityscapes", "uri": str(tmp_path / "packed"), "split": "train"}
    spec = tmp_path / "job.yaml"
    spec.write_text(
        json.dumps(
            {
                "classes": "cityscapes19",
                "source": {**split, "size_hw": [128, 256]},
                "validation": {**split, "size_hw": [128, 256]},
                "model": {"architecture": "deeplab_v2", **model},
                "method": {"name": "source_only"},
            }
        )
    )
    scored = command("evaluate", spec, "--checkpoint", tmp_path / "weights.safetensors", "--json")
    counted = np.zeros(19, np.int64)
    for path in sorted(raw.glob("gtFine/train/aachen/*_labelIds.png")):
        ids, pixels = np.unique(np.asarray(Image.open(path)), return_counts=True)
        for number, count in zip(ids, pixels, strict=True):
            train_id = next((label.trainId for label in labels if label.id == number), 255)
            if train_id not in (-1, 255):
                counted[train_id] += count
    assert np.array_equal(np.array(json.loads(scored)["matrix"]).sum(1), counted)
