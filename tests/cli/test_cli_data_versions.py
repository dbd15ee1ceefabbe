"""The group `data` as users run it: ls, show, diff, tag, lineage, clean."""

import json
from pathlib import Path

import mlflow
import numpy as np
import pytest
from PIL import Image

from tests.cli.conftest import refused
from tests.commands import call
from tests.conftest import write_raw_folders


def pack(folder: Path, *more: object) -> str:
    """Pack the raw folder; the dataset's id."""
    ended = call("pack", "folders", "raw", "packed", *more, "--json", folder=folder)
    assert ended.code == 0, ended.err
    return str(json.loads(ended.out)["dataset_id"])


def test_versions_from_tag_to_difference(tmp_path: Path) -> None:
    write_raw_folders(tmp_path / "raw", 4, seed=1)
    first = pack(tmp_path)
    tagged = call("data", "tag", "packed", "raw", "--note", "as it came", folder=tmp_path)
    assert tagged.code == 0 and f"packed/train: {first[:12]} is 'raw'" in tagged.err
    second = pack(tmp_path, "--skip", "002", "--overwrite")
    listed = json.loads(call("data", "ls", "packed", "--json", folder=tmp_path).out)["train"]
    assert [(one["id"], one["tags"], one["current"], one["note"]) for one in listed] == [
        (first, ["raw"], False, "as it came"),
        (second, [], True, ""),
    ]
    table = call("data", "ls", "packed", folder=tmp_path).out
    assert first[:12] in table and "(current)" in table
    shown = json.loads(call("data", "show", "packed@raw", "--json", folder=tmp_path).out)
    assert shown["samples"] == 4 and sum(shown["shares"].values()) == pytest.approx(1)
    assert "as it came" in call("data", "show", "packed@raw", folder=tmp_path).out
    compared = call("data", "diff", "packed@raw", "packed", "--json", folder=tmp_path)
    found = json.loads(compared.out)
    assert (found["removed"], found["added"], found["relabelled"]) == (["002"], [], [])
    said = call("data", "diff", "packed@raw", "packed", folder=tmp_path).err
    assert "removed 1 sample: 002" in said and "of the pixels" in said
    assert "nothing differs" in call("data", "diff", "packed", "packed", folder=tmp_path).err
    refused(call("data", "show", "packed@rwa", folder=tmp_path), 2, "got 'rwa'", "'raw'")
    refused(call("data", "ls", "nowhere", folder=tmp_path), 4, "nowhere/train/manifest.json")


@pytest.mark.slow
def test_lineage_names_the_runs_that_used_a_version(tmp_path: Path) -> None:
    write_raw_folders(tmp_path / "raw", 2, seed=1)
    identity = pack(tmp_path)
    server = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = mlflow.MlflowClient(server)
    experiment = client.create_experiment("streets")
    for name, used in (("mine", identity), ("other", "0" * 64)):
        tags = {"segadapt.source": used, "segadapt.validation": identity[:-1] + "x"}
        client.create_run(experiment, run_name=name, tags=tags)
    ended = call("data", "lineage", "packed", "--tracking-uri", server, "--json", folder=tmp_path)
    assert ended.code == 0, ended.err
    (run,) = json.loads(ended.out)
    assert (run["name"], run["role"], run["experiment"]) == ("mine", "source", "streets")


def test_clean_writes_a_list_that_pack_takes(tmp_path: Path) -> None:
    write_raw_folders(tmp_path / "raw", 4, seed=1)
    images = tmp_path / "raw" / "images"
    (images / "001.png").write_bytes(b"junk")
    Image.new("RGB", (64, 48)).save(images / "002.png")
    ended = call("data", "clean", "folders", "raw", "--out", "found", "--json", folder=tmp_path)
    assert ended.code == 0, ended.err
    proposed = {(one["key"], one["check"]) for one in json.loads(ended.out)}
    assert {("001", "broken"), ("002", "dark")} <= proposed
    assert {path.name for path in images.iterdir()} == {f"00{n}.png" for n in range(4)}
    lines = (tmp_path / "found" / "skip.txt").read_text().splitlines()
    assert lines[2].startswith("001  # broken: ") and "samples of 4" not in lines[0]
    with Image.open(tmp_path / "found" / "sheet.png") as sheet:
        assert np.asarray(sheet).min() == 0
    (tmp_path / "found" / "skip.txt").write_text("\n".join(lines[:4]))
    ended = call(
        "pack", "folders", "raw", "p", "--skip-file", "found/skip.txt", "--json", folder=tmp_path
    )
    assert ended.code == 0 and json.loads(ended.out)["num_samples"] == 2, ended.err
    refused(
        call("data", "clean", "folders", "raw", "--out", "found/skip.txt", folder=tmp_path),
        *(2, "--out: expected a folder, got the file found/skip.txt"),
    )
