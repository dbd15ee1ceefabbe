"""`gs://BUCKET/PREFIX`: Google Cloud Storage, through google-cloud-storage.

Reads are streamed requests of the SDK's signed session, so that a stalled one is noticed and
cancelled; the SDK's own readers return whole chunks. An object appears when its upload is complete.
"""

from base64 import b64decode
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO
from urllib.parse import quote

import requests
from google.api_core.exceptions import GoogleAPICallError, from_http_response
from google.cloud.storage.retry import DEFAULT_RETRY

from storage.clients import PerProcess
from storage.config import StoreConfig
from storage.downloads import Body
from storage.errors import MissingObject, StoreError
from storage.gs.client import CREDENTIALS, FAILURES, GsClient, connected
from storage.http_answers import Failures, body_of, range_header, timeouts_s
from storage.remote import RemoteStore
from storage.store import ObjectInfo
from storage.uris import bucket_and_prefix, join

_PART_BYTES = 16 << 20
_ONE_REQUEST_BYTES = 32 << 20
_PARTS_RETRY = DEFAULT_RETRY.with_timeout(30.0)  # so that one part does not cost the whole file


class GsBucket:
    """`Bucket` of Google Cloud Storage."""

    def __init__(self, uri: str, config: StoreConfig, name: str) -> None:
        self.uri, self.bucket, self._root = bucket_and_prefix(uri)
        self._timeout_s = timeouts_s(config)
        self._failures = Failures(name, CREDENTIALS)
        self._clients = PerProcess(lambda: connected(config))

    def shown(self, key: str) -> str:
        """The URI of an object."""
        return join(self.uri, key)

    def opened(self, key: str, offset_bytes: int, length_bytes: int | None) -> Body:
        """One request by the address of the JSON API's media."""
        headers = {"Accept-Encoding": "gzip", **range_header(offset_bytes, length_bytes)}
        with self._explained(key) as client:
            address = f"{client.endpoint}/download/storage/v1/b/{self.bucket}/o/"
            answer = client.session.get(
                f"{address}{quote(self._root + key, safe='')}?alt=media",
                headers=headers,  # gzip: bytes as they are stored, whatever their encoding
                stream=True,
                timeout=self._timeout_s,
            )
            if not answer.ok:
                raise from_http_response(answer)
            return body_of(answer, self.shown(key), offset_bytes)

    def write(self, key: str, file: BinaryIO, size_bytes: int) -> None:
        """One request, or parts of 16 MiB from 32 MiB on; the service compares a CRC-32C."""
        parts = size_bytes >= _ONE_REQUEST_BYTES
        with self._explained(key) as client:
            bucket = client.sdk.bucket(self.bucket)
            blob = bucket.blob(self._root + key, chunk_size=_PART_BYTES if parts else None)
            blob.upload_from_file(
                file,
                size=size_bytes,
                content_type="application/octet-stream",
                timeout=self._timeout_s,
                retry=_PARTS_RETRY if parts else None,
            )

    def swap(self, key: str, old: bytes | None, new: bytes) -> bool:
        """Two requests for the object as it is, and one on condition of its generation."""
        with self._explained(key) as client:
            blob, generation = client.sdk.bucket(self.bucket).blob(self._root + key), 0
            if old is not None:
                blob.reload(timeout=self._timeout_s, retry=None)
                generation = blob.generation
                found = blob.download_as_bytes(
                    if_generation_match=generation, timeout=self._timeout_s, retry=None
                )
                if found != old:
                    return False
            blob.upload_from_string(
                new,
                content_type="application/octet-stream",
                if_generation_match=generation,
                timeout=self._timeout_s,
                retry=None,
            )
        return True

    def list(self, prefix: str) -> Iterable[ObjectInfo]:
        """All pages."""
        with self._explained("") as client:
            blobs = client.sdk.list_blobs(
                self.bucket,
                prefix=self._root + prefix,
                fields="items(name,size),nextPageToken",
                timeout=self._timeout_s,
                retry=None,
            )
            for blob in blobs:
                if not blob.name.endswith("/"):  # consoles make such objects for empty folders
                    yield ObjectInfo(blob.name[len(self._root) :], blob.size)

    def exists(self, key: str) -> bool:
        """One request for the object's properties."""
        with suppress(MissingObject), self._explained(key) as client:
            blob = client.sdk.bucket(self.bucket).blob(self._root + key)
            blob.reload(timeout=self._timeout_s, retry=None)
            return True
        return False

    def md5(self, key: str) -> str | None:
        """One request for the object's properties; composed objects have none."""
        with self._explained(key) as client:
            blob = client.sdk.bucket(self.bucket).blob(self._root + key)
            blob.reload(timeout=self._timeout_s, retry=None)
            return b64decode(blob.md5_hash).hex() if blob.md5_hash else None

    def delete(self, key: str) -> None:
        """One request."""
        with suppress(MissingObject), self._explained(key) as client:
            blob = client.sdk.bucket(self.bucket).blob(self._root + key)
            blob.delete(timeout=self._timeout_s, retry=None)

    @contextmanager
    def _explained(self, key: str) -> Iterator[GsClient]:
        """The client; what the SDK raises inside comes out as a `StoreError`."""
        uri = self.shown(key)
        try:
            yield self._clients.get()
        except GoogleAPICallError as error:
            status = int(error.code or 0)
            if status == 404 and not self._bucket_is_there():
                raise StoreError(
                    f"{uri}: there is no bucket {self.bucket!r}",
                    fix=f"check the URI and {self._failures.name}, or create the bucket",
                ) from error
            raise self._failures.of_status(uri, status, f"{status} {error.message}") from error
        except FAILURES.credentials as error:
            raise self._failures.no_credentials(uri, error) from error
        except FAILURES.silence as error:
            reason = f"{type(error).__name__}: {error}"
            raise self._failures.of_silence(uri, error, reason) from error
        except ValueError as error:  # a key file without a key
            raise self._failures.unusable(uri, f"{type(error).__name__}: {error}") from error
        self._failures.answered = True

    def _bucket_is_there(self) -> bool:
        """Return whether the object alone is missing; not every answer states which."""
        try:
            bucket = self._clients.get().sdk.bucket(self.bucket)
            return bool(bucket.exists(timeout=self._timeout_s, retry=None))
        except (GoogleAPICallError, requests.RequestException):
            return True  # most accounts have no right to ask


def open_gs(uri: str, config: StoreConfig, name: str) -> RemoteStore:
    """The store at `gs://BUCKET/PREFIX`."""
    return RemoteStore(GsBucket(uri, config, name), config.max_attempts)
