"""Kubeflow Trainer's status server on the loopback: TLS, a token, and the strict schema of the
TrainJob's status (v2.3: 403, 404, 413 and 422 where it refuses)."""

import json
import re
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.platforms.docker_double import write_certificate

PATH = "/apis/trainer.kubeflow.org/v1alpha1/namespaces/training/trainjobs/town/status"
MOST_BYTES, INT32 = 1 << 16, 2**31 - 1
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")


class TrainerDouble:
    """What it accepted is in `statuses`, the codes of all answers in `codes`.

    `token` is the one that it takes now, `answers` are codes and headers that it gives first;
    before each answer it waits until `open` is set.
    """

    def __init__(self) -> None:
        self.token = "first"
        self.statuses: list[dict[str, Any]] = []
        self.codes: list[int] = []
        self.answers: list[tuple[int, dict[str, str]]] = []
        self.open = threading.Event()
        self.open.set()

    def answer(self, path: str, authorization: str | None, body: bytes) -> int:
        """The code for a request; what is right is kept."""
        if path != PATH:
            return 404
        if len(body) > MOST_BYTES:
            return 413
        if authorization != f"Bearer {self.token}":
            return 403
        try:
            given = json.loads(body)
            check(given)
        except (ValueError, AssertionError, KeyError, TypeError):
            return 422
        self.statuses.append(given["trainerStatus"])
        return 200


def check(given: Any) -> None:
    """Raise `AssertionError` for what the schema does not have."""
    assert set(given) == {"trainerStatus"}
    status = given["trainerStatus"]
    known = {"progressPercentage", "estimatedRemainingSeconds", "metrics", "lastUpdatedTime"}
    assert set(status) <= known
    for key, most in (("progressPercentage", 100), ("estimatedRemainingSeconds", INT32)):
        assert type(status[key]) is int and 0 <= status[key] <= most, key
    for metric in status["metrics"]:
        assert set(metric) == {"name", "value"}
        assert all(isinstance(one, str) and one for one in metric.values())
    assert TIME.fullmatch(status["lastUpdatedTime"])
    datetime.fromisoformat(status["lastUpdatedTime"])


class _Handler(BaseHTTPRequestHandler):
    double: TrainerDouble

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.double.open.wait(20)
        code, headers = self.double.answer(self.path, self.headers["Authorization"], body), {}
        if self.double.answers:
            code, headers = self.double.answers.pop(0)
        self.double.codes.append(code)
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def trainer_server(folder: Path) -> Iterator[tuple[TrainerDouble, dict[str, str]]]:
    """The server, and the variables of a TrainJob's pod, whose files are in `folder`."""
    write_certificate(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    double = TrainerDouble()
    handler = type("Handler", (_Handler,), {"double": double})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    (folder / "token").write_text(f"{double.token}\n")
    try:
        yield (
            double,
            {
                "KUBEFLOW_TRAINER_SERVER_URL": f"https://127.0.0.1:{server.server_port}{PATH}",
                "KUBEFLOW_TRAINER_SERVER_CA_CERT": str(folder / "ca.pem"),
                "KUBEFLOW_TRAINER_SERVER_TOKEN": str(folder / "token"),
            },
        )
    finally:
        double.open.set()
        server.shutdown()
        server.server_close()
        thread.join()
