"""`init` on tiny folders: its commands are run, then its spec passes `check`."""

import csv
import json
import shlex
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from adapt.spec.loading import load_spec
from tests.cli.conftest import refused
from tests.commands import Ended, call
from tests.conftest import write_raw_folders

HW = (64, 96)
COLOURS = np.array([(128, 64, 128), (70, 70, 70), (0, 0, 142), (0, 0, 0)], np.uint8)
"""Cityscapes' road, building and car, and black."""


def bands(number: int) -> np.ndarray:
    """(H, W) values 0 to 3 in bands, moved by the number."""
    rows = np.repeat([0, 1, 2, 3], HW[0] // 4)[:, None] * np.ones(HW[1], int)
    return np.roll(rows, 3 * number, axis=0)


def write_colours(raw_dir: Path, count: int, labels: int, below: str = "") -> None:
    """Images, and labels of `COLOURS` for the first of them."""
    rng = np.random.default_rng(0)
    for number in range(count):
        colours = COLOURS[bands(number)]
        image = colours // 2 + rng.integers(0, 60, (*HW, 3)).astype(np.uint8)
        for part, pixels in (("images", image), ("labels", colours))[: 1 + (number < labels)]:
            (raw_dir / part / below).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(raw_dir / part / below / f"{number:03d}.png")


def init(folder: Path, *more: object, source: str = "town", target: str = "camera") -> Ended:
    return call("init", source, target, "--out", "job", "--yes", *more, folder=folder)


def run_commands(folder: Path, until: str = "check") -> None:
    """Run the commands that were written, up to one."""
    for line in (folder / "job" / "commands.sh").read_text().splitlines():
        if line.startswith("segadapt "):
            argv = shlex.split(line)[1:]
            ended = call(*argv, folder=folder)
            assert ended.code == 0, (argv, ended.err)
            if argv[0] == until:
                return
    raise AssertionError(f"no command {until}")


@pytest.mark.slow
def test_colours_are_named_and_the_spec_passes_check(tmp_path: Path) -> None:
    write_colours(tmp_path / "town", 6, labels=6)
    write_colours(tmp_path / "camera", 5, labels=5, below="day/noon")
    ended = init(tmp_path, "--json")
    assert ended.code == 0, ended.err
    answer = json.loads(ended.out)
    job = load_spec(tmp_path / answer["spec"])
    assert job.classes.names == ("road", "building", "car")
    assert [one.ids for one in job.classes.root] == [
        {"town": (number,), "camera": (number,)} for number in range(3)
    ]
    rows = list(csv.reader((tmp_path / "job" / "labels_source.csv").open()))
    assert rows[:2] == [["name", "r", "g", "b", "id"], ["road", "128", "64", "128", "0"]]
    run_commands(tmp_path)
    manifest = json.loads((tmp_path / "job/packed/town/train/manifest.json").read_text())
    share = HW[0] * HW[1] // 4 * 6
    assert manifest["id_pixels"] == {"0": share, "1": share, "2": share, "255": share}
    val = json.loads((tmp_path / "job/packed/camera_val/train/manifest.json").read_text())
    train = json.loads((tmp_path / "job/packed/camera/train/manifest.json").read_text())
    assert (val["num_samples"], val["labelled"]) == (1, True)
    assert (train["num_samples"], train["labelled"]) == (4, False)
    checked = call("check", answer["spec"], "--json", folder=tmp_path)
    (memory,) = [f for f in json.loads(checked.out)["findings"] if f["what"] == "GPU memory"]
    predicted = f"{answer['needed_bytes'] / 1e9:.1f} GB of "
    assert memory["found"].startswith(predicted)
    assert f"A step needs {predicted}" in (tmp_path / answer["spec"]).read_text()


@pytest.mark.slow
def test_ids_of_an_unlabelled_target_are_trained_as_the_commands_say(tmp_path: Path) -> None:
    write_raw_folders(tmp_path / "town", 4, seed=1, size_hw=HW)
    write_colours(tmp_path / "camera", 3, labels=0)
    ended = init(tmp_path, "--steps", 1, "--ignore", 3, "--names", "road, wall,sky")
    assert ended.code == 0, ended.err
    assert "No labels of the target" in ended.err and "choose" in ended.err
    values = yaml.safe_load((tmp_path / "job" / "town_to_camera.yaml").read_text())
    assert [(one["name"], one["ids"]) for one in values["classes"]] == [
        *(("road", {"town": [0]}), ("wall", {"town": [1]}), ("sky", {"town": [2]})),
    ]
    assert "validation" not in values and values["train"]["steps"] == 1
    run_commands(tmp_path, until="run")
    assert list((tmp_path / "job" / "runs" / "town_to_camera").glob("step*"))


@pytest.mark.slow
def test_packed_datasets_are_not_packed_again(tiny_uri: str, tmp_path: Path) -> None:
    ended = init(tmp_path, "--name", "again", "--json", source=tiny_uri, target=tiny_uri)
    assert ended.code == 0, ended.err
    answer = json.loads(ended.out)
    assert [argv[0] for argv in answer["commands"]] == ["inspect", "check", "run"]
    job = load_spec(tmp_path / answer["spec"])
    assert job.validation is not None and job.validation.split == "val"
    assert job.classes.names == ("class_0", "class_1", "class_2", "class_3")
    run_commands(tmp_path)


@pytest.mark.slow
def test_known_layouts_are_found_with_their_classes(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for folder, ending, mode, colour in (
            ("leftImg8bit", "leftImg8bit", "RGB", (9, 9, 9)),
            ("gtFine", "gtFine_labelIds", "L", 7),
        ):
            path = tmp_path / "streets" / folder / split / "ulm" / f"ulm_0_1_{ending}.png"
            path.parent.mkdir(parents=True)
            image = Image.new(mode, (64, 32), colour)
            image.paste(26 if mode == "L" else (99, 9, 9), (0, 0, 20, 20))
            image.save(path)
    write_colours(tmp_path / "town", 2, labels=2)
    ended = init(tmp_path, target="streets")
    assert ended.code == 0, ended.err
    text = (tmp_path / "job" / "commands.sh").read_text()
    assert "pack cityscapes streets job/packed/cityscapes --split val --original\n" in text
    job = load_spec(tmp_path / "job" / "town_to_cityscapes.yaml")
    assert job.classes.ids["cityscapes"] == {7: 0, 26: 2}
    assert "never scored there: building" in ended.err


def test_the_largest_network_that_fits_is_proposed(tmp_path: Path) -> None:
    from adapt.proposal.networks import NETWORKS, proposed_network

    tried = []

    def job_of(network: object, batch: int, crop_hw: tuple[int, int]) -> object:
        tried.append((network, batch, crop_hw))
        return None

    needs = iter([9_000, 5_000, 3_000, 2_000])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "adapt.proposal.networks.predicted_bytes",
            lambda _job, _ranks: type("Peak", (), {"needed": next(needs)}),
        )
        choice = proposed_network(3_500, (300, 700), 2, job_of)  # type: ignore[arg-type]
    assert (choice.network, choice.batch, choice.crop_hw) == (NETWORKS[1], 1, (288, 512))
    assert choice.fits and choice.needed == 3_000 and [one[1] for one in tried] == [4, 4, 2]


def test_labels_of_another_size_are_refused_by_name(tmp_path: Path) -> None:
    write_colours(tmp_path / "town", 2, labels=2)
    write_colours(tmp_path / "camera", 1, labels=0)
    Image.new("RGB", (10, 8)).save(tmp_path / "town" / "labels" / "001.png")
    refused(init(tmp_path), 4, "001.png: the label is 8x10, its image 64x96 pixels (HxW)")
    assert not (tmp_path / "job").exists()


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        ("no labels", 4, "expected labels of the source beside 2 images, got none. Fix: put them"),
        ("flat", 4, "expected images/ and labels/, or the layout of a known dataset, got 4 images"),
        ("one name", 2, "--target-name: expected another name than the source's, got 'town'"),
        ("files there", 2, "--out: expected a new or empty folder, got job with files"),
        ("names", 2, "--names: expected 3 names, one a class, got 2"),
        ("photo", 4, "expected at most 254 colours in all labels, got"),
        ("nothing", 4, "nowhere: expected a folder of images or a packed dataset, got none"),
        ("ids", 2, "expected a dataset whose ids have names, got 'cityscape'; did you mean"),
        ("unasked", 2, "init: Names of the classes"),
    ],
)
def test_what_cannot_be_proposed_is_refused(
    change: str, code: int, message: str, tmp_path: Path
) -> None:
    write_colours(tmp_path / "town", 2, labels=0 if change == "no labels" else 2)
    write_colours(tmp_path / "camera", 1, labels=0)
    more: list[object] = []
    source = "nowhere" if change == "nothing" else "town"
    labels = tmp_path / "town" / "labels"
    if change == "flat":
        (tmp_path / "town" / "images").rename(tmp_path / "town" / "pictures")
    if change == "one name":
        more = ["--target-name", "town"]
    if change == "files there":
        (tmp_path / "job").mkdir()
        (tmp_path / "job" / "mine.yaml").touch()
    if change == "names":
        more = ["--names", "road,car"]
    if change == "photo":
        noise = np.random.default_rng(0).integers(0, 256, (*HW, 3), np.uint8)
        Image.fromarray(noise).save(labels / "001.png")
    if change == "ids":
        more = ["--source-ids", "cityscape"]
    if change == "unasked":
        for path in labels.iterdir():
            Image.fromarray(bands(0).astype(np.uint8) + 1).save(path)
        argv = ["init", "town", "camera", "--out", "job", "--source-ids", "own"]
        refused(call(*argv, folder=tmp_path), code, message, "pass --yes for all defaults")
        return
    refused(init(tmp_path, *more, source=source), code, message)


@pytest.mark.slow
def test_questions_have_defaults_on_a_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_raw_folders(tmp_path / "town", 2, seed=1, size_hw=HW)
    write_colours(tmp_path / "camera", 1, labels=0)
    asked = {}

    def prompt(question: str, default: str, **_: object) -> str:
        asked[question] = default
        return "source_only" if question == "Method" else default

    monkeypatch.setattr("typer.prompt", prompt)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    ended = call("init", "town", "camera", "--out", "job", "--name", "mine", folder=tmp_path)
    assert ended.code == 0, ended.err
    assert asked["Names of the classes, in this order"] == "class_0,class_1,class_2,class_3"
    assert "Name of the run" not in asked and "Method" in asked
    assert load_spec(tmp_path / "job" / "mine.yaml").method.name == "source_only"
