"""Opens what smart_open reaches: the answer of a web server as it arrives, other files in blocks.

smart_open's own reader of web answers waits for full blocks and asks twice for an offset; so the
answer below it is read, which the Range header makes begin at the offset.
"""

import logging
import os
import socket
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import requests
import smart_open

from storage.config import StoreConfig
from storage.downloads import Body, skip, stopper, unstoppable
from storage.errors import StoreError, StoreUnavailable
from storage.smart_open.uri import WEB, Target
from storage.web_pages import PAGE_BYTES, WebPage, is_html, title_of

logging.getLogger("smart_open.utils").setLevel(logging.ERROR)
"""It warns at each file over ftp of a timeout that it calls unknown, and uses."""

_FTP = ("ftp", "ftps")
_CHUNK_BYTES = 8 << 20
_AZURE_VARIABLE = "AZURE_STORAGE_CONNECTION_STRING"


class Files:
    """Opens objects under one target. One client or session a process, made on first use."""

    def __init__(
        self, target: Target, config: StoreConfig, environment: Mapping[str, str], name: str
    ) -> None:
        self.target, self.config, self.environment, self.name = target, config, environment, name
        self._clients: dict[int, Any] = {}
        self._locks: dict[int, threading.Lock] = {}

    def opened(self, key: str, offset_bytes: int, length_bytes: int | None = None) -> Body:
        """The object from an offset on; the length is a hint."""
        if self.target.scheme in WEB:
            return self._answer(key, offset_bytes, length_bytes)
        file = self._open(key, "rb")
        if offset_bytes and file.seekable():
            file.seek(offset_bytes)
        else:
            skip(_Blocks(file), offset_bytes)
        if self.target.scheme in _FTP:
            return Body(_Blocks(file, file.conn.voidresp), lambda: _shut(file.socket))
        return Body(_Blocks(file), unstoppable)

    def to_write(self, key: str) -> Any:
        """The object as a file to write, complete when it is closed well."""
        return self._open(key, "wb")

    def _open(self, key: str, mode: str, **more: object) -> Any:
        params = self._params(mode) | more
        address = self.target.address(key)
        return smart_open.open(address, mode, compression="disable", transport_params=params)

    def _params(self, mode: str) -> dict[str, Any]:
        scheme, config = self.target.scheme, self.config
        if scheme in WEB:
            login = {"user": self.target.user, "password": self.target.password}
            timeout = (config.connect_timeout_s, config.read_timeout_s)
            return {**login, "timeout": timeout, "session": self._client(requests.Session)}
        if scheme in _FTP:
            return {"timeout": config.read_timeout_s}
        if scheme in ("gs", "gcs"):
            chunk = {"chunk_size": _CHUNK_BYTES} if mode == "rb" else {}
            return {"client": self._client(_google), "blob_open_kwargs": chunk}
        if scheme in ("az", "azure"):
            return {"client": self._client(self._azure)}
        return {}

    def _answer(self, key: str, offset_bytes: int, length_bytes: int | None) -> Body:
        headers = {"Accept-Encoding": "identity"}
        if offset_bytes or length_bytes:
            last = "" if length_bytes is None else str(offset_bytes + length_bytes - 1)
            headers["Range"] = f"bytes={offset_bytes}-{last}"
        file = self._open(key, "rb", headers=headers)
        answer = file.response
        self._check(answer, key, offset_bytes)
        if answer.status_code == requests.codes.ok:  # it gives the whole, whatever was asked
            skip(answer.raw, offset_bytes)
        return Body(_Blocks(file, read=answer.raw.read1), stopper(answer.raw))

    def _check(self, answer: requests.Response, key: str, offset_bytes: int) -> None:
        name = key.partition("?")[0]
        if is_html(answer.headers) and not name.endswith((".html", ".htm")):
            page = WebPage(answer.status_code, title_of(answer.raw.read(PAGE_BYTES)), "")
            answer.close()
            raise StoreError(
                f"{self.target.shown(key)}: a web page came, not the object ({page}): a proxy or "
                "login page stands between; check the URI, its credentials, HTTP_PROXY/NO_PROXY"
            )
        found = answer.headers.get("Content-Range", "")
        partial = answer.status_code == requests.codes.partial_content
        if partial and not found.startswith(f"bytes {offset_bytes}-"):
            answer.close()
            raise StoreUnavailable(
                f"{self.target.shown(key)}: asked for bytes from {offset_bytes} on, got "
                f"{found or 'others'}; the web server's ranges are wrong"
            )

    def _client(self, made: Callable[[], Any]) -> Any:
        pid = os.getpid()
        with self._locks.setdefault(pid, threading.Lock()):
            if pid not in self._clients:
                self._clients[pid] = made()
            return self._clients[pid]

    def _azure(self) -> Any:
        from azure.storage.blob import BlobServiceClient

        connection = self.environment.get(_AZURE_VARIABLE)
        if not connection:
            raise StoreError(
                f"{self.target.uri}: no credentials; set the environment variable "
                f"{_AZURE_VARIABLE} (the storage account's page, Access keys)"
            )
        return BlobServiceClient.from_connection_string(connection)


def _google() -> Any:
    from google.cloud import storage

    return storage.Client()


class _Blocks:
    """A file as `Readable`; `ended` is called at its end and raises where bytes are missing.

    `hdfs dfs -cat` tells of a missing file only by its exit status.
    """

    def __init__(
        self,
        file: Any,
        ended: Callable[[], object] = unstoppable,
        read: Callable[[int], bytes] | None = None,
    ) -> None:
        self._file, self._ended = file, ended
        self._read = read or getattr(file, "read1", file.read)  # paramiko has only read
        self._is_new = True

    def read1(self, size: int, /) -> bytes:
        """As `Readable`."""
        try:
            block: bytes = self._read(size)
        except OSError as error:
            if self._is_new and str(error).startswith("HDFS read command failed"):
                raise FileNotFoundError(f"{error}, see its words in the log") from error
            raise
        if not block and size:
            self._ended()
        self._is_new = False
        return block

    def close(self) -> None:
        """As `Readable`."""
        self._file.close()


def _shut(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
