"""`az://CONTAINER/PREFIX`: Azure Blob Storage, through azure-storage-blob.

Reads are streamed requests to addresses that the SDK signs, so that a stalled one is noticed and
cancelled; the SDK's own readers return whole chunks. A blob appears when its blocks are committed.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO

from azure.core import MatchConditions
from azure.core.exceptions import (
    AzureError,
    DeserializationError,
    HttpResponseError,
    IncompleteReadError,
)
from urllib3.exceptions import HTTPError

from storage.az.client import ONE_REQUEST_BYTES, AzClient, connected, credentials_of
from storage.clients import PerProcess
from storage.config import StoreConfig
from storage.downloads import Body
from storage.errors import MissingObject, StoreError
from storage.http_answers import Failures, body_of, range_header, timeouts_s
from storage.remote import RemoteStore
from storage.store import ObjectInfo
from storage.uris import bucket_and_prefix, join

_UPLOADS = 4
_PART_RETRIES = 2


class AzBucket:
    """`Bucket` over a container of Azure Blob Storage."""

    def __init__(
        self, uri: str, config: StoreConfig, environment: Mapping[str, str], name: str
    ) -> None:
        self.uri, self.container, self._root = bucket_and_prefix(uri, "CONTAINER")
        self._timeout_s = timeouts_s(config)
        self._failures = Failures(name, credentials_of(name, config))
        self._clients = PerProcess(lambda: connected(config, environment, name))

    def shown(self, key: str) -> str:
        """The URI of an object."""
        return join(self.uri, key)

    def opened(self, key: str, offset_bytes: int, length_bytes: int | None) -> Body:
        """One request by a signed address."""
        with self._explained(key) as client:
            answer = client.session.get(
                client.signed(self.container, self._root + key),
                headers={"Accept-Encoding": "identity", **range_header(offset_bytes, length_bytes)},
                stream=True,
                timeout=self._timeout_s,
            )
            if answer.ok:
                return body_of(answer, self.shown(key), offset_bytes)
        answer.close()
        code = answer.headers.get("x-ms-error-code", answer.reason)
        raise self._refusal(key, answer.status_code, code)

    def write(self, key: str, file: BinaryIO, size_bytes: int) -> None:
        """One request, or blocks of 16 MiB from 32 MiB on, of which four are on their way."""
        with self._explained(key) as client:
            blob = client.sdk.get_blob_client(self.container, self._root + key)
            blob.upload_blob(
                file,
                length=size_bytes,
                overwrite=True,
                max_concurrency=_UPLOADS,
                retry_total=_PART_RETRIES if size_bytes > ONE_REQUEST_BYTES else 0,
            )

    def swap(self, key: str, old: bytes | None, new: bytes) -> bool:
        """One request for the blob as it is, and one on condition of its tag."""
        with self._explained(key) as client:
            blob = client.sdk.get_blob_client(self.container, self._root + key)
            condition: dict[str, Any] = {}
            if old is not None:
                found = blob.download_blob()
                if found.readall() != old:
                    return False
                condition = {"etag": found.properties.etag}
                condition["match_condition"] = MatchConditions.IfNotModified
            blob.upload_blob(new, overwrite=old is not None, retry_total=0, **condition)
        return True

    def list(self, prefix: str) -> Iterable[ObjectInfo]:
        """All pages."""
        with self._explained("") as client:
            container = client.sdk.get_container_client(self.container)
            for blob in container.list_blobs(name_starts_with=self._root + prefix):
                if not blob.name.endswith("/"):
                    yield ObjectInfo(blob.name[len(self._root) :], blob.size)

    def exists(self, key: str) -> bool:
        """One request for the blob's properties."""
        with suppress(MissingObject), self._explained(key) as client:
            client.sdk.get_blob_client(self.container, self._root + key).get_blob_properties()
            return True
        return False

    def md5(self, key: str) -> str | None:
        """One request for the blob's properties; blobs in blocks have none."""
        with self._explained(key) as client:
            blob = client.sdk.get_blob_client(self.container, self._root + key)
            found = blob.get_blob_properties().content_settings.content_md5
            return bytes(found).hex() if found else None

    def delete(self, key: str) -> None:
        """One request."""
        with suppress(MissingObject), self._explained(key) as client:
            client.sdk.get_blob_client(self.container, self._root + key).delete_blob()

    @contextmanager
    def _explained(self, key: str) -> Iterator[AzClient]:
        """The client; what the SDK raises inside comes out as a `StoreError`. The causes are cut
        off: they contain signed addresses."""
        try:
            yield self._clients.get()
        except IncompleteReadError as error:  # an answer that was cut
            reason = _without_query(f"{type(error).__name__}: {error}")
            raise self._failures.of_silence(self.shown(key), error, reason) from None
        except HttpResponseError as error:
            if error.status_code is None:  # of the SDK itself, as it signs
                raise self._failures.unusable(self.shown(key), type(error).__name__) from None
            code = getattr(error, "error_code", None) or error.reason or ""
            code = str(
                getattr(code, "value", code)
            )  # the SDK's enumeration, of codes that it knows
            raise self._refusal(key, error.status_code, code) from None
        except DeserializationError:
            raise self._failures.no_answer(self.shown(key)) from None
        except (AzureError, OSError, HTTPError) as error:  # requests' are `OSError`s
            reason = _without_query(f"{type(error).__name__}: {error}")
            raise self._failures.of_silence(self.shown(key), error, reason) from None
        except ValueError as error:  # a key that is no base64, an address that is none
            raise self._failures.unusable(self.shown(key), type(error).__name__) from None
        self._failures.answered = True

    def _refusal(self, key: str, status: int, code: str) -> StoreError:
        self._failures.answered = True
        if code == "ContainerNotFound":
            return StoreError(
                f"{self.shown(key)}: there is no container {self.container!r}",
                fix=f"check the URI and {self._failures.name}, or create the container",
            )
        return self._failures.of_status(self.shown(key), status, f"{status} {code}")


def _without_query(text: str) -> str:
    return re.sub(r"\?[^\s'\"()]*", "", text)


def open_az(
    uri: str, config: StoreConfig, environment: Mapping[str, str], name: str
) -> RemoteStore:
    """The store at `az://CONTAINER/PREFIX`."""
    return RemoteStore(AzBucket(uri, config, environment, name), config.max_attempts)
