"""The supervisor of a node over real torchruns: exit codes, signals, stalls, nodes, failures."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import yaml
from mlflow import MlflowClient

from adapt.errors import JobError
from adapt.launch import supervisor as launching
from adapt.launch.status import Verdict, is_alive
from adapt.launch.supervisor import end_run, supervise, torchrun_command
from adapt.places import Place
from adapt.spec.job_spec import parse_spec
from tests.chaos import descendants
from tests.commands import ROOT, finish, start, start_python
from tests.conftest import tiny_values

RANK = """
import ctypes, os, pathlib, signal, sys, time
from adapt.places import find_place
from adapt.launch.status import WorkerStatus
place = find_place(os.environ)
rank, status = place.rank, WorkerStatus(place.status_dir, place.rank)
pathlib.Path(f"pid-{place.node}-{rank}").write_text(str(os.getpid()))
def end(code, kind="Kind", message="what went wrong"):
    status.ended(code, kind, message, "Traceback: " + "long " * 1000 + "end")
    sys.exit(code)
def on_stop(handler):
    signal.signal(signal.SIGTERM, handler)
    os.write(1, b"ready\\n")  # at once, for ranks share the pipe
"""
LAUNCH = """
import json, os, pathlib, sys
from adapt.launch.supervisor import keep_stacks, supervise
from adapt.places import Place
from adapt.spec.job_spec import load_spec
more, processes, stall_s = json.loads(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
place = Place("local", os.environ, pathlib.Path("scratch"), grace_s=15,
    failure_file=pathlib.Path("failure"), **more)
def keep(text):
    keep_stacks(load_spec(pathlib.Path("tiny.yaml"), ()), place, text)
sys.exit(supervise(["rank.py"], place, processes, stall_s, keep).exit_code)
"""


def run_ranks(
    body: str, folder: Path, more: str = "{}", processes: int = 2, stall_s: float = 60
) -> "subprocess.Popen[str]":
    (folder / "rank.py").write_text(RANK + body)
    return start_python(
        *("-c", LAUNCH, more, processes, stall_s),
        folder=folder,
        environment={"PYTHONPATH": str(ROOT)},
    )


def wait_until(holds: Callable[[], bool], patience_s: float) -> None:
    deadline_s = time.monotonic() + patience_s
    while not holds():
        assert time.monotonic() < deadline_s, "waited in vain"
        time.sleep(0.1)


def await_ready(process: "subprocess.Popen[str]", count: int = 1) -> None:
    assert process.stdout is not None
    assert [process.stdout.readline().strip() for _ in range(count)] == ["ready"] * count


@pytest.mark.parametrize("code", [0, 1, 2, 3, 4, 75])
def test_the_exit_code_of_ranks_gets_through_torchrun(code: int, tmp_path: Path) -> None:
    ended = finish(run_ranks(f"end({code})", tmp_path))
    assert ended.code == code, ended.err
    failure = tmp_path / "failure"
    assert failure.exists() == (code not in (0, 75))
    if failure.exists():
        assert failure.read_text().startswith(("Kind: rank 0: what", "Kind: rank 1: what"))
        assert failure.read_text().endswith("long end") and failure.stat().st_size == 4000


def test_the_first_failure_counts_not_who_was_lost_by_it(tmp_path: Path) -> None:
    body = "time.sleep(0 if rank else 1)\nend(3 if rank else 75)"
    assert finish(run_ranks(body, tmp_path)).code == 3


@pytest.mark.parametrize(
    ("number", "said"), [(signal.SIGKILL, "no memory left"), (signal.SIGSEGV, "SIGSEGV")]
)
def test_a_rank_that_dies_of_a_signal(number: signal.Signals, said: str, tmp_path: Path) -> None:
    body = (
        f"os.kill(os.getpid(), {int(number)}) if rank else on_stop(lambda *_: end(75))\n"
        "time.sleep(60)"
    )
    ended = finish(run_ranks(body, tmp_path))
    assert ended.code == 128 + number
    assert "rank 1 died of" in ended.err and said in ended.err
    assert said in (tmp_path / "failure").read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_reaches_the_ranks_and_a_second_one_does_no_harm(
    number: signal.Signals, tmp_path: Path
) -> None:
    body = "on_stop(lambda *_: (time.sleep(2), end(75)))\ntime.sleep(60)"
    process = run_ranks(body, tmp_path)
    await_ready(process, 2)
    process.send_signal(number)
    time.sleep(0.5)
    process.send_signal(number)
    ended = finish(process)
    assert ended.code == 75, ended.err
    assert f"{number.name}: already stopping" in ended.err and "Traceback" not in ended.err
    assert not (tmp_path / "failure").exists()


def test_a_rank_that_does_not_stop_is_killed_and_the_job_goes_on_later(tmp_path: Path) -> None:
    process = run_ranks("on_stop(signal.SIG_IGN)\ntime.sleep(60)", tmp_path, processes=1)
    await_ready(process)
    process.send_signal(signal.SIGTERM)
    ended = finish(process, timeout_s=30)
    assert ended.code == 75 and "goes on from the last durable checkpoint" in ended.err


STUCK = {
    "asleep": "def stuck_here(): time.sleep(600)",
    "holding Python's lock": "def stuck_here(): ctypes.PyDLL(None).sleep(600)",
}


@pytest.mark.parametrize("how", STUCK)
def test_a_stalled_rank_leaves_its_stacks_and_ends_the_job(how: str, tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(tiny_values("nowhere", "runs")))
    beating = "while not rank:\n    status.beat()\n    time.sleep(0.5)\n"
    process = run_ranks(f"{STUCK[how]}\n{beating}stuck_here()", tmp_path, stall_s=4)
    ended = finish(process, timeout_s=60)
    assert ended.code == 75, ended.err
    assert "stuck_here" in ended.err and "rank-0:" in ended.err
    (stored,) = (tmp_path / "runs" / "tiny" / "stalls").glob("node-0-*.txt")
    assert "stuck_here" in stored.read_text()
    pids = [int((tmp_path / f"pid-0-{rank}").read_text()) for rank in (0, 1)]
    wait_until(lambda: not any(map(is_alive, pids)), patience_s=5)


def test_ranks_that_beat_are_not_stalled(tmp_path: Path) -> None:
    body = "for _ in range(16):\n    status.beat()\n    time.sleep(0.5)\nend(0)"
    assert finish(run_ranks(body, tmp_path, processes=1, stall_s=4)).code == 0


def test_a_killed_supervisor_takes_its_ranks_along(tmp_path: Path) -> None:
    process = run_ranks("on_stop(signal.SIG_DFL)\ntime.sleep(600)", tmp_path, processes=1)
    await_ready(process)
    process.kill()
    pid = int((tmp_path / "pid-0-0").read_text())
    wait_until(lambda: not is_alive(pid), patience_s=15)
    finish(process)


def test_two_nodes_find_one_another(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    body = "assert place.num_ranks == 2 and rank == place.node\nend(0)"
    nodes = '{{"num_nodes": 2, "node": {}, "master_addr": "127.0.0.1", "master_port": {}}}'
    processes = [
        run_ranks(body, tmp_path, more=nodes.format(node, port), processes=1) for node in (1, 0)
    ]
    for process in processes:
        ended = finish(process)
        assert ended.code == 0, ended.err
    assert {path.name for path in tmp_path.glob("pid-*")} == {"pid-0-0", "pid-1-1"}


def test_a_failure_is_known_although_the_disk_is_full(tmp_path: Path) -> None:
    body = """
def full(*_): raise OSError(28, "No space left on device")
pathlib.Path.write_text = full
end(3)
"""
    ended = finish(run_ranks(body, tmp_path, processes=1))
    assert ended.code == 3 and "Traceback" not in ended.err.partition("rank 0 ended")[2], ended.err


def test_a_failure_file_that_a_full_disk_left_empty_is_none(tmp_path: Path) -> None:
    assert launching._failure(tmp_path) is None
    (tmp_path / "failure.json").touch()
    assert launching._failure(tmp_path) is None
    (tmp_path / "failure.json").write_text("[1, -9]")
    assert launching._failure(tmp_path) == (1, -9)


def test_telling_mlflow_of_a_stop_ends_within_the_grace(
    tiny_job: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    signals_kept: None,
) -> None:
    told = Event()

    def supervised(*given: Any) -> Verdict:
        os.kill(os.getpid(), signal.SIGTERM)
        return Verdict(75, "Interrupted", "not every rank ended in time")

    def slow(*_given: object) -> None:
        told.wait(30)

    monkeypatch.setattr(launching, "supervise", supervised)
    monkeypatch.setattr(launching, "end_run", slow)
    place = Place("local", {}, tmp_path, grace_s=2)
    started_s = time.monotonic()
    assert launching.launch(parse_spec(tiny_job, "tiny"), place, 1, []) == 75
    assert time.monotonic() - started_s < 10
    told.set()


APART = ["unshare", "--pid", "--fork", "--kill-child"]
"""A container's first process is one whose signals the system drops where it handles none."""


@pytest.mark.parametrize("apart", [APART, []], ids=["first process", "any process"])
def test_a_stop_before_anything_began_is_an_interruption(
    apart: list[str], tiny_uri: str, tmp_path: Path
) -> None:
    if apart and subprocess.call([*apart, "true"], stderr=subprocess.DEVNULL):
        pytest.skip("this user may make no process namespace")
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(tiny_values(tiny_uri, "runs")))
    command = [*apart, sys.executable, ROOT / "entrypoint.py", "run", "tiny.yaml"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: any(map(handles_sigterm, ours(process, apart))), patience_s=30)
    for pid in ours(process, apart):
        os.kill(pid, signal.SIGTERM)
    assert process.wait(30) == 75


