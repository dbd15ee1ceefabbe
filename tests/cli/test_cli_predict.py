"""The command predict: both forms, exit codes, JSON, signals."""

import json
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import adapt
from adapt.data.label_maps import LABEL_SPACES
from adapt.models import build_segmenter
from adapt.models.file_header import FileHeader, write_weights
from tests.cli.conftest import refused
from tests.commands import Ended, call, finish, start
from tests.launch.rank_scripts import wait_until
from tests.use.conftest import files_in, shares_in, write_images

MODEL = {"architecture": "deeplab_v2", "encoder": "test_resnet", "output_stride": 16}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with `weights.safetensors` and five images in `photos`."""
    torch.manual_seed(1)
    segmenter = build_segmenter({**MODEL, "weights": "none"}, 19)
    space = LABEL_SPACES["cityscapes19"]
    header = FileHeader(segmenter.config, 19, segmenter.pixels, space, (32, 48))
    write_weights(segmenter.state_dict(), header.entries(), tmp_path / "weights.safetensors")
    write_images(tmp_path / "photos", [f"{number}.png" for number in range(5)])
    return tmp_path


def predict(folder: Path, *more: object) -> Ended:
    return call("predict", "weights.safetensors", *more, "--out", "seen", folder=folder)


def test_a_folder_is_predicted_as_from_python(folder: Path) -> None:
    ended = predict(folder, "photos", "--write", "overlay,ids", "--ids", "cityscapes", "--json")
    assert ended.code == 0 and "5 images in seen" in ended.err, ended.err
    counts = {"images": 5, "videos": 0, "frames": 0, "skipped": 0, "bad": []}
    assert json.loads(ended.out) == {"out": "seen", **counts, "left_out": {}, "stopped": False}
    model = adapt.load(folder / "weights.safetensors", device="cpu")
    for path in sorted((folder / "photos").iterdir()):
        written = np.array(Image.open(folder / "seen" / "ids" / path.name))
        assert np.array_equal(written, model.predict(path).ids("cityscapes"))
    again = predict(folder, "photos", "--write", "overlay,ids", "--ids", "cityscapes")
    assert again.code == 0 and "0 images, 5 written before in seen" in again.err


def test_bad_files_end_with_4_and_a_summary(folder: Path) -> None:
    (folder / "photos" / "bad.png").write_bytes(b"<html>")
    (folder / "photos" / "notes.txt").touch()
    ended = predict(folder, "photos", "--json")
    assert ended.code == 4 and json.loads(ended.out)["images"] == 5
    problem = {"path": "photos/bad.png", "text": "corrupt image: a web page in place of the file"}
    assert json.loads(ended.out)["bad"] == [problem]
    assert "DataError 1 bad file:\n  photos/bad.png: corrupt image: a web page" in ended.err
    assert "left out: files that are no images or videos (.txt) (1)" in ended.err
    assert "Fix: replace them and run the same command, which predicts the rest." in ended.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "INPUT: expected a picture, a folder, a video or another input, got none"),
        (("absent",), "absent: expected a picture, a video, a folder, a glob"),
        (("photos", "--write", "film"), "--write: expected known names, got 'film'"),
        (("photos", "--slice", "2/2"), "--slice: expected I/N with I from 0 to N - 1"),
        (("photos", "--size-hw", 9, 9), "--size-hw: expected --checkpoint beside it, got none"),
        (("photos", "--colours"), "--colours: expected --checkpoint beside it, got none"),
        (("photos", "--checkpoint", "a"), "INPUT: expected none beside --checkpoint, got one"),
        (("--checkpoint", "a", "--write", "ids"), "--write: expected none beside --checkpoint"),
        (("63",), "camera 63: expected a camera at /dev/video63, got: "),
    ],
)
def test_wrong_usage_is_refused(arguments: tuple[object, ...], message: str, folder: Path) -> None:
    refused(predict(folder, *arguments), 2, message)
    assert not files_in(folder / "seen")


def test_a_wrong_slice_is_refused_before_the_model_is_looked_for(folder: Path) -> None:
    more = ("photos", "--out", "seen", "--slice", "5/4")
    refused(call("predict", "absent", *more, folder=folder), 2, "--slice: expected I/N with I")


def test_help_names_both_forms(folder: Path) -> None:
    ended = call("predict", "--help", folder=folder)
    assert ended.code == 0
    for word in ("INPUT", "--slice", "--write", "--checkpoint", "--size-hw", "shares.csv"):
        assert word in ended.out


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_leaves_whole_files_and_the_same_command_resumes(
    number: signal.Signals, folder: Path
) -> None:
    count = 150
    write_images(folder / "photos", [f"{number:04d}.png" for number in range(count)])
    words = ("predict", "weights.safetensors", "photos", "--out", "seen")
    process = start(*words, folder=folder)
    wait_until(lambda: len(list((folder / "seen").glob("overlay/*.png"))) > 3, timeout_s=120)
    process.send_signal(number)
    ended = finish(process)
    assert ended.code == 75, ended.err
    assert "Interrupted stopped: " in ended.err and "; the same command resumes" in ended.err
    names = {row["name"] for row in shares_in(folder / "seen")}
    assert files_in(folder / "seen") == {f"overlay/{name}.png" for name in names} | {"shares.csv"}
    for path in (folder / "seen" / "overlay").iterdir():
        Image.open(path).load()
    again = call(*words, "--json", folder=folder)
    answer = json.loads(again.out)
    assert answer["skipped"] == len(names) and answer["images"] == count + 5 - len(names)
    assert len(shares_in(folder / "seen")) == count + 5


@pytest.mark.slow
def test_a_killed_command_is_repeated(folder: Path) -> None:
    """What it had recorded is skipped; half a file never has an output's name."""
    write_images(folder / "photos", [f"{number:04d}.png" for number in range(250)])
    words = ("predict", "weights.safetensors", "photos", "--out", "seen")
    process = start(*words, folder=folder)
    rows = folder / "seen" / ".segadapt" / "rows"
    wait_until(lambda: any(rows.rglob("*.csv")), timeout_s=120)
    process.kill()
    finish(process)
    for path in (folder / "seen" / "overlay").glob("[0-9]*.png"):
        Image.open(path).load()
    answer = json.loads(call(*words, "--json", folder=folder).out)
    assert answer["skipped"] > 0 and answer["skipped"] + answer["images"] == 255
    assert len({row["name"] for row in shares_in(folder / "seen")}) == 255


