"""The command `suggest`, from a finished run to a labelled split that a job trains on."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cli.conftest import refused
from tests.commands import call


@pytest.mark.slow
def test_images_are_suggested_annotated_packed_and_trained_on(finished: Path) -> None:
    wanted = ("--model", "runs/tiny", "--count", "4", "--out", "few", "--json")
    ended = call("suggest", "tiny.yaml", *wanted, folder=finished)
    assert ended.code == 0, ended.err
    answer, few = json.loads(ended.out), finished / "few"
    keys = [one["key"] for one in answer["images"]]
    assert len(set(keys)) == 4 and answer["samples"] == 22 and answer["dataset"] == "tiny"
    assert (few / "keys.txt").read_text().split() == keys
    assert sorted(path.stem for path in (few / "images").iterdir()) == sorted(keys)
    assert json.loads((few / "suggestion.json").read_text())["by"] == "score"
    with Image.open(few / "sheet.png") as sheet:
        assert sheet.height > 4 * 200
    prelabel = np.asarray(Image.open(few / "prelabels" / "png" / f"{keys[0]}.png"))
    assert prelabel.shape == (48, 64) and prelabel.max() <= 3
    shutil.copy(few / "prelabels" / "cvat.zip", few / "export" / "task.zip")
    uri = str(finished / "packed_few")
    packed = call("pack", "cvat", "few", uri, "--name", "tiny", "--split", "few", folder=finished)
    assert packed.code == 0, packed.err
    assert "4 samples" in packed.err


@pytest.mark.slow
def test_random_is_the_control_and_the_commands_are_shown(finished: Path) -> None:
    given = ("--model", "runs/tiny", "--count", "3", "--by", "random", "--out", "control")
    ended = call("suggest", "tiny.yaml", *given, folder=finished)
    assert ended.code == 0, ended.err
    assert "segadapt pack cvat control URI --name tiny --split few" in ended.err
    assert "--set target.labelled_split=few" in ended.err and ended.out.strip() == "control"
    again = call("suggest", "tiny.yaml", *given, folder=finished)
    refused(again, 2, "control: expected an empty folder, got files")


def test_jobs_that_nothing_can_be_suggested_for(finished: Path) -> None:
    model = ("--model", "runs/tiny", "--out", "none")
    untargeted = call("suggest", "tiny.yaml", *model, "--set", "target=null", folder=finished)
    refused(untargeted, 2, "target: expected one dataset to choose images of, got none")
    for _ in range(2):  # a try that fails leaves nothing that stops the next one
        missing = call("suggest", "tiny.yaml", "--model", "no", "--out", "none", folder=finished)
        refused(missing, 2, "no: expected a file of weights or the folder of a checkpoint")
    wrong = call("suggest", "tiny.yaml", *model, "--by", "luck", folder=finished)
    refused(wrong, 2, "--by: expected a way to choose, got 'luck'")
