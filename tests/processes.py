"""Processes for tests without the seconds that importing torch takes.

`Process` is `subprocess.Popen`. A Python process that it starts comes from a fork server
(`tests/fork_server.py`) with its own arguments, environment, folder, file descriptors, umask,
session, threads and random numbers. It is a child of the process that asks: the server forks
twice, and Linux gives the orphan to the asking process, its "subreaper" meanwhile. Forked
processes have a server of their own, so that supervisors start their ranks as fast.

Other than in a cold start, modules are imported and strings hash as in the server; `/proc/PID`
has the server's command and environment. What is read before the first import is started
cold; so are tests marked `cold_start`, and all with SEGADAPT_COLD_STARTS=1.
"""

import ctypes
import os
import pickle
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
SERVER_NAME = "fork-server"
"""The name of servers in `/proc/PID/comm`; they are children of the processes they serve."""
READ_EARLY = ("MALLOC_", "LD_", "GLIBC_", "KMP_", "MKL_", "OPENBLAS_", "PYTHON")
HARMLESS = {"PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED"}
NO_THREADS = {"OMP_NUM_THREADS": "1", "JE_ARROW_MALLOC_CONF": "background_thread:false"}
"""For libraries that start threads when they are imported."""
_SET_NAME, _SET_SUBREAPER = 15, 36
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_AT_START = dict(os.environ)

cold = os.environ.get("SEGADAPT_COLD_STARTS") == "1" or _LIBC is None
"""Whether all processes are started as the system does it."""


class Request(NamedTuple):
    """A Python process to be: `argv` without the interpreter, and the rest of what it inherits."""

    argv: list[str]
    environment: dict[str, str]
    folder: str
    umask: int
    descriptors: tuple[int, ...]
    """The numbers of the descriptors sent along."""
    new_session: bool
    process_group: int
    prepare: Callable[[], Any] | None

    @property
    def flags(self) -> list[str]:
        """The interpreter's own options at the beginning; others are not known here."""
        return list(takewhile(lambda word: word in ("-u", "-P"), self.argv))

    @property
    def words(self) -> list[str]:
        """The arguments after the flags."""
        return self.argv[len(self.flags) :]


class Client:
    """The asking end of a server, for one process."""

    def __init__(
        self, connection: socket.socket, server: "subprocess.Popen[bytes] | None" = None
    ) -> None:
        self._connection, self._owner = connection, os.getpid()
        self._server = server  # ends with this process, and is not waited for before
        self._lock = threading.Lock()

    @property
    def usable(self) -> bool:
        """Return whether forks become children of this process, and not of one it was forked
        from."""
        return self._owner == os.getpid()

    def fork(self, request: Request, descriptors: list[int]) -> int:
        """The new child's process id. Raises `RuntimeError` where the server is gone."""
        data = pickle.dumps(request)
        with self._lock:
            prctl(_SET_SUBREAPER, 1)
            try:
                header = len(data).to_bytes(8, "big")
                socket.send_fds(self._connection, [header], descriptors)
                self._connection.sendall(data)
                answer = self._connection.recv(8)
            finally:
                prctl(_SET_SUBREAPER, 0)
        if not answer:
            raise RuntimeError("the fork server has ended (SEGADAPT_COLD_STARTS=1 avoids it)")
        return int.from_bytes(answer, "big")


class Process(subprocess.Popen[Any]):
    """A `Popen` whose Python processes come from the fork server where they can."""

    def _execute_child(self, *given: Any) -> None:
        execute(self, *given)


_client: Client | None = None
_cold_execute: Callable[..., None] = subprocess.Popen._execute_child  # type: ignore[attr-defined]


def prctl(option: int, value: Any) -> None:
    """Set an attribute of this process; elsewhere than on Linux nothing."""
    if _LIBC is not None:
        _LIBC.prctl(option, value, 0, 0, 0)


def set_name(name: str) -> None:
    """What `/proc/PID/comm` says of this process."""
    prctl(_SET_NAME, ctypes.c_char_p(name.encode()))


def is_server(pid: int) -> bool:
    """Return whether a process is a fork server, not one of those that a test is about."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip() == SERVER_NAME
    return False


def adopt(connection: socket.socket) -> None:
    """From now on every `Popen` of this process, itself forked, asks this server."""
    global _client
    _client = Client(connection)
    subprocess.Popen._execute_child = execute  # type: ignore[attr-defined]


def execute(process: Any, args: Any, executable: Any, prepare: Any, *given: Any) -> None:
    """`Popen._execute_child`."""
    close_fds, pass_fds, cwd, env, _startup, _flags, shell, *rest = given
    (to_in, _, _, from_out, _, from_err), rest = rest[:6], rest[6:]
    restore_signals, gid, gids, uid, umask, new_session, process_group = rest
    exotic = (shell, gid, gids, uid, executable, not restore_signals, not close_fds)
    argv = [] if isinstance(args, str | bytes | os.PathLike) else list(map(os.fsdecode, args))
    request = Request(
        argv[1:],
        text_of(os.environ if env is None else env),
        os.path.abspath(os.fsdecode(cwd or ".")),  # noqa: PTH100 - `Path` would follow no link either
        _umask() if umask < 0 else umask,
        (0, 1, 2, *pass_fds),
        new_session,
        process_group,
        prepare,
    )
    if any(one not in (None, False) for one in exotic) or not forkable(argv, request):
        _cold_execute(process, args, executable, prepare, *given)
        return
    standard = [
        given if given >= 0 else own for own, given in enumerate((to_in, from_out, from_err))
    ]
    process.pid = client().fork(request, [*standard, *pass_fds])
    process._child_created = True
    process._close_pipe_fds(*given[7:13])


def forkable(argv: list[str], request: Request) -> bool:
    """Return whether a fork can become this process."""
    words = request.words
    if cold or not words or argv[0] != sys.executable:
        return False
    if _client is not None and not _client.usable:
        return False
    script = words[0] in ("-c", "-m") or (Path(request.folder) / words[0]).is_file()
    threads = request.environment.get("OMP_NUM_THREADS", "")
    return (
        script
        and threads.isdecimal()
        and os.access(request.folder, os.X_OK)
        and _early(request.environment) == _early(_AT_START)
        and _can_be_sent(request.prepare)
    )


def client() -> Client:
    """This process's server, started by the first who asks for it."""
    global _client
    _client = _client or _start_server()
    return _client


def text_of(environment: Mapping[Any, Any]) -> dict[str, str]:
    return {os.fsdecode(name): os.fsdecode(value) for name, value in environment.items()}


def _start_server() -> Client:
    ours, theirs = socket.socketpair()
    environment = {name: value for name, value in _AT_START.items() if name not in HARMLESS}
    with theirs:
        server = subprocess.Popen(
            [sys.executable, "-m", "tests.fork_server", str(theirs.fileno())],
            cwd=ROOT,
            env=environment | NO_THREADS,
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
    if ours.recv(1) != b"+":
        raise RuntimeError("the fork server does not start: python -m tests.fork_server")
    return Client(ours, server)


def _early(environment: Mapping[str, str]) -> dict[str, str]:
    """What is read before the first import."""
    return {
        name: value
        for name, value in environment.items()
        if name.startswith(READ_EARLY) and name not in HARMLESS
    }


def _can_be_sent(prepare: Callable[[], Any] | None) -> bool:
    try:
        pickle.dumps(prepare)
    except (pickle.PicklingError, AttributeError):
        return False
    return getattr(prepare, "__module__", "") != "__main__"


def _umask() -> int:
    """This process's umask, which cannot be read without setting it but here."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1], 8) for line in lines if line.startswith("Umask:"))
