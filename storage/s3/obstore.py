"""Downloads by obstore (Rust) where `stores` ask for them: `downloads: obstore`.

It saves nothing here (docs/stores.md). It hangs in a process that was forked after its first use,
which goes on with boto3. It takes its keys from boto3's session, which refreshes them.
"""

import asyncio
import os
import threading
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

from storage.downloads import Body
from storage.errors import StoreError
from storage.s3.client import S3Clients

_KEYS_LAST = timedelta(minutes=1)


class ObstoreBodies:
    """Opens objects of one bucket."""

    first_pid: int | None = None
    """The process that used obstore first; its threads do not live in forked ones."""

    def __init__(self, bucket: str, clients: S3Clients, name: str) -> None:
        self.bucket, self.clients, self.name = bucket, clients, name
        self._store: Any = None

    @classmethod
    def usable_here(cls) -> bool:
        """Whether this process is not forked from one that used obstore."""
        return cls.first_pid in (None, os.getpid())

    def opened(self, path: str, offset_bytes: int, length_bytes: int | None) -> Body:
        """The object from an offset on, or a part of it.

        Raises `StoreError` where obstore is not installed, and `OSError` for every failure: obstore
        does not tell them apart.
        """
        try:
            import obstore
        except ImportError as error:
            raise StoreError(
                f"{self.name}.downloads: obstore is not installed: pip install obstore, or leave "
                "the key out"
            ) from error
        ObstoreBodies.first_pid = os.getpid()
        self._store = self._store or self._made()
        options: Any = {"range": {"offset": offset_bytes}} if offset_bytes else {}
        if length_bytes is not None:
            options = {"range": (offset_bytes, offset_bytes + length_bytes)}
        try:
            stream = _Stream(obstore.get(self._store, path, options=options).stream(1))
        except obstore.exceptions.BaseError as error:
            raise OSError(str(error).partition("\n")[0]) from error
        return Body(stream, stream.stop)

    def _made(self) -> Any:
        from obstore.store import S3Store

        client, config = self.clients.get(), self.clients.config
        virtual = self.clients.addressing == "virtual"
        host = f"://{self.bucket}." if virtual else "://"
        timeouts = {
            "connect_timeout": timedelta(seconds=config.connect_timeout_s),
            "read_timeout": timedelta(seconds=config.read_timeout_s),
        }
        return S3Store(
            self.bucket,
            endpoint=str(client.meta.endpoint_url).replace("://", host, 1),
            region=client.meta.region_name,
            virtual_hosted_style_request=virtual,
            credential_provider=self._keys,
            retry_config={"max_retries": 0},
            client_options={"allow_http": True, **timeouts},
        )

    def _keys(self) -> Any:
        credentials: Any = self.clients.session().get_credentials()  # boto3 has answered with them
        found = credentials.get_frozen_credentials()
        return {
            "access_key_id": found.access_key,
            "secret_access_key": found.secret_key,
            "token": found.token,
            "expires_at": datetime.now(UTC) + _KEYS_LAST,
        }


class _Stream:
    """obstore's stream as `Readable`, awaited so that another thread can stop it."""

    def __init__(self, stream: Any) -> None:
        self._stream = aiter(stream)
        self._loop = asyncio.new_event_loop()
        self._task: asyncio.Task[bytes] | None = None
        self._stopped = False
        self._lock = threading.Lock()

    def read1(self, _size: int, /) -> bytes:
        """What has arrived."""
        from obstore.exceptions import BaseError

        with self._lock:
            self._task = self._loop.create_task(self._next())
            if self._stopped:
                self._task.cancel()
        try:
            return self._loop.run_until_complete(self._task)
        except BaseError as error:
            raise OSError(str(error).partition("\n")[0]) from error
        except asyncio.CancelledError:
            raise OSError("stopped") from None

    def close(self) -> None:
        """Give up what is left."""
        with self._lock:
            self._stopped = True
            del self._stream
            self._loop.close()

    def stop(self) -> None:
        """Make `read1` fail, also one that waits."""
        with self._lock, suppress(RuntimeError):  # it was closed just now
            self._stopped = True
            if self._task is not None:
                self._loop.call_soon_threadsafe(self._task.cancel)

    async def _next(self) -> bytes:
        return bytes(await anext(self._stream, b""))
