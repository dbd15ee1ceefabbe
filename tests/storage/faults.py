"""Faults that SeaweedFS never makes: a proxy that breaks answers, and answers to order."""

import socket
import threading
from collections import deque
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

from adapt.platforms.local_stack import HOST


class FaultProxy:
    """Forwards TCP to the S3 server. `cuts`: after how many bytes the next answers break off;
    `flips`: how many of the next large answers get one byte changed."""

    def __init__(self, target: str) -> None:
        parts = urlsplit(target)
        self.target = (parts.hostname, parts.port)
        self.cuts: deque[int] = deque()
        self.flips = 0
        self.listener = socket.create_server((HOST, 0))
        self.endpoint_url = f"http://{HOST}:{self.listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                server = socket.create_connection(self.target)
                for pump, pair in ((self._up, (client, server)), (self._down, (server, client))):
                    threading.Thread(target=pump, args=pair, daemon=True).start()

    def _up(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while data := client.recv(65536):
                server.sendall(data)
            server.close()

    def _down(self, server: socket.socket, client: socket.socket) -> None:
        sent_bytes = 0
        with suppress(OSError):
            while data := server.recv(65536):
                if self.cuts and sent_bytes + len(data) > self.cuts[0]:
                    client.sendall(data[: self.cuts.popleft() - sent_bytes])
                    break
                if self.flips and sent_bytes > 5000:
                    self.flips -= 1
                    data = bytes([data[0] ^ 1]) + data[1:]
                client.sendall(data)
                sent_bytes += len(data)
        for end in (client, server):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


class CannedServer:
    """Answers each request by the next of `answers` (status, error code), then by 200."""

    def __init__(self) -> None:
        self.answers: deque[tuple[int, str]] = deque()
        self.num_requests = 0
        self.http = ThreadingHTTPServer((HOST, 0), self._handler())
        self.endpoint_url = f"http://{HOST}:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    def _handler(canned) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                canned.num_requests += 1
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                status, code = canned.answers.popleft() if canned.answers else (200, "")
                body = (
                    f"<Error><Code>{code}</Code><Message>told to</Message></Error>"
                    if code
                    else "ok"
                )
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body.encode())

            do_GET = do_PUT = do_HEAD = do_DELETE = answer

            def log_message(self, *args: object) -> None:
                pass

        return Handler
