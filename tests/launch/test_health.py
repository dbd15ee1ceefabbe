"""The image's health check: who it believes, and that it costs little."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import adapt.launch.health
from adapt.launch.health import health
from adapt.launch.rank_status import (
    RankStatus,
    last_sign_s,
    read_supervisor,
    status_folder,
    write_supervisor,
)
from adapt.launch.supervisor import supervise
from adapt.places import Place
from tests.commands import ROOT

NOW_S = 1_000_000.0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The status folder of a job of this process."""
    folder = tmp_path / "segadapt-status-x"
    folder.mkdir()
    write_supervisor(folder)
    return folder


def rank_says(folder: Path, *facts: object) -> None:
    (folder / f"rank-{facts[0]}.json").write_text(json.dumps(facts))


def test_ranks_at_work_are_well(folder: Path) -> None:
    rank_says(folder, 0, os.getpid(), NOW_S - 5)
    rank_says(folder, 1, os.getpid(), NOW_S - 5)
    assert health(folder.parent, NOW_S) == (True, "2 ranks make progress")


def test_a_silent_rank_is_told_before_the_job_is_ended_for_it(folder: Path) -> None:
    rank_says(folder, 0, os.getpid(), NOW_S - 5)
    rank_says(folder, 3, os.getpid(), NOW_S - 660)
    assert health(folder.parent, NOW_S) == (
        False,
        "rank 3: no progress for 11.0 min; the job ends after 20 min (train.stall_minutes)",
    )


def test_a_rank_is_measured_by_its_own_job(folder: Path) -> None:
    said = (os.getpid(), NOW_S - 50, None, "", "", "")
    rank_says(folder, 0, *said, 101.0)
    rank_says(folder, 1, *said, 1200.0)
    assert health(folder.parent, NOW_S) == (True, "2 ranks make progress")
    rank_says(folder, 0, *said, 99.0)
    assert health(folder.parent, NOW_S)[1].startswith("rank 0: no progress for 0.8 min")


def test_a_beat_is_a_sign_of_life(folder: Path) -> None:
    rank_says(folder, 0, os.getpid(), NOW_S - 3600)
    (folder / "rank-0.beat").touch()
    os.utime(folder / "rank-0.beat", (NOW_S - 60, NOW_S - 60))
    assert last_sign_s(folder, RankStatus(0, 1, NOW_S - 3600)) == NOW_S - 60
    assert health(folder.parent, NOW_S)[0]


def test_ranks_that_ended_need_not_speak(folder: Path) -> None:
    rank_says(folder, 0, os.getpid(), NOW_S - 3600, 0, "", "", "")
    assert health(folder.parent, NOW_S) == (True, "no rank runs at the moment")


def test_a_job_without_its_supervisor_is_not_well(folder: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    (folder / "supervisor.json").write_text(json.dumps([gone.pid, 1200]))
    assert health(folder.parent, NOW_S) == (
        False,
        f"the supervisor of a job is gone (pid {gone.pid})",
    )


def test_what_is_no_job_is_well(tmp_path: Path) -> None:
    assert health(tmp_path, NOW_S) == (True, "no job runs here")
    (tmp_path / "segadapt-status-new").mkdir()
    assert health(tmp_path, NOW_S) == (True, "a job begins")


def test_the_job_that_launch_supervises_is_seen(tmp_path: Path) -> None:
    seen = tmp_path / "seen.json"
    script = tmp_path / "rank.py"
    script.write_text(
        "import json, os, pathlib\n"
        "from adapt.places import find_place\n"
        "from adapt.launch.rank_status import read_supervisor\n"
        "folder = find_place(os.environ).status_dir\n"
        "seen = json.dumps([folder.name, read_supervisor(folder)])\n"
        f"pathlib.Path({str(seen)!r}).write_text(seen)\n"
    )
    place = Place("local", dict(os.environ), tmp_path)
    with status_folder() as folder:
        assert supervise([str(script)], place, folder, print).exit_code == 0
    name, supervisor = json.loads(seen.read_text())
    assert name.startswith("segadapt-status-") and supervisor == os.getpid()


def test_a_job_that_ends_meanwhile_is_no_trouble(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(_folder: Path) -> list[RankStatus]:
        raise FileNotFoundError

    monkeypatch.setattr(adapt.launch.health, "read_statuses", gone)
    assert health(folder.parent, NOW_S)[0]


def test_half_a_line_is_no_supervisor_yet(folder: Path) -> None:
    (folder / "supervisor.json").write_text("[12")
    assert read_supervisor(folder) is None


def test_the_command_imports_nothing_heavy_and_answers_with_its_exit_code(folder: Path) -> None:
    rank_says(folder, 0, os.getpid(), time.time() - 3600)
    code = (
        "import sys, adapt.launch.health as h; code = h.main(); print('torch' in sys.modules, code)"
    )
    said = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(folder.parent)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout.splitlines()[0].startswith("rank 0: no progress for 60.0 min")
    assert said.stdout.splitlines()[1] == "False 1"
