"""Forked Python processes are like those that the system starts: each test runs both."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import processes
from tests.chaos import descendants
from tests.processes import NO_THREADS, Process, is_server

PLAIN = os.environ | NO_THREADS
SELF = """
import json, logging, os, resource, signal, sys, threading
import __main__
numbers = [n for n in os.listdir("/proc/self/fd") if int(n) > 2]
numbers = [n for n in numbers if os.path.lexists(f"/proc/self/fd/{n}")]  # not of the listing
print(json.dumps({
    "arguments": [sys.argv, sys.orig_argv[1:]],
    "main": [__name__, sorted(vars(__main__)), __main__ is sys.modules["__main__"]],
    "places": [os.getcwd(), sys.path],
    "environment": dict(os.environ),
    "umask": os.umask(0),
    "family": [os.getppid(), os.getpgid(0), os.getsid(0)],
    "threads": threading.active_count(),
    "input": sys.stdin.read(),
    "descriptors": numbers,
    "handlers": [str(signal.getsignal(n)).split(" at ")[0] for n in range(1, 32)],
    "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
    "output": [sys.stdout.encoding, sys.stdout.errors, sys.stdout.line_buffering,
        sys.stdout.write_through, type(sys.stdout.buffer).__name__, sys.stderr.write_through],
    "files": resource.getrlimit(resource.RLIMIT_NOFILE),
    "log": [str(h) for h in logging.root.handlers] + [logging.root.level],
}))
print("to stderr", file=sys.stderr)
"""


@pytest.fixture(params=["forked", "cold"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    if request.param == "forked" and processes.cold:
        pytest.skip("nothing is forked here")
    monkeypatch.setattr(processes, "cold", request.param == "cold")
    yield request.param


def python(*words: object, **options: Any) -> Process:
    streams: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    return Process(
        [sys.executable, *map(str, words)], **{"env": PLAIN, "text": True, **streams, **options}
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind_of_words", "options"),
    [
        ("-c", {}),
        ("-c", {"start_new_session": True}),
        ("-c", {"umask": 0o27, "process_group": 0}),
        ("script.py", {}),
        ("script", {"stdin": subprocess.DEVNULL}),
        ("-m", {}),
        ("-u", {}),
        ("script", {"env": PLAIN | {"PYTHONUNBUFFERED": "1"}}),
    ],
)
def test_a_fork_sees_what_a_cold_start_sees(
    kind_of_words: str, options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("script", "module"):
        (tmp_path / f"{name}.py").write_text(SELF)
    words = {
        "-c": ["-c", SELF],
        "-m": ["-m", "module"],
        "-u": ["-u", "script.py"],
        "script": [tmp_path / "script.py"],
    }
    more = {"PYTHONPATH": str(tmp_path), "PET_NNODES": "2", "EMPTY": ""}
    seen = []
    for cold in (False, True):
        monkeypatch.setattr(processes, "cold", cold)
        process = python(
            *words.get(kind_of_words, [kind_of_words]),
            *("a", "--b=c"),
            **{"cwd": tmp_path, **options, "env": options.get("env", PLAIN) | more},
        )
        out, err = process.communicate(None if "stdin" in options else "told")
        assert process.returncode == 0 and err == "to stderr\n", err
        values = json.loads(out)
        parent, *rest = values["family"]
        values["family"] = ["itself" if number == process.pid else number for number in rest]
        assert values["environment"]["PET_NNODES"] == "2" and parent == os.getpid()
        seen.append(values)
    forked, cold_start = seen
    server = forked["descriptors"]
    assert len(server) == 1 and not cold_start.pop("descriptors")
    assert {key: forked[key] for key in cold_start} == cold_start


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("", 0),
        ("import sys; sys.exit(75)", 75),
        ("import sys; sys.exit(-1)", 255),
        ("import sys; sys.exit('why')", 1),
        ("import os; os._exit(3)", 3),
        ("import os; os.kill(os.getpid(), 9)", -9),
        ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM),
        ("def f():\n  1 / 0\nf()", 1),
        ("raise KeyboardInterrupt", -signal.SIGINT),
        ("import atexit; atexit.register(print, 'at exit'); print('first')", 0),
        ("import threading as t; t.Timer(0.2, lambda: print('late')).start()", 0),
        ("import os, signal; os.close(1); os.close(2)", 0),
    ],
)
def test_a_fork_ends_as_a_cold_start_does(
    code: str, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = []
    for cold in (False, True):
        monkeypatch.setattr(processes, "cold", cold)
        process = python("-c", code)
        ends.append((*process.communicate(), process.wait()))
    assert ends[0] == ends[1] and ends[0][2] == expected


def test_signals_reach_a_process_and_a_wait_has_its_limit(kind: str) -> None:
    process = python("-c", "import time; print(1, flush=True); time.sleep(60)")
    assert process.stdout is not None and process.stdout.readline() == "1\n"
    assert process.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.05)
    process.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in process.communicate()[1]
    assert process.returncode == -signal.SIGINT
    other = python("-c", "import time; time.sleep(60)")
    other.terminate()
    assert other.wait() == -signal.SIGTERM


CHILD = """
import os, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import os, sys; print(os.getppid(), 'torch' in "
    "sys.modules, flush=True); sys.exit(4)"])
print(child.wait(), flush=True)
print(os.getpid())
"""


def test_children_of_a_fork_are_forked_and_its_own(kind: str) -> None:
    out, _ = python("-c", CHILD).communicate()
    seen, code, pid = out.splitlines()
    assert code == "4" and seen == f"{pid} {kind == 'forked'}"


@pytest.mark.slow
def test_numbers_are_random_in_each(kind: str) -> None:
    code = "import random, torch, numpy; print(random.random(), numpy.random.random())"
    said = [python("-c", code).communicate()[0].split() for _ in range(2)]
    assert not set(said[0]) & set(said[1])


@pytest.mark.slow
@pytest.mark.parametrize("number", ["1", "2"])
def test_torch_has_the_threads_of_the_environment(number: str, kind: str) -> None:
    code = "import torch, threading as t; print(torch.get_num_threads()); f = lambda: "
    code += "print(torch.get_num_threads()); x = t.Thread(target=f); x.start(); x.join()"
    out, _ = python("-c", code, env=PLAIN | {"OMP_NUM_THREADS": number}).communicate()
    assert out.split() == [number] * 2


def test_what_is_read_before_the_first_import_is_started_cold() -> None:
    code = "import sys; print('torch' in sys.modules)"
    for more in ({"PYTHONHASHSEED": "1"}, {"MALLOC_ARENA_MAX": "1"}, {"OMP_NUM_THREADS": ""}):
        assert python("-c", code, env=PLAIN | more).communicate()[0] == "False\n"
    assert python("-X", "utf8", "-c", code).communicate()[0] == "False\n"
    with pytest.raises(FileNotFoundError):
        python("-c", code, cwd="/not/there")


@pytest.mark.cold_start
def test_a_marked_test_starts_processes_cold() -> None:
    code = "import sys; print('torch' in sys.modules)"
    assert python("-c", code).communicate()[0] == "False\n"


def test_servers_are_not_taken_for_children_of_a_job(kind: str) -> None:
    process = python("-c", CHILD.replace("print(os.getpid())", "input()"))
    assert process.stdout is not None and process.stdout.readline()
    assert process.stdout.readline() == "4\n"
    assert descendants(process.pid) == [] and not is_server(process.pid)
    process.communicate("\n")