def ours(process: "subprocess.Popen[str]", apart: list[str]) -> list[int]:
    return descendants(process.pid) if apart else [process.pid]


def handles_sigterm(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    caught = int(status.partition("SigCgt:")[2].split()[0], 16)
    return bool(caught >> (signal.SIGTERM - 1) & 1)


def of_two_nodes(tmp_path: Path, master_addr: str | None = "leader") -> Place:
    return Place("local", os.environ, tmp_path, num_nodes=2, master_addr=master_addr)


@pytest.fixture
def signals_kept() -> Iterator[None]:
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


def test_the_first_nodes_name_may_come_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, signals_kept: None
) -> None:
    asked: list[object] = []

    def getaddrinfo(*address: object) -> None:
        asked.append(address)
        if len(asked) < 3:
            raise socket.gaierror("not known yet")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(launching, "torchrun_command", lambda *_: [sys.executable, "-c", ""])
    code = supervise([], of_two_nodes(tmp_path), 1, 60, print).exit_code
    assert code == 0 and asked == [("leader", 29500)] * 3


def test_a_name_that_stays_unknown_or_is_not_given_is_a_mistake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, signals_kept: None
) -> None:
    monkeypatch.setattr(launching, "NAME_PATIENCE_S", 0.1)
    unknown = of_two_nodes(tmp_path, "nobody.invalid")
    with pytest.raises(JobError, match=r"PET_MASTER_ADDR: .*'nobody.invalid', unknown"):
        supervise([], unknown, 1, 60, print)
    with pytest.raises(JobError, match=r"PET_MASTER_ADDR: .*got nothing"):
        supervise([], of_two_nodes(tmp_path, None), 1, 60, print)


