"""A Docker engine that has one container and breaks off where a test says: over a socket, over TLS,
and behind an `ssh` command that is none."""

import json
import os
import socket
import ssl
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from ipaddress import IPv4Address
from pathlib import Path
from socketserver import ThreadingTCPServer, ThreadingUnixStreamServer
from threading import Event, Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

CLOCK_S = 3600.0
"""How far this engine's clock is ahead of ours."""

BEGUN = datetime(2026, 11, 27, 12, tzinfo=UTC)


def frame(text: str, at_s: float = 0.0) -> tuple[float, bytes]:
    """A line, or a piece of one, as an engine sends it: when, and its bytes."""
    time_s = BEGUN + timedelta(seconds=at_s)
    stamped = f"{time_s:%Y-%m-%dT%H:%M:%S.%f}000Z {text}".encode()
    return time_s.timestamp(), struct.pack(">BxxxL", 1, len(stamped)) + stamped


class EngineDouble:
    """What the engine is asked and says."""

    def __init__(self) -> None:
        self.version, self.state, self.grace_s = "27.1.0", "running", 120
        self.kills: list[float] = []
        self.stops = self.looks = self.away = 0
        self.asked, self.may_signal, self.ended = Event(), Event(), Event()
        self.left = Event()
        self.may_signal.set()
        self.frames: list[tuple[float, bytes]] = []
        self.breaks: list[int] = []
        """After how many bytes of frames each log breaks off; the one after the last is whole, and
        the container has ended then."""
        self.since: list[str | None] = []
        self.in_chunks = True

    def now_s(self) -> float:
        return time.time() + CLOCK_S

    def info(self) -> dict[str, Any]:
        now = datetime.fromtimestamp(self.now_s(), UTC)
        return {"ServerVersion": self.version, "SystemTime": now.isoformat().replace("+00:00", "Z")}

    def container(self) -> dict[str, Any]:
        state = {"Status": self.state, "ExitCode": 0, "OOMKilled": False, "Error": ""}
        labels = {"segadapt.job": "tiny"}
        config = {"Labels": labels, "StopTimeout": self.grace_s, "Tty": False, "Image": "x"}
        return {"Id": "1f", "Name": "/tiny", "State": state, "Config": config, "HostConfig": {}}

    def end(self) -> None:
        self.state = "exited"
        self.ended.set()


class _EngineHandler(BaseHTTPRequestHandler):
    engine: EngineDouble
    protocol_version = "HTTP/1.1"

    def log_message(self, *_arguments: object) -> None:
        """Nothing is said."""

    def do_GET(self) -> None:
        path, query = self._parts()
        if self.engine.away:
            self.engine.away -= 1
            self.close_connection = True
        elif path.endswith("/version"):
            self._say({"Version": self.engine.version, "ApiVersion": "1.45"})
        elif path.endswith("/_ping"):
            self._say("OK")
        elif path.endswith("/info"):
            self._say(self.engine.info())
        elif path.endswith("/containers/1f/logs"):
            self._log(query)
        elif path.endswith("/events"):
            self._events(query)
        else:
            self._say(self.engine.container())

    def do_POST(self) -> None:
        """A stop: SIGTERM, then nothing until the container has ended or the client is gone."""
        self.engine.stops += 1
        self.engine.asked.set()
        self.engine.may_signal.wait(30)
        self.engine.kills.append(self.engine.now_s())
        while not self.engine.ended.wait(0.01):
            if _hung_up(self.connection):
                self.engine.left.set()
                return
        self.send_response(204)
        self.end_headers()

    def _parts(self) -> tuple[str, dict[str, str]]:
        whole = urlsplit(self.path)
        return whole.path, {name: values[0] for name, values in parse_qs(whole.query).items()}

    def _say(self, what: object) -> None:
        said = json.dumps(what).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    def _chunked(self) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def _log(self, query: dict[str, str]) -> None:
        self.engine.since.append(query.get("since"))
        since_s = float(query.get("since", 0))
        data = b"".join(piece for time_s, piece in self.engine.frames if time_s >= since_s)
        whole = not self.engine.breaks
        data = data if whole else data[: self.engine.breaks.pop(0)]
        if self.engine.in_chunks:
            self._chunked()
            self._chunk(data)
        else:
            self.send_response(200)
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(data)
        if whole:
            self.wfile.write(b"0\r\n\r\n" if self.engine.in_chunks else b"")
            self.engine.end()
        self.close_connection = not whole or not self.engine.in_chunks

    def _events(self, query: dict[str, str]) -> None:
        self.engine.looks += 1
        assert json.loads(query["filters"]) == {"container": ["1f"], "event": ["kill"]}
        self._chunked()
        for time_s in self.engine.kills:
            if float(query["since"]) <= time_s <= float(query["until"]):
                event = {"Action": "kill", "Actor": {"Attributes": {"signal": "15"}}}
                self._chunk(json.dumps(event).encode() + b"\n")
        self.wfile.write(b"0\r\n\r\n")


def _hung_up(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return connection.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    finally:
        connection.setblocking(True)


class _UnixServer(ThreadingUnixStreamServer):
    daemon_threads, block_on_close = True, False


class _TcpServer(ThreadingTCPServer):
    daemon_threads, block_on_close = True, False

    def handle_error(self, *_arguments: object) -> None:
        """A client that speaks no TLS is no error of ours."""


@contextmanager
def _running(server: _UnixServer | _TcpServer) -> Iterator[None]:
    thread = Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def on_a_socket(engine: EngineDouble, folder: Path) -> Iterator[str]:
    """The engine's URI."""
    handler = type("Handler", (_EngineHandler,), {"engine": engine})
    with _running(_UnixServer(f"{folder}/docker.sock", handler)):
        yield f"unix://{folder}/docker.sock"


@contextmanager
def over_tls(engine: EngineDouble, folder: Path) -> Iterator[str]:
    """The engine's URI; `folder` holds ca.pem, cert.pem and key.pem, which both sides need."""
    write_certificate(folder)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=f"{folder}/ca.pem")
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    handler = type("Handler", (_EngineHandler,), {"engine": engine})
    server = _TcpServer(("127.0.0.1", 0), handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    with _running(server):
        yield f"tcp://127.0.0.1:{server.server_address[1]}"


def write_certificate(folder: Path) -> None:
    """One that trusts itself: for authority, server and client."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "engine")])
    here = x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(here, critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    (folder / "ca.pem").write_bytes(pem)
    (folder / "cert.pem").write_bytes(pem)
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    (folder / "key.pem").write_bytes(private)


SSH = f"""#!{sys.executable} -SE
import os, socket, sys, threading
with open(os.environ["SSH_ASKED"], "a") as file:
    print(*sys.argv[1:], file=file)
engine = socket.socket(socket.AF_UNIX)
engine.connect(os.environ["SSH_REACHES"])
def send():
    while data := os.read(0, 65536):
        engine.sendall(data)
    os._exit(0)
threading.Thread(target=send, daemon=True).start()
while data := engine.recv(65536):
    os.write(1, data)
"""


def ssh_command(folder: Path, engine_uri: str) -> dict[str, str]:
    """Variables with which `ssh` is a command that reaches the engine; it notes in `asked` with
    what it was called."""
    command = folder / "ssh"
    command.write_text(SSH)
    command.chmod(0o755)
    return {
        "PATH": f"{folder}:{os.environ['PATH']}",
        "SSH_ASKED": f"{folder}/asked",
        "SSH_REACHES": engine_uri.removeprefix("unix://"),
    }
