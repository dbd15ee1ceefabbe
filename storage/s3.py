"""`s3://` and `obs://`: AWS S3, Huawei OBS and whatever else speaks their protocol, through boto3.

botocore repeats a failed request once (so that one part of a multipart upload does not cost the
whole file); whole operations are repeated here, because botocore does not repeat a read that breaks
in the middle of a body. A store that has never answered is not asked again: then the endpoint is
wrong, and waiting does not mend it.
"""

import io
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import boto3
from boto3.exceptions import Boto3Error
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    CredentialRetrievalError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
)

from storage.local import atomic_file, file_errors
from storage.s3_answers import ABSENT, CURES, PATH_REFUSED, TRANSIENT, find_keys
from storage.store import (
    MissingObject,
    ObjectInfo,
    ShortObject,
    StoreConfig,
    StoreError,
    StoreUnavailable,
    checked_key,
    join,
    retried,
    split_uri,
)

_MULTIPART_BYTES = 32 << 20
_TRANSFER = TransferConfig(
    multipart_threshold=_MULTIPART_BYTES,
    multipart_chunksize=16 << 20,
    max_concurrency=4,
    preferred_transfer_client="classic",  # the CRT client ignores endpoint_url
)
_READ_BYTES = 1 << 20
_CONNECTIONS = 32
_Result = TypeVar("_Result")


