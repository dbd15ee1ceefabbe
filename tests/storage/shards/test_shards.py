"""Shards: read by Python's own tar reader, the same bytes every time, and what damage is called."""

import hashlib
import os
import subprocess
import tarfile
from pathlib import Path
from typing import NoReturn

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from storage.errors import StoreError
from storage.shards.shards import ShardWriter, checksums, read_member, xxh3_of

MEMBERS = {"a.img.qoi": b"\1" * 513, "a.lbl.zst": b"", "folder/é.img.png": bytes(range(256)) * 4}


def _write(path: Path, members: dict[str, bytes]) -> dict[str, int]:
    with ShardWriter(path) as writer:
        return {name: writer.add(name, data) for name, data in members.items()}


def test_pythons_tarfile_reads_the_members_in_order(tmp_path: Path) -> None:
    offsets = _write(tmp_path / "s.tar", MEMBERS)
    with tarfile.open(tmp_path / "s.tar") as tar:
        members = tar.getmembers()
        assert [member.name for member in members] == list(MEMBERS)
        for member in members:
            file = tar.extractfile(member)
            assert file is not None
            assert file.read() == MEMBERS[member.name]
            assert offsets[member.name] == member.offset_data


def test_gnu_tar_reads_it(tmp_path: Path) -> None:
    _write(tmp_path / "s.tar", MEMBERS)
    listed = subprocess.run(["tar", "tf", tmp_path / "s.tar"], capture_output=True, check=True)
    assert len(listed.stdout.splitlines()) == len(MEMBERS)


@given(st.lists(st.binary(max_size=2000), max_size=8))
def test_members_are_read_back_by_offset(
    tmp_path_factory: pytest.TempPathFactory, datas: list[bytes]
) -> None:
    path = tmp_path_factory.mktemp("shards") / "s.tar"
    members = {f"{number}.bin": data for number, data in enumerate(datas)}
    offsets = _write(path, members)
    assert all(offset_bytes % 512 == 0 for offset_bytes in offsets.values())
    with path.open("rb") as file:
        for name, data in members.items():
            assert read_member(file, offsets[name], len(data)) == data
            assert read_member(file.fileno(), offsets[name], len(data)) == data


def test_the_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one.tar", "two.tar"):
        _write(tmp_path / name, MEMBERS)
        os.utime(tmp_path / name, (0, 0))
    assert checksums(tmp_path / "one.tar") == checksums(tmp_path / "two.tar")


def test_nothing_of_this_machine_stands_in_a_shard(tmp_path: Path) -> None:
    _write(tmp_path / "s.tar", MEMBERS)
    with tarfile.open(tmp_path / "s.tar") as tar:
        for member in tar:
            assert (member.mtime, member.uid, member.gid, member.mode) == (0, 0, 0, 0o644)
            assert (member.uname, member.gname) == ("", "")


def test_short_reads_are_joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offset_bytes = _write(tmp_path / "s.tar", MEMBERS)["a.img.qoi"]
    pread = os.pread
    monkeypatch.setattr(
        os, "pread", lambda file, length, offset: pread(file, min(length, 100), offset)
    )
    with (tmp_path / "s.tar").open("rb") as file:
        assert read_member(file, offset_bytes, 513) == MEMBERS["a.img.qoi"]


def test_a_truncated_shard_is_named(tmp_path: Path) -> None:
    path = tmp_path / "s.tar"
    offset_bytes = _write(path, MEMBERS)["a.img.qoi"]
    os.truncate(path, offset_bytes + 10)
    with (
        path.open("rb") as file,
        pytest.raises(StoreError, match=rf"{path}: truncated shard: expected 513 bytes at 512"),
    ):
        read_member(file, offset_bytes, 513)


def test_a_descriptor_without_a_path_is_still_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_proc(_: Path) -> NoReturn:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "readlink", no_proc)
    (tmp_path / "s.tar").touch()
    with (
        (tmp_path / "s.tar").open("rb") as file,
        pytest.raises(StoreError, match=rf"file descriptor {file.fileno()}: truncated shard"),
    ):
        read_member(file, 0, 1)


def test_an_error_leaves_no_shard(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), ShardWriter(tmp_path / "s.tar") as writer:
        writer.add("a", b"1")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.img.qoi", "two members are named 'a.img.qoi'"),
        ("../a", "expected a key of names .*, got '../a'"),
        ("x" * 101, "is no name for a tar member: name is too long"),
    ],
)
def test_wrong_names_are_refused(tmp_path: Path, name: str, message: str) -> None:
    writer = ShardWriter(tmp_path / "s.tar")
    writer.add("a.img.qoi", b"")
    with pytest.raises(StoreError, match=message):
        writer.add(name, b"")
    writer.close()
    with tarfile.open(tmp_path / "s.tar") as tar:
        assert tar.getnames() == ["a.img.qoi"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=rf"{tmp_path}/file"):
        ShardWriter(tmp_path / "file" / "s.tar")


def test_checksums(tmp_path: Path) -> None:
    data = os.urandom((2 << 20) + 17)
    (tmp_path / "s.tar").write_bytes(data)
    expected = (hashlib.sha256(data).hexdigest(), xxhash.xxh3_64(data).hexdigest())
    assert checksums(tmp_path / "s.tar") == expected
    assert xxh3_of(tmp_path / "s.tar") == expected[1]
