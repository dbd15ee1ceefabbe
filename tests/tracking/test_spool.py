"""The spool: order, marks, and what a kill or a full disk leaves."""

import json
import os
import signal
from pathlib import Path

import pytest

from adapt.errors import JobError
from adapt.tracking.spool import Spool
from tests.commands import ROOT, start_python


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


class Disk:
    """Takes whole lines while `free_bytes` lasts; what does not fit is written in part, as a disk
    does that becomes full, and after that refused."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.free_bytes = 0
        self._write = os.write
        monkeypatch.setattr("adapt.tracking.spool.os.write", self.write)

    def write(self, file: int, line: bytes) -> int:
        if self.free_bytes <= 0:
            raise OSError(28, "No space left on device")
        written = self._write(file, line[: self.free_bytes])
        self.free_bytes -= written
        return written


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


def numbers(spool: Spool) -> list[int]:
    return [entry["n"] for entry, _ in spool.read()]


def in_file(spool: Spool) -> list[int]:
    return [json.loads(line)["n"] for line in spool.path.read_text().splitlines()]


def test_full_disk_loses_nothing_and_warns_once(
    tmp_path: Path, disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    spool = Spool(tmp_path / "a.jsonl")
    for n in range(3):
        spool.append({"n": n})
    assert (spool.waiting, in_file(spool)) == (3, [])
    disk.free_bytes = 1000
    spool.append({"n": 3})
    assert in_file(spool) == numbers(spool) == [0, 1, 2, 3]
    assert spool.waiting == 4
    assert caplog.text.count("lines are buffered in memory") == 1
    assert "lost" not in caplog.text


@pytest.mark.parametrize("free_bytes", range(1, 20))
def test_a_line_cut_short_is_written_whole_once(
    tmp_path: Path, disk: Disk, free_bytes: int
) -> None:
    spool = Spool(tmp_path / "a.jsonl")
    disk.free_bytes = free_bytes
    for n in range(2):
        spool.append({"n": n})
    assert numbers(spool) == [0, 1]
    disk.free_bytes = 1000
    spool.append({"n": 2})
    assert numbers(spool) == in_file(spool) == [0, 1, 2]
    assert spool.waiting == 3


def test_the_delivering_thread_writes_what_waits(tmp_path: Path, disk: Disk) -> None:
    spool = Spool(tmp_path / "a.jsonl")
    spool.append({"n": 0})
    disk.free_bytes = 1000
    assert numbers(spool) == [0]
    assert in_file(spool) == [0]


def test_buffered_lines_are_delivered_while_the_disk_is_full(tmp_path: Path, disk: Disk) -> None:
    spool = Spool(tmp_path / "a.jsonl")
    disk.free_bytes = len(b'{"n": 0}\n')
    for n in range(4):
        spool.append({"n": n})
    chunk = list(spool.read())
    assert [entry["n"] for entry, _ in chunk] == [0, 1, 2, 3]
    spool.append({"n": 4})
    spool.mark(chunk[1][1], 2)
    assert (numbers(spool), spool.waiting) == ([2, 3, 4], 3)
    disk.free_bytes = 1000
    spool.append({"n": 5})
    assert (numbers(spool), in_file(spool)) == ([2, 3, 4, 5], [0, 2, 3, 4, 5])
    spool.close(remove=False)
    again = Spool(spool.path)
    assert (numbers(again), again.waiting) == ([2, 3, 4, 5], 4)


def test_a_disk_that_recovers_during_a_delivery_sends_nothing_twice(
    tmp_path: Path, disk: Disk
) -> None:
    spool = Spool(tmp_path / "a.jsonl")
    for n in range(3):
        spool.append({"n": n})
    chunk = list(spool.read())
    disk.free_bytes = 1000
    spool.append({"n": 3})
    spool.mark(chunk[0][1], 1)
    spool.mark(chunk[2][1], 2)
    assert (numbers(spool), spool.waiting, in_file(spool)) == ([3], 1, [3])


def test_more_than_memory_takes_costs_the_oldest_with_one_warning(
    tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("adapt.tracking.spool._BUFFER_BYTES", 5 * len(b'{"n": 10}\n'))
    spool = Spool(tmp_path / "a.jsonl")
    for n in range(10, 22):
        spool.append({"n": n})
    assert (numbers(spool), spool.waiting) == (list(range(17, 22)), 5)
    disk.free_bytes = 1000
    spool.append({"n": 22})
    assert numbers(spool) == in_file(spool) == list(range(17, 23))
    spool.close(remove=False)
    assert caplog.text.count("7 entries for MLflow are lost") == caplog.text.count("lost") == 1


def test_what_the_disk_refuses_to_the_end_is_counted(
    tmp_path: Path, disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    spool = Spool(tmp_path / "a.jsonl")
    for n in range(3):
        spool.append({"n": n})
    spool.close(remove=False)
    assert "was not writable: 3 entries for MLflow are lost" in caplog.text


def test_tail_is_the_newest_of_what_waits(
    tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(tmp_path / "a.jsonl")
    line_bytes = len(b'{"n": 0}\n')
    disk.free_bytes = 5 * line_bytes
    for n in range(7):
        spool.append({"n": n})
    (_, offset), *_ = spool.read()
    spool.mark(offset, 1)
    for limit_bytes, first in ((1000, 1), (4 * line_bytes, 3), (4 * line_bytes - 1, 4), (9, 6)):
        tail = [json.loads(line)["n"] for line in spool.tail(limit_bytes)]
        assert tail == list(range(first, 7)), limit_bytes
    assert spool.tail(8) == []


def test_a_spool_in_use_is_refused_until_it_is_closed(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "a.jsonl")
    with pytest.raises(
        JobError, match=rf"this run is being trained .* by process {os.getpid()} on .*a.jsonl"
    ):
        Spool(tmp_path / "a.jsonl")
    spool.close(remove=False)
    Spool(tmp_path / "a.jsonl").close(remove=True)
    assert list(tmp_path.iterdir()) == []


HOLDS = """
import pathlib, sys, time
from adapt.tracking.spool import Spool
spool = Spool(pathlib.Path(sys.argv[1]))
spool.append({"n": 0})
print("open", flush=True)
time.sleep(600)
"""


def test_a_killed_process_leaves_the_spool_open_to_the_next(tmp_path: Path) -> None:
    path = {"PYTHONPATH": str(ROOT)}
    process = start_python("-c", HOLDS, tmp_path / "a.jsonl", folder=tmp_path, environment=path)
    try:
        assert process.stdout is not None and process.stdout.readline() == "open\n"
        with pytest.raises(JobError, match=f"process {process.pid} on "):
            Spool(tmp_path / "a.jsonl")
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert numbers(Spool(tmp_path / "a.jsonl")) == [0]