class S3Store:
    """`Store` over a bucket and a prefix. One client a process, made on its first use."""

    def __init__(self, uri: str, config: StoreConfig, environment: Mapping[str, str]) -> None:
        self.config = config
        self.scheme, rest = split_uri(uri)
        self.bucket, _, self.prefix = rest.rstrip("/").partition("/")
        if not self.bucket:
            raise StoreError(f"{uri}: expected {self.scheme}://BUCKET/PREFIX")
        self.uri = join(f"{self.scheme}://{self.bucket}", self.prefix)
        if self.prefix:
            checked_key(self.prefix, f"{self.scheme}://{self.bucket}")
        if self.scheme == "obs":
            self._check_obs()
        self._keys = find_keys(self.scheme, config, environment)
        self._clients: dict[int, Any] = {}
        self._locks: dict[int, threading.Lock] = {}
        self._answered = False

    def get(self, key: str) -> bytes:
        """The whole object; a body that ends early is fetched again."""
        return self._body(key)

    def get_range(self, key: str, offset_bytes: int, length_bytes: int) -> bytes:
        """Exactly `length_bytes` (>= 1) from `offset_bytes`."""
        assert offset_bytes >= 0 and length_bytes >= 1, (offset_bytes, length_bytes)
        data = self._body(key, Range=f"bytes={offset_bytes}-{offset_bytes + length_bytes - 1}")
        if len(data) != length_bytes:
            raise StoreError(
                f"{join(self.uri, key)}: the object is shorter than asked: {length_bytes} bytes at "
                f"{offset_bytes} asked, {len(data)} there"
            )
        return data

    def get_file(self, key: str, path: Path) -> None:
        """Download to `path`, atomically."""
        where = self._where(key)

        def download(client: Any) -> None:
            body = self._opened(client, where)
            with file_errors(path), atomic_file(path) as file:
                for block in body.iter_chunks(_READ_BYTES):
                    file.write(block)

        self._tried(key, download)

    def download(self, key: str, offset_bytes: int = 0) -> "S3Download":
        """One request for the object from an offset on."""
        return S3Download(self, key, offset_bytes)

    def put(self, key: str, data: bytes) -> None:
        """Write the whole object: in one request, or in parts from 32 MiB on."""
        where = self._where(key)
        if len(data) < _MULTIPART_BYTES:
            self._written(key, lambda client: client.put_object(Body=data, **where))
        else:
            self._upload(key, lambda: io.BytesIO(data))

    def put_file(self, key: str, path: Path) -> None:
        """Upload a local file, in parts from 32 MiB on."""
        with file_errors(path):
            self._upload(key, lambda: path.open("rb"))

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Objects whose key starts with `prefix`; sorted, as not every store answers in order."""
        if "/" in prefix:
            checked_key(prefix.rpartition("/")[0], self.uri)
        root = f"{self.prefix}/" if self.prefix else ""
        found = [
            ObjectInfo(entry["Key"][len(root) :], entry["Size"])
            for page in self._pages(root + prefix)
            for entry in page.get("Contents", ())
            if not entry["Key"].endswith("/")  # consoles make such objects to show empty folders
        ]
        return iter(sorted(found, key=lambda info: info.key.encode()))

    def exists(self, key: str) -> bool:
        """Whether there is an object with exactly this key."""
        where = self._where(key)
        try:
            self._tried(key, lambda client: client.head_object(**where))
        except MissingObject:
            return False
        return True

    def delete(self, key: str) -> None:
        """Remove one object; nothing happens where there is none."""
        where = self._where(key)
        self._tried(key, lambda client: client.delete_object(**where))

    def _where(self, key: str) -> dict[str, str]:
        checked_key(key, self.uri)
        return {"Bucket": self.bucket, "Key": f"{self.prefix}/{key}" if self.prefix else key}

    def _opened(self, client: Any, request: Mapping[str, str]) -> Any:
        body = client.get_object(**request)["Body"]
        self._answered = True
        return body

    def _body(self, key: str, **extra: str) -> bytes:
        request = self._where(key) | extra
        return self._tried(key, lambda client: self._opened(client, request).read())

    def _upload(self, key: str, opened: Callable[[], BinaryIO]) -> None:
        where = self._where(key)

        def upload(client: Any) -> None:
            with opened() as file:
                client.upload_fileobj(file, Config=_TRANSFER, **where)

        self._written(key, upload)

    def _written(self, key: str, operation: Callable[[Any], object]) -> None:
        try:
            self._tried(key, operation)
        except MissingObject as error:  # OBS, where the bucket stands in the path
            raise StoreError(f"{join(self.uri, key)}: {self._filled(PATH_REFUSED)}") from error

    def _pages(self, prefix: str) -> Iterator[dict[str, Any]]:
        request = {"Bucket": self.bucket, "Prefix": prefix}
        while True:
            page = self._tried("", lambda client: client.list_objects_v2(**request))
            yield page
            if not page.get("IsTruncated"):
                return
            request["ContinuationToken"] = page["NextContinuationToken"]

    def _tried(self, key: str, operation: Callable[[Any], _Result]) -> _Result:
        def once() -> _Result:
            with self._explained(join(self.uri, key)):
                result = operation(self._client())
            self._answered = True
            return result

        return retried(once, self.config.max_attempts)

    @contextmanager
    def _explained(self, uri: str) -> Iterator[None]:
        """Turns what boto3 raises into `StoreError`s that name the URI and the cure."""
        try:
            yield
        except ClientError as error:
            self._answered = True
            raise self._of_answer(uri, error) from error
        except (NoCredentialsError, PartialCredentialsError, CredentialRetrievalError) as error:
            raise StoreError(
                f"{uri}: no credentials ({error}); they are sought in {self._keys.source}"
            ) from error
        except (ConnectionError, HTTPClientError, IncompleteReadError) as error:
            kind = StoreUnavailable if self._answered else StoreError
            raise kind(
                f"{uri}: the store at {self._endpoint()} does not answer or broke off ({error}); "
                f"check stores.{self.scheme}.endpoint_url and the network"
            ) from error
        except (BotoCoreError, Boto3Error) as error:
            raise StoreError(f"{uri}: {error}") from error

    def _of_answer(self, uri: str, error: ClientError) -> StoreError:
        code = str(error.response.get("Error", {}).get("Code", ""))
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        if code in ABSENT:
            if self._bucket_is_there():
                return MissingObject(f"{uri}: there is no such object")
            code = "NoSuchBucket"
        if code == "InvalidRange":
            return ShortObject(f"{uri}: {CURES[code]}")
        if code in CURES:
            return StoreError(f"{uri}: {self._filled(CURES[code])} ({code})")
        if code in TRANSIENT or status >= 500 or status == 429:
            return StoreUnavailable(f"{uri}: the store at {self._endpoint()} fails: {error}")
        return StoreError(f"{uri}: the store at {self._endpoint()} refuses: {error}")

    def _bucket_is_there(self) -> bool:
        """Whether the object alone is missing; an answer to HEAD does not tell which."""
        try:
            self._client().head_bucket(Bucket=self.bucket)
        except ClientError as error:
            return str(error.response["Error"]["Code"]) not in ("404", "NoSuchBucket")
        except BotoCoreError:
            return True  # the store went away just now; the object was missing before
        return True

    def _filled(self, cure: str) -> str:
        return cure.format(
            bucket=self.bucket,
            scheme=self.scheme,
            endpoint=self._endpoint(),
            credentials=self._keys.source,
        )

    def _endpoint(self) -> str:
        return str(self._client().meta.endpoint_url)

    def _client(self) -> Any:
        pid = os.getpid()
        with self._locks.setdefault(pid, threading.Lock()):
            if pid not in self._clients:
                self._clients[pid] = self._connected()
            return self._clients[pid]

    def _connected(self) -> Any:
        auto = "virtual" if self.scheme == "obs" else "auto"
        addressing = auto if self.config.addressing == "auto" else self.config.addressing
        keys = self._keys
        session = boto3.session.Session(keys.access_key, keys.secret_key, keys.session_token)
        config = Config(
            signature_version="s3v4",
            s3={"addressing_style": addressing},  # type: ignore[arg-type]  # literals
            request_checksum_calculation=self.config.checksums,
            response_checksum_validation=self.config.checksums,
            connect_timeout=self.config.connect_timeout_s,
            read_timeout=self.config.read_timeout_s,
            retries={"mode": "standard", "total_max_attempts": min(2, self.config.max_attempts)},
            max_pool_connections=_CONNECTIONS,
        )
        return session.client(
            "s3",
            region_name=self.config.region,
            endpoint_url=self.config.endpoint_url,
            config=config,
        )

    def _check_obs(self) -> None:
        if "." in self.bucket:
            raise StoreError(
                f"{self.uri}: obs needs the bucket in the host name, where {self.bucket!r} breaks "
                "https; use a bucket without dots"
            )
        if self.config.endpoint_url is None:
            raise StoreError(
                f"{self.uri}: stores.obs.endpoint_url is missing; expected "
                "https://obs.REGION.myhuaweicloud.com"
            )


class S3Download:
    """`Download` of one object by one GET."""

    def __init__(self, store: S3Store, key: str, offset_bytes: int) -> None:
        self._store, self._offset_bytes = store, offset_bytes
        self._request = store._where(key)
        self._uri = join(store.uri, key)
        self._body: Any = None
        self._cancelled = False

    def __iter__(self) -> Iterator[bytes]:
        with self._store._explained(self._uri):
            request = self._request
            if self._offset_bytes:
                request = request | {"Range": f"bytes={self._offset_bytes}-"}
            self._body = self._store._opened(self._store._client(), request)._raw_stream
            while not self._cancelled and (block := self._body.read1(_READ_BYTES)):
                yield block
        if self._cancelled:
            raise StoreUnavailable(f"{self._uri}: cancelled")

    def cancel(self) -> None:
        """Close the connection, which wakes the reader."""
        self._cancelled = True
        if self._body is not None:
            self._body.shutdown()
