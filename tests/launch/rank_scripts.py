"""Jobs of a few lines, which the supervisor's tests run in place of `run`."""

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from tests.commands import ROOT, start_python

RANK = """
import ctypes, os, pathlib, signal, sys, time
from adapt.places import find_place
from adapt.launch.rank_status import WorkerStatus
place = find_place(os.environ)
rank, status = place.rank, WorkerStatus(place.status_dir, place.rank, place.local_ranks)
status.expect_beats(float(os.environ["STALL_S"]))
pathlib.Path(f"pid-{place.node}-{rank}").write_text(str(os.getpid()))
def end(code, kind="Kind", message="a problem"):
    status.ended(code, kind, message, "Traceback: " + "long " * 1000 + "end")
    sys.exit(code)
def on_stop(handler):
    signal.signal(signal.SIGTERM, handler)
    os.write(1, b"ready\\n")  # in one piece, for ranks share the pipe
"""
CHILD = """
import os, pathlib, runpy, sys
from adapt.places import find_place
place, processes = find_place(os.environ), int(sys.argv[1])
if processes * place.num_nodes == 1:
    runpy.run_path("rank.py", run_name="__main__")
else:
    from adapt.launch.elastic import run_elastic
    sys.exit(run_elastic(place, processes, ["rank.py"], place.status_dir))
"""
LAUNCH = """
import dataclasses, os, pathlib, sys
os.environ.pop("OMP_NUM_THREADS")  # which tests set for all processes
if "THREADS" in os.environ:
    os.environ["OMP_NUM_THREADS"] = os.environ["THREADS"]
from adapt.launch.job_copy import write_job
from adapt.launch.rank_status import status_folder
from adapt.launch.supervisor import keep_stacks, supervise
from adapt.places import find_place
place = dataclasses.replace(find_place(os.environ), failure_file=pathlib.Path("failure"))
with status_folder() as folder:
    if pathlib.Path("tiny.yaml").exists():
        from adapt.spec.loading import load_spec
        write_job(folder, load_spec(pathlib.Path("tiny.yaml"), ()))
    def keep(text):
        keep_stacks(folder, place, text)
    sys.exit(supervise(["child.py", sys.argv[1]], place, folder, keep).exit_code)
"""


def run_ranks(
    body: str,
    folder: Path,
    processes: int = 2,
    stall_s: float = 60,
    environment: dict[str, str] | None = None,
) -> "subprocess.Popen[str]":
    """Supervise ranks that run `body`, in `folder`, within a grace of 15 s."""
    (folder / "rank.py").write_text(RANK + body)
    (folder / "child.py").write_text(CHILD)
    needed = {"PYTHONPATH": str(ROOT), "SEGADAPT_GRACE_S": "15", "STALL_S": str(stall_s)}
    return start_python(
        "-c", LAUNCH, processes, folder=folder, environment=needed | (environment or {})
    )


def wait_until(holds: Callable[[], bool], timeout_s: float) -> None:
    """Return once something holds. Fails where it does not within `timeout_s`."""
    deadline_s = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline_s, "waited in vain"
        time.sleep(0.1)


def await_ready(process: "subprocess.Popen[str]", count: int = 1) -> None:
    """Return once `count` ranks have called `on_stop`."""
    assert process.stdout is not None
    assert [process.stdout.readline().strip() for _ in range(count)] == ["ready"] * count
