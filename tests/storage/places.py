"""Servers and programs on this machine that stand for what smart_open reaches: the web, WebHDFS,
FTP and Hadoop's `hdfs`."""

import base64
import json
import re
import socket
import ssl
import subprocess
import threading
from collections import deque
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qs, quote, unquote, urlsplit

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
    """Serves `files` (path -> bytes), and WebHDFS below /webhdfs/v1; the next of `answers` goes
    first. `ranges`: whether it knows Range; `login`: the `user:password` that it wants; `cut`: how
    many bytes of the next bodies it sends; `page`: what it calls files."""

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
        parts = urlsplit(path)
        name = unquote(parts.path)
        if name.startswith("/webhdfs/v1/"):
            return self._webhdfs(method, name, parse_qs(parts.query), body)
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

    def _webhdfs(self, method: str, name: str, query: dict[str, list[str]], body: bytes) -> Answer:
        operation = query["op"][0]
        if operation == "OPEN":
            found = self._file(name, "")
            return found if found.status == 200 else Answer(404, b"FileNotFoundException")
        if "step" not in query:
            there = f"{self.url}{quote(name)}?op={operation}&step=2"
            return Answer(307, headers=(("Location", there),))
        if operation == "CREATE":
            self.files[name] = b""
            return Answer(201)
        self.files[name] += body
        return Answer(200)

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

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = serve

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


class FtpServer:
    """The commands that a download and an upload need; `files` by path; `cut`: how many bytes of
    the next file it sends before it says 426."""

    def __init__(self, user: str = "anonymous", password: str = "anonymous@") -> None:
        self.files: dict[str, bytes] = {}
        self.login = (user, password)
        self.cut: int | None = None
        self.listener = socket.create_server((HOST, 0))
        self.host = f"{HOST}:{self.listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """End it."""
        self.listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with suppress(OSError):  # the client has gone
            self._converse(client)

    def _converse(self, client: socket.socket) -> None:
        user, passive = "", socket.create_server((HOST, 0))
        with client, passive, client.makefile("rw", encoding="utf-8", newline="") as lines:

            def say(text: str) -> None:
                lines.write(f"{text}\r\n")
                lines.flush()

            say("220 ready")
            for line in lines:
                command, _, text = line.strip().partition(" ")
                if command == "USER":
                    user = text
                    say("331 password")
                elif command == "PASS":
                    say("230 in" if (user, text) == self.login else "530 wrong login")
                elif command in ("PASV", "EPSV"):
                    port = passive.getsockname()[1]
                    say(f"227 ({HOST.replace('.', ',')},{port >> 8},{port & 255})")
                elif command in ("RETR", "STOR"):
                    self._transfer(command, text, passive, say)
                else:
                    say("200 fine")

    def _transfer(self, command: str, path: str, passive: socket.socket, say) -> None:  # type: ignore[no-untyped-def]
        if command == "RETR" and path not in self.files:
            say("550 no such file")
            return
        say("150 here")
        data, _ = passive.accept()
        with data:
            if command == "STOR":
                self.files[path] = data.makefile("rb").read()
            else:
                cut, self.cut = self.cut, None
                data.sendall(self.files[path][:cut])
                if cut is not None:
                    say("426 broken off")
                    return
        say("226 done")


HDFS = """#!/bin/sh
# dfs -cat URI | dfs -put -f - URI, below the folder $HDFS_ROOT
last() { for last; do :; done; printf '%s' "${last#*://}"; }
path="$HDFS_ROOT/$(last "$@")"
case "$2" in
-cat) exec cat "$path" ;;
-put) mkdir -p "$(dirname "$path")" && cat > "$path.part" && mv "$path.part" "$path" ;;
esac
"""


def credentials_json(access_key: str, secret_key: str, token: str, expiration: str) -> bytes:
    """What the container credentials endpoint of AWS answers."""
    keys = {"AccessKeyId": access_key, "SecretAccessKey": secret_key, "Token": token}
    return json.dumps({**keys, "Expiration": expiration}).encode()
