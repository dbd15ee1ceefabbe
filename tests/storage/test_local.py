"""Local files: what the disk may do to them, and what a reader may see meanwhile."""

import errno
import os
from pathlib import Path
from typing import NoReturn

import pytest

from storage.errors import StoreError
from storage.local import LocalStore
from storage.stores import open_store


def _raises(number: int) -> object:
    def fail(*_: object) -> NoReturn:
        raise OSError(number, os.strerror(number))

    return fail


def test_a_plain_path_and_its_uri_are_one_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for uri in ("data", f"{tmp_path}/data", f"file://{tmp_path}/data"):
        assert open_store(uri).uri == f"file://{tmp_path}/data"


def test_a_relative_file_uri_is_refused() -> None:
    with pytest.raises(StoreError, match=r"file://data/x: expected file:///FOLDER, got"):
        open_store("file://data/x")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_named_and_leaves_the_old_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    store = LocalStore(str(tmp_path))
    store.put("k", b"old")
    monkeypatch.setattr(os, "fsync", _raises(number))
    with pytest.raises(
        StoreError, match=rf"{store.uri}/k: the disk is full while writing .*{tmp_path}"
    ):
        store.put("k", b"new")
    assert store.get("k") == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["k"]


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EROFS])
def test_missing_permission_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(os, "fsync", _raises(number))
    with pytest.raises(
        StoreError, match=r"/k: no permission for .*uid \d+\). Fix: check its owner and mode"
    ):
        LocalStore(str(tmp_path)).put("k", b"")


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_folder_of_somebody_else_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StoreError, match=r"no permission"):
        LocalStore(str(tmp_path)).put("k", b"")


def test_other_failures_of_the_disk_name_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", _raises(errno.EIO))
    with pytest.raises(StoreError, match=rf"/k: {os.strerror(errno.EIO)} "):
        LocalStore(str(tmp_path)).put("k", b"")


def test_files_and_folders_in_the_way_are_named(tmp_path: Path) -> None:
    store = LocalStore(str(tmp_path))
    store.put("file", b"")
    store.put("folder/k", b"")
    with pytest.raises(StoreError, match=r"expected folders as parts of the path, got a file"):
        store.put("file/k", b"")
    with pytest.raises(StoreError, match=r"expected a file, got a folder of this name"):
        store.put("folder", b"")
    assert sorted(info.key for info in store.list()) == ["file", "folder/k"]


def test_unfinished_writes_are_neither_listed_nor_left_behind(tmp_path: Path) -> None:
    store = LocalStore(str(tmp_path))
    (tmp_path / ".tmp-0123-k").write_bytes(b"of a process that was killed")
    store.put("k", b"")
    assert [info.key for info in store.list()] == ["k"]
    with pytest.raises(TypeError):
        store.put("k", "no bytes")  # type: ignore[arg-type]  # the write fails half-way
    assert sorted(path.name for path in tmp_path.iterdir()) == [".tmp-0123-k", "k"]


def test_a_folder_that_is_not_there_is_an_empty_store(tmp_path: Path) -> None:
    store = LocalStore(str(tmp_path / "nothing"))
    assert list(store.list()) == []
    assert not store.exists("k")


def test_a_full_disk_is_that_of_the_copy_and_not_of_the_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LocalStore(str(tmp_path / "source"))
    store.put("a", b"1")

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("storage.files.os.fsync", full)
    with pytest.raises(StoreError, match=rf"^{tmp_path}/copy: the disk is full") as ended:
        store.get_file("a", tmp_path / "copy")
    assert "source" not in str(ended.value)