def test_progress_without_a_terminal_is_a_line_now_and_then(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adapt.cli.live.LINE_EVERY_S", 0.0)
    (folder / "photos" / "bad.png").touch()
    ended = predict(folder, "photos")
    lines = [line for line in ended.err.splitlines() if line.startswith("predicting ")]
    assert "predicting 6/6, " in lines[-1] and "/s, 1 bad, left 0:00:00" in lines[-1]


@pytest.mark.slow
def test_ranks_of_a_launcher_share_the_work(folder: Path) -> None:
    """The leader answers for all; all end with the exit code of the whole."""
    (folder / "photos" / "bad.png").touch()
    started = time.monotonic()
    words = ("predict", "weights.safetensors", "photos", "--out", "seen", "--json")
    ranks = [start(*words, folder=folder, environment=launched(rank)) for rank in range(2)]
    leader, other = (finish(one) for one in ranks)
    assert (leader.code, other.code) == (4, 4), leader.err + other.err
    answer = json.loads(leader.out)
    assert answer["images"] == 5 and [one["path"] for one in answer["bad"]] == ["photos/bad.png"]
    assert other.out == "" and "DataError" not in other.err
    assert len(shares_in(folder / "seen")) == 5 and time.monotonic() - started < 120
    parts = {path.parent.name for path in (folder / "seen").rglob("*.csv")} - {"seen"}
    assert parts == {"000000-of-000002", "000001-of-000002"}


PORT: list[int] = []


def launched(rank: int) -> dict[str, str]:
    """What torchrun tells a rank of two."""
    from tests.servers import free_ports

    if not PORT:
        PORT.extend(free_ports(1))
    own = dict.fromkeys(("RANK", "LOCAL_RANK"), str(rank))
    counts = {
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "GROUP_RANK": "0",
        "GROUP_WORLD_SIZE": "1",
    }
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(PORT[0])}
    return {"TORCHELASTIC_RUN_ID": "tests", **own, **counts, **address}