def test_a_stop_while_waiting_for_the_name_ends_the_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, signals_kept: None
) -> None:
    def getaddrinfo(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        raise socket.gaierror("not known yet")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    assert supervise([], of_two_nodes(tmp_path), 1, 60, print).exit_code == 75


@pytest.mark.parametrize(("grace_s", "shutdown_s"), [(120, "116"), (6, "5")])
def test_ranks_get_nearly_all_of_the_platforms_grace(
    grace_s: float, shutdown_s: str, tmp_path: Path
) -> None:
    command = torchrun_command(Place("local", {}, tmp_path, grace_s=grace_s), 4, ["script"])
    assert command[command.index("--shutdown-timeout") + 1] == shutdown_s
    assert command[command.index("--nproc-per-node") + 1] == "4" and "--standalone" in command


def test_a_job_is_supervised_stopped_and_goes_on(tiny_uri: str, tmp_path: Path) -> None:
    values = tiny_values(tiny_uri, "runs")
    values["train"]["steps"] = 12
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(values))

    def run() -> "subprocess.Popen[str]":
        return start("run", "tiny.yaml", "--json", folder=tmp_path)

    process = run()
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("step 2/"):
            process.send_signal(signal.SIGTERM)
            break
    stopped = finish(process)
    assert stopped.code == 75 and "everything is saved" in stopped.err, stopped.err
    again = finish(run())
    assert again.code == 0 and '"step": 12' in again.out, again.err
    assert "resumed at step" in again.err and "Traceback" not in stopped.err + again.err


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_rank_is_a_failed_run_in_mlflow(
    victim: int, tiny_uri: str, tmp_path: Path
) -> None:
    values = tiny_values(tiny_uri, "runs")
    values["train"]["steps"] = 200
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(values))
    process = start("run", "tiny.yaml", "--processes", 2, folder=tmp_path)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("step 2/"):
            os.kill(rank_pid(process.pid, victim), signal.SIGKILL)
            break
    ended = finish(process)
    assert ended.code == 137 and "died of SIGKILL" in ended.err, ended.err
    client = MlflowClient(f"sqlite:///{tmp_path}/runs/mlflow.db")
    (experiment,) = client.search_experiments(filter_string="name = 'tests'")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FAILED"
    assert f"Killed: rank {victim} died of SIGKILL" in run.data.tags["segadapt.error"]


def test_only_nodes_that_see_the_run_tell_mlflow_how_it_ended(
    tiny_job: dict[str, Any], tmp_path: Path
) -> None:
    job, runs = parse_spec(tiny_job, "tiny"), tmp_path / "runs"
    place = Place("local", {}, tmp_path / "scratch", node=1, num_nodes=2)
    end_run(job, place, Verdict(1, "Bug", "of a node whose folder is its own"))
    assert not (runs / "mlflow.db").exists() and not (runs / "tiny/JOB").exists()
    for node in (0, 1):
        end_run(job, replace(place, node=node), Verdict(3, "StoreError", f"of node {node}"))
    client = MlflowClient(f"sqlite:///{runs}/mlflow.db")
    (experiment,) = client.search_experiments(filter_string="name = 'tests'")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FAILED"
    assert run.data.tags["segadapt.error"] == "StoreError: of node 1"


def rank_pid(supervisor: int, rank: int) -> int:
    """The process of a rank, from its environment."""
    for pid in descendants(supervisor):
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        if f"RANK={rank}".encode() in variables:
            return pid
    raise AssertionError(f"no rank {rank} below {supervisor}")


def test_a_mistake_is_told_before_any_rank_starts(tiny_uri: str, tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(tiny_values(tiny_uri, "runs")))
    ended = finish(start("run", "tiny.yaml", "--set", "train.steps=0", folder=tmp_path))
    assert ended.code == 2 and ended.err.count("train.steps") == 1
