"""The server of `tests/processes.py`: imports what jobs import, then forks and becomes what it is
asked for: `python -m tests.fork_server DESCRIPTOR`.
"""

import atexit
import fcntl
import gc
import importlib
import io
import os
import pickle
import random
import runpy
import signal
import socket
import sys
import threading
import types
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests import mlflow_tables, processes
from tests.processes import SERVER_NAME, Request

WARM = (
    *("torch", "torchvision", "timm", "mlflow", "boto3", "rich", "typer", "yaml", "PIL.Image"),
    *("torch.distributed.run", "torch.distributed.elastic.multiprocessing.api"),
    *("mlflow.store.tracking.sqlalchemy_store", "adapt.cli", "adapt.trainer.run"),
    "adapt.launch.supervisor",
)
"""What a job imports sooner or later. Importing it starts no thread."""
IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
HIGH = 500
"""Descriptors from here on are nobody's."""


def main(connection: socket.socket) -> None:
    """Import, then serve; each fork ends with what it became."""
    for name in WARM:
        importlib.import_module(name)
    mlflow_tables.copy_from_now_on()
    threads = os.listdir("/proc/self/task")  # noqa: PTH208
    assert len(threads) == 1, "a process with threads cannot be forked safely"
    gc.collect()
    gc.freeze()
    connection.send(b"+")
    while True:
        _become_server()
        request, descriptors = serve(connection)
        become(request, descriptors)
        ours, connection = socket.socketpair()
        if os.fork():
            connection.close()
            processes.adopt(ours)
            end(request)
        ours.close()


def serve(connection: socket.socket) -> tuple[Request, list[int]]:
    """Fork for every request; returns in the forks, with theirs, and ends with the asking
    process."""
    while True:
        header, descriptors, _, _ = socket.recv_fds(connection, 8, 64)
        if not header:
            os._exit(0)
        data = bytearray()
        while len(data) < int.from_bytes(header, "big"):
            data += connection.recv(1 << 20)
        if _forked(connection):
            connection.detach()  # its number will be another's
            return pickle.loads(data), descriptors
        for descriptor in descriptors:
            os.close(descriptor)


def _forked(connection: socket.socket) -> bool:
    """True in a new child of the asking process, once it is that; False here."""
    (told, tell), (wait, go) = os.pipe(), os.pipe()
    middle = os.fork()
    if middle == 0:
        if os.fork() == 0:
            _heed_signals()  # before anybody knows the process
            os.write(tell, os.getpid().to_bytes(8, "big"))
            os.close(go)
            os.read(wait, 1)
            return True
        os._exit(0)
    answer = os.read(told, 8)
    os.waitpid(middle, 0)  # now the child is the asking process's
    connection.send(answer)
    for descriptor in (told, tell, wait, go):
        os.close(descriptor)
    return False


def _heed_signals() -> None:
    for number in IGNORED:
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _become_server() -> None:
    """Keep nothing of the process that is served: its streams, its folder, its signals."""
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    processes.set_name(SERVER_NAME)
    os.chdir("/")
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nothing, number)
    os.close(nothing)


def become(request: Request, descriptors: list[int]) -> None:
    """Take over all that the system gives to a process."""
    if request.new_session:
        os.setsid()
    elif request.process_group >= 0:
        os.setpgid(0, request.process_group)
    _take(descriptors, request.descriptors)
    os.chdir(request.folder)
    os.umask(request.umask)
    os.environ.clear()
    os.environ.update(request.environment)
    processes.set_name(Path(sys.executable).name)
    if request.prepare is not None:
        request.prepare()


def _take(descriptors: list[int], numbers: tuple[int, ...]) -> None:
    """Give the descriptors their numbers, and close all others."""
    high = [fcntl.fcntl(one, fcntl.F_DUPFD, HIGH) for one in descriptors]
    first = 3
    for number in sorted(number for number in numbers if number >= first):
        os.closerange(first, number)
        first = number + 1
    os.closerange(first, HIGH)
    for one, number in zip(high, numbers, strict=True):
        os.dup2(one, number)
    os.closerange(HIGH, max(high) + 1)


def run(request: Request) -> None:
    """Be the interpreter with these arguments: `-c CODE`, `-m MODULE`, or a script."""
    _begin(request)
    kind, *rest = words = request.words
    sys.argv = [kind, *rest[1:]] if kind in ("-c", "-m") else words
    sys.orig_argv = [sys.executable, *request.argv]
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    main.__dict__.update(__builtins__=__builtins__, __annotations__={})
    if kind == "-m":
        _path(request, str(Path.cwd()))
        sys.modules.pop(rest[0], None)
        runpy._run_module_as_main(rest[0])  # type: ignore[attr-defined]
    elif kind == "-c":
        _path(request, "")
        exec(compile(rest[0], "<string>", "exec"), main.__dict__)
    else:
        script = os.path.abspath(kind)  # noqa: PTH100 - as Python does it
        _path(request, str(Path(script).resolve().parent))
        main.__dict__.update(__file__=script, __cached__=None)
        exec(compile(Path(script).read_bytes(), script, "exec"), main.__dict__)


def end(request: Request) -> None:
    """Run, and end as the interpreter does, but for freeing all modules, which costs as much as
    a short command."""
    code: Any = 0
    try:
        run(request)
    except SystemExit as ended:
        code = ended.code
    except BaseException as error:  # noqa: BLE001 - the interpreter's own catch
        sys.excepthook(type(error), error, error.__traceback__)
        code = 1
        if isinstance(error, KeyboardInterrupt):
            code = -signal.SIGINT
    if isinstance(code, str):
        print(code, file=sys.stderr)
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    if code == -signal.SIGINT:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    os._exit(int(code or 0) & 0xFF)


def _begin(request: Request) -> None:
    """What a cold start finds out by itself: streams, threads, randomness."""
    import numpy as np
    import torch

    if "-u" in request.flags or request.environment.get("PYTHONUNBUFFERED"):
        for name in ("stdout", "stderr"):
            stream = _unbuffered(getattr(sys, name))
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)
    else:
        sys.stdout.reconfigure(line_buffering=os.isatty(1))  # type: ignore[union-attr]
    sys.dont_write_bytecode = bool(request.environment.get("PYTHONDONTWRITEBYTECODE"))
    torch.set_num_threads(int(request.environment["OMP_NUM_THREADS"]))
    random.seed()
    np.random.seed()
    sys.excepthook = _without_server


def _unbuffered(stream: Any) -> io.TextIOWrapper:
    raw = io.FileIO(stream.fileno(), "w", closefd=False)
    return io.TextIOWrapper(raw, stream.encoding, stream.errors, write_through=True)  # type: ignore[type-var]


def _path(request: Request, first: str) -> None:
    more = request.environment.get("PYTHONPATH", "")
    own = [] if "-P" in request.flags else [first]
    sys.path[:] = [*own, *filter(None, more.split(os.pathsep)), *INSTALLED]
    importlib.invalidate_caches()


def _without_server(kind: Any, error: BaseException, trace: Any) -> None:
    """Print an exception without this file's frames."""
    while trace is not None and trace.tb_frame.f_code.co_filename in (__file__, runpy.__file__):
        trace = trace.tb_next
    sys.__excepthook__(kind, error.with_traceback(trace), trace)


INSTALLED = sys.path[1:]
"""Without the folder that `-m` adds; an editable installation has it again, as in a cold start."""

if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])))
