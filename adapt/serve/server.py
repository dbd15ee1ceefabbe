"""`Server`: listens immediately, loads the model meanwhile, stops gracefully.

uvicorn would end a process by the signal that stopped it; a server that a platform stops has done
its work, so SIGTERM is exit code 0.
"""

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn

from adapt.errors import JobError
from adapt.serve.app import build_app
from adapt.serve.gate import Gate
from adapt.serve.limits import Limits
from adapt.serve.protocol import LimitedProtocol
from adapt.serve.service import Service
from adapt.use.model import LoadedModel

log = logging.getLogger(__name__)

MAX_CONNECTIONS = 512
GRACE_SHARE = 0.8
"""Of a platform's grace, for requests in flight; the rest is for ending."""
_END_S = 1.0


class Server(uvicorn.Server):
    """One model at one address. `load` is called in a thread of its own.

    Raises `JobError` where the address cannot be had.
    """

    def __init__(
        self,
        load: Callable[[], LoadedModel],
        *,
        name: str = "segadapt",
        host: str = "127.0.0.1",
        port: int = 8080,
        limits: Limits | None = None,
        token: str | None = None,
        grace_s: float = 30.0,
    ) -> None:
        self.service = Service(name, limits or Limits(), load, self.stop)
        self.listener = _listener(host, port)
        routes = build_app(self.service, token is not None)
        app = Gate(routes, self.service.metrics, token, self._is_crowded)
        super().__init__(
            uvicorn.Config(
                app,
                http=LimitedProtocol,
                loop="asyncio",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_graceful_shutdown=GRACE_SHARE * grace_s,  # type: ignore[arg-type]
            )
        )

    def _is_crowded(self) -> bool:
        return len(self.server_state.connections) >= MAX_CONNECTIONS

    @property
    def url(self) -> str:
        """The address, with the port that the system chose for port 0."""
        host, port = self.listener.getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def stop(self) -> None:
        """Ask for a graceful stop; any thread may."""
        self.should_exit = True

    def serve_until_stopped(self) -> None:
        """Serve until a signal or `stop`, and finish what is in flight.

        Raises what ended loading or computing, and `KeyboardInterrupt` after Ctrl-C.
        """
        batcher = self.service.batcher
        log.info("loading the model")
        batcher.start()
        self.run(sockets=[self.listener])
        batcher.stop()
        batcher.join(_END_S)
        self.service.close()
        if batcher.failure is not None:
            raise batcher.failure
        by_hand = signal.SIGINT in self._captured_signals
        if batcher.is_alive() and threading.current_thread() is threading.main_thread():
            _end_at_once(by_hand)
        log.info("stopped")
        if by_hand:
            raise KeyboardInterrupt

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop on SIGTERM and Ctrl-C, without ending the process by them afterwards."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        numbers = (signal.SIGTERM, signal.SIGINT)
        before = {number: signal.signal(number, self.handle_exit) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _end_at_once(by_hand: bool) -> None:
    """End in the middle of loading or computing, where Python's own end could abort."""
    sys.stderr.write("Aborted.\n" if by_hand else "stopped before all was computed\n")
    sys.stderr.flush()
    os._exit(130 if by_hand else 0)


def _listener(host: str, port: int) -> socket.socket:
    try:
        (family, *_, address), *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return socket.create_server(address, family=family, backlog=MAX_CONNECTIONS)
    except OSError as error:
        raise JobError(
            f"host, port: expected an address that this program may listen on, got {host}:{port} "
            f"({error.strerror})",
            "give another --port, or the --host of this machine",
        ) from error
