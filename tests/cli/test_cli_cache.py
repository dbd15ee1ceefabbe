"""`cache ls` and `cache clear` as users run them."""

import json
from pathlib import Path

import pytest

from tests.commands import Ended, call


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A cache with two data sets, one of which is being filled."""
    for name, size_bytes in [("aa11/train/0.tar", 3_000_000), ("aa22/train/0.tar", 1_000_000)]:
        path = tmp_path / "scratch" / "shards" / name
        path.parent.mkdir(parents=True)
        path.write_bytes(bytes(size_bytes))
        path.with_name("1.tar.part").write_bytes(b"half")
        path.with_name("0.tar.lock").touch()
    return tmp_path


def cache(folder: Path, *argv: str) -> Ended:
    return call(
        "cache", *argv, folder=folder, environment={"SEGADAPT_SCRATCH_DIR": str(folder / "scratch")}
    )


def test_ls_names_data_sets_and_sizes(folder: Path) -> None:
    said = cache(folder, "ls")
    assert said.code == 0 and "aa11" in said.out and "3.0" in said.out
    found = json.loads(cache(folder, "ls", "--json").out)
    assert found == [
        {"dataset_id": "aa11", "num_shards": 1, "size_bytes": 3_000_000},
        {"dataset_id": "aa22", "num_shards": 1, "size_bytes": 1_000_000},
    ]


def test_clear_takes_the_beginning_of_an_id_or_everything(folder: Path) -> None:
    ended = cache(folder, "clear", "aa")
    assert ended.code == 2
    assert "DATASET_ID: expected the beginning of one of aa11, aa22, got 'aa'" in ended.err
    assert "freed 3.0 MB" in cache(folder, "clear", "aa1").err
    assert [entry["dataset_id"] for entry in json.loads(cache(folder, "ls", "--json").out)] == [
        "aa22"
    ]
    assert "freed 1.0 MB" in cache(folder, "clear").err
    left = sorted(path.name for path in (folder / "scratch").rglob("*.*"))
    assert left == ["0.tar.lock"] * 2 + ["1.tar.lock"] * 2


def test_another_folder_may_be_named(folder: Path) -> None:
    said = cache(folder, "ls", "--json", "--folder", str(folder / "nothing"))
    assert json.loads(said.out) == []


def test_a_whole_id_is_shown_where_output_is_no_terminal(folder: Path) -> None:
    identity = "0123456789abcdef" * 4
    (folder / "scratch" / "shards" / "aa11").rename(folder / "scratch" / "shards" / identity)
    assert identity in cache(folder, "ls").out
