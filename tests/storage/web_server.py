"""A web server on this machine that does as it is told, over http or https."""

import base64
import json
import re
import ssl
import subprocess
import threading
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from adapt.platforms.local_stack import HOST


class Answer(NamedTuple):
    """What a server answers out of turn."""

    status: int
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()


class WebRequest(NamedTuple):
    """A request that came."""

    method: str
    path: str
    headers: dict[str, str]


class WebServer:
    """Serves `files` (path -> bytes); the next of `answers` goes first.

    `ranges`: whether it knows Range; `login`: the `user:password` that it wants; `cuts`: how many
    bytes of the next bodies it sends; `kind`: the content type of files."""

    def __init__(self, certificate: Path | None = None) -> None:
        self.files: dict[str, bytes] = {}
        self.answers: deque[Answer] = deque()
        self.cuts: deque[int] = deque()
        self.requests: list[WebRequest] = []
        self.ranges = True
        self.login: str | None = None
        self.kind = "application/octet-stream"
        self.http = ThreadingHTTPServer((HOST, 0), self._handler())
        scheme = "http"
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self.http.socket = context.wrap_socket(self.http.socket, server_side=True)
            scheme = "https"
        self.url = f"{scheme}://{HOST}:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        """End it."""
        self.http.shutdown()
        self.http.server_close()

    def answer(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Answer:
        """What it says to a request."""
        self.requests.append(WebRequest(method, path, headers))
        if self.answers:
            return self.answers.popleft()
        if self.login and headers.get("authorization") != _basic(self.login):
            return Answer(401)
        name = unquote(urlsplit(path).path)
        return self._file(name, headers.get("range", "") if self.ranges else "")

    def _file(self, name: str, asked: str) -> Answer:
        if name not in self.files:
            return Answer(404, b"<html><title>Not Found</title></html>", _HTML)
        data, kind = self.files[name], (("Content-Type", self.kind),)
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", asked)
        if match is None:
            return Answer(200, data, kind)
        start, end = int(match[1]), min(int(match[2] or len(data)), len(data) - 1)
        if start >= len(data):
            return Answer(416)
        found = ("Content-Range", f"bytes {start}-{end}/{len(data)}")
        return Answer(206, data[start : end + 1], (*kind, found))

    def _handler(server) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def serve(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                headers = {name.lower(): value for name, value in self.headers.items()}
                answer = server.answer(self.command, self.path, headers, body)
                self.send_response(answer.status)
                for name, value in answer.headers:
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(answer.body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(self.passed(answer.body))

            def passed(self, body: bytes) -> bytes:
                if not server.cuts or len(body) <= server.cuts[0]:
                    return body
                self.close_connection = True
                return body[: server.cuts.popleft()]

            do_GET = do_PUT = do_POST = do_PATCH = do_HEAD = do_DELETE = serve

            def log_message(self, *args: object) -> None:
                pass

        return Handler


_HTML = (("Content-Type", "text/html"),)


def _basic(login: str) -> str:
    return "Basic " + base64.b64encode(login.encode()).decode()


def make_certificate(folder: Path) -> Path:
    """A file with a key and a certificate for this machine's address, which signs itself."""
    path = folder / "server.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-keyout", str(path), "-out", str(folder / "cert.pem"), "-subj", f"/CN={HOST}"]
    subprocess.run([*command, "-addext", f"subjectAltName=IP:{HOST}"], check=True, stderr=-3)
    path.write_text(path.read_text() + (folder / "cert.pem").read_text())
    return path


def credentials_json(access_key: str, secret_key: str, token: str, expiration: str) -> bytes:
    """What the container credentials endpoint of AWS answers."""
    keys = {"AccessKeyId": access_key, "SecretAccessKey": secret_key, "Token": token}
    return json.dumps({**keys, "Expiration": expiration}).encode()
