"""The spool: order, marks, and what a kill or a full disk leaves."""

from pathlib import Path

import pytest

from adapt.spool import Spool


def test_spool_skips_lines_that_were_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"kind": "tags", "n": 1}\n{"kind": "ta')
    spool = Spool(path)
    spool.append({"n": 2})
    assert [entry["n"] for entry, _ in spool.read()] == [1, 2]
    assert spool.waiting == 2


def test_spool_goes_on_after_its_mark(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "a.jsonl")
    for n in range(3):
        spool.append({"n": n})
    (_, offset), *_ = spool.read()
    spool.mark(offset, 1)
    spool.close(remove=False)
    again = Spool(tmp_path / "a.jsonl")
    assert [entry["n"] for entry, _ in again.read()] == [1, 2]
    assert again.waiting == 2


def test_full_disk_warns_once_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    spool = Spool(tmp_path / "a.jsonl")

    def refuse(*args: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("adapt.spool.os.write", refuse)
        for n in range(3):
            spool.append({"n": n})
    spool.append({"n": 3})
    assert [entry["n"] for entry, _ in spool.read()] == [3]
    assert caplog.text.count("figures for MLflow are lost") == 1
