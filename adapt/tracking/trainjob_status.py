"""The progress of a TrainJob, as `kubectl get trainjob` shows it (Kubeflow's KEP-2779).

A thread posts the newest status, at most one in `EVERY_S`. The server may be away, slow or strange:
training never waits for it, a failure is a warning once, and the time between attempts grows.
Redirects and proxies are not followed, so that the token reaches that server alone.
"""

import json
import logging
import ssl
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from http.client import HTTPException, HTTPSConnection
from math import isfinite
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from adapt.places.trainer_server import TrainerServer

log = logging.getLogger(__name__)

EVERY_S, LONGEST_WAIT_S = 10.0, 300.0
"""Between two statuses, and between two attempts while they fail."""
TIMEOUT_S, END_S = 5.0, 3.0
"""Of a request's parts, and for the last status at the end of a job."""
MOST_METRICS = 64
"""In a status: the server reads no body of more than 64 kB."""
_MOST_SECONDS = 2**31 - 1


class Status(NamedTuple):
    """Share that is done, in [0, 1], the time left, and the newest metrics by name."""

    done: float
    remaining_s: float
    metrics: Mapping[str, float]

    def body(self, now: datetime) -> dict[str, Any]:
        """The request's JSON; 100 per cent are those of a job that has ended."""
        values = [(name, value) for name, value in self.metrics.items() if isfinite(value)]
        named = [{"name": name, "value": _written(value)} for name, value in values[:MOST_METRICS]]
        seconds = self.remaining_s if isfinite(self.remaining_s) else _MOST_SECONDS
        status = {
            "progressPercentage": 100 if self.done >= 1 else min(int(100 * self.done), 99),
            "estimatedRemainingSeconds": max(0, min(round(seconds), _MOST_SECONDS)),
            "metrics": named,
            "lastUpdatedTime": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        return {"trainerStatus": status}


def _written(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.6g}"


class TrainJobStatus(threading.Thread):
    """Posts the newest status to a server until it is closed."""

    def __init__(self, server: TrainerServer) -> None:
        super().__init__(name="trainjob status", daemon=True)
        self._server = server
        self._status: Status | None = None
        self._changed = threading.Condition()
        self._closing = self._failed = False
        self._pause = threading.Event()

    def show(self, status: Status) -> None:
        """Have a status posted, in place of one that still waits. Returns immediately."""
        with self._changed:
            self._status = status
            self._changed.notify()
        if not self.is_alive() and not self._closing:
            self.start()

    def close(self, last: Status | None = None) -> None:
        """End the thread; `last`, of a job that is done, is waited for a moment."""
        if last is not None:
            self.show(last)
        with self._changed:
            self._closing = True
            self._status = self._status if last is not None else None
            self._changed.notify()
        self._pause.set()
        if last is not None:
            self.join(END_S)

    def run(self) -> None:
        """Post until the end; wait longer after a failure."""
        wait_s = EVERY_S
        while (status := self._next()) is not None:
            posted = self._tried(status)
            wait_s = EVERY_S if posted else min(2 * wait_s, LONGEST_WAIT_S)
            self._pause.wait(wait_s)

    def _next(self) -> Status | None:
        """The newest status, once there is one; None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._closing or self._status is not None)
            status, self._status = self._status, None
            return status

    def _tried(self, status: Status) -> bool:
        try:
            post(self._server, status.body(datetime.now(UTC)))
        except (OSError, HTTPException, ValueError) as error:
            if not self._failed:
                self._failed = True
                log.warning(
                    "the TrainJob's progress could not be posted, training continues: %s",
                    f"{error}" or type(error).__name__,
                )
            return False
        return True


def post(server: TrainerServer, body: Mapping[str, Any]) -> None:
    """Post a status with the token and the certificates as the files have them now.

    Raises `OSError`, `HTTPException` and `ValueError`, none of which has the token.
    """
    address = urlsplit(server.url)
    if address.scheme != "https" or address.hostname is None:
        raise ValueError(f"expected https://HOST..., got {server.url!r}")
    token = server.token_file.read_text().strip()
    if not token or not token.isascii() or not token.isprintable():
        raise ValueError(f"expected a token in {server.token_file}, got other text")
    context = ssl.create_default_context(cafile=server.ca_file)
    connection = HTTPSConnection(address.hostname, address.port, timeout=TIMEOUT_S, context=context)
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    try:
        connection.request("POST", address.path or "/", json.dumps(body), headers)
        answer = connection.getresponse()
        said = answer.read(1000).decode("utf-8", "replace")
    finally:
        connection.close()
    if answer.status != 200:
        raise OSError(f"{address.hostname} answered {answer.status} {said!r:.200}")
