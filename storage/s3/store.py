"""`s3://` and `obs://`: AWS S3, Huawei OBS and other stores of their protocol, through boto3.

botocore retries only the parts of an upload, so that one part does not cost the whole file; whole
operations are retried here, because botocore does not retry a read that breaks in the middle of a
body. A store that has never answered is retried only where outages are waited for
(storage/retry.py): otherwise its endpoint is taken to be wrong.
"""

import io
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from boto3.s3.transfer import TransferConfig

from storage.config import StoreConfig, sdk_endpoint, settings_name
from storage.credentials import find_keys
from storage.downloads import BlockDownload, Body, stopper
from storage.errors import (
    ChangedObject,
    MissingObject,
    StoreError,
    StoreUnavailable,
    WrongAnswer,
)
from storage.files import file_errors, write_blocks
from storage.retry import retried
from storage.s3.client import S3Clients
from storage.s3.errors import S3Errors
from storage.s3.obs import check_obs, is_obs
from storage.s3.refusals import NOT_S3, PATH_REFUSED, RANGE_IGNORED
from storage.store import Download, ObjectInfo, in_key_order, whole_part
from storage.uris import checked_key, join, split_uri

_MULTIPART_BYTES = 32 << 20
_TRANSFER = TransferConfig(
    multipart_threshold=_MULTIPART_BYTES,
    multipart_chunksize=16 << 20,
    max_concurrency=4,
    preferred_transfer_client="classic",  # the CRT client ignores endpoint_url
)
_READ_BYTES = 1 << 20
_UPLOAD_ATTEMPTS = 2
_Result = TypeVar("_Result")


class S3Store:
    """`Store` over a bucket and a prefix. One client a process, made on its first use."""

    def __init__(
        self,
        uri: str,
        config: StoreConfig,
        environment: Mapping[str, str],
        name: str | None = None,
    ) -> None:
        """`name`: the settings' name in messages, as `stores.s3`."""
        self.config = config
        self.scheme, rest = split_uri(uri)
        self.name = name or settings_name(self.scheme)
        self.bucket, _, self.prefix = rest.rstrip("/").partition("/")
        if not self.bucket:
            raise StoreError(f"{uri}: expected {self.scheme}://BUCKET/PREFIX, got no bucket")
        self.uri = join(f"{self.scheme}://{self.bucket}", self.prefix)
        if self.prefix:
            checked_key(self.prefix, f"{self.scheme}://{self.bucket}")
        if config.endpoint_url is None:
            sdk_endpoint(environment)
        addressing = config.addressing
        if is_obs(self.scheme, config):
            check_obs(self.uri, self.bucket, config, self.name)
            addressing = "virtual" if addressing == "auto" else addressing
        self.clients = S3Clients(config, addressing, find_keys(self.name, config, environment))
        self.errors = S3Errors(self.bucket, self.name, self.clients)

    def get(self, key: str) -> bytes:
        """The whole object; a body that ends early is fetched again."""
        return self._body(key)

    def get_range(self, key: str, offset_bytes: int, length_bytes: int) -> bytes:
        """Exactly `length_bytes` (>= 1) from `offset_bytes`."""
        assert offset_bytes >= 0 and length_bytes >= 1, (offset_bytes, length_bytes)
        data = self._body(key, Range=f"bytes={offset_bytes}-{offset_bytes + length_bytes - 1}")
        return whole_part(data, join(self.uri, key), offset_bytes, length_bytes)

    def get_file(self, key: str, path: Path) -> None:
        """Download to `path`, atomically."""
        where = self._where(key)

        def copied(client: Any) -> None:
            write_blocks(path, self._opened(client, where).iter_chunks(_READ_BYTES))

        self._tried(key, copied)

    def download(
        self, key: str, offset_bytes: int = 0, length_bytes: int | None = None
    ) -> Download:
        """One request for the object from an offset on, or for a part of it."""
        where = self._where(key)
        uri = join(self.uri, key)

        def opened() -> Body:
            return self._body_from(uri, where, offset_bytes, length_bytes)

        return BlockDownload(uri, offset_bytes, opened, length_bytes)

    def put(self, key: str, data: bytes) -> None:
        """Write the whole object: in one request, or in parts from 32 MiB on."""
        where = self._where(key)
        if len(data) < _MULTIPART_BYTES:
            self._written(key, lambda client: client.put_object(Body=data, **where))
        else:
            self._upload(key, lambda: io.BytesIO(data))

    def swap(self, key: str, old: bytes | None, new: bytes) -> bool:
        """Write `new` where the object still is `old` (None: where there is none); whether it did.

        A store that knows no conditional writes ignores or refuses the condition: a plain write.
        """
        where, condition = self._where(key), {"IfNoneMatch": "*"}
        try:
            if old is not None:
                found, tag = self._tried(key, lambda client: self._tagged(client, where))
                if found != old:
                    return False
                condition = {"IfMatch": tag}
            self._tried(key, lambda client: client.put_object(Body=new, **where, **condition))
        except StoreUnavailable:
            raise
        except StoreError as error:
            gone = old is not None and isinstance(error, MissingObject)
            if gone or isinstance(error, ChangedObject):
                return False
            self.put(key, new)  # raises where the reason is another
        return True

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
        return iter(in_key_order(found))

    def exists(self, key: str) -> bool:
        """Return whether there is an object with exactly this key."""
        where = self._where(key)
        try:
            self._tried(key, lambda client: client.head_object(**where))
        except MissingObject:
            return False
        return True

    def md5(self, key: str) -> str | None:
        """The object's ETag, where it is an MD5: not of uploads in parts, nor of objects that are
        encrypted with keys of KMS or of a customer."""
        where = self._where(key)
        head = self._tried(key, lambda client: client.head_object(**where))
        kept = head.get("ServerSideEncryption", "AES256") == "AES256"
        kept = kept and "SSECustomerAlgorithm" not in head
        tag = str(head.get("ETag", "")).strip('"')
        return tag if kept and re.fullmatch(r"[0-9a-f]{32}", tag) else None

    def delete(self, key: str) -> None:
        """Remove one object; nothing happens where there is none."""
        where = self._where(key)
        self._tried(key, lambda client: client.delete_object(**where))

    def _where(self, key: str) -> dict[str, str]:
        checked_key(key, self.uri)
        return {"Bucket": self.bucket, "Key": f"{self.prefix}/{key}" if self.prefix else key}

    def _body_from(
        self, uri: str, where: Mapping[str, str], offset_bytes: int, length_bytes: int | None
    ) -> Body:
        last = "" if length_bytes is None else offset_bytes + length_bytes - 1
        part = bool(offset_bytes) or length_bytes is not None
        request = {**where, "Range": f"bytes={offset_bytes}-{last}"} if part else where
        with self.errors.client(uri) as client:
            answer = client.get_object(**request)
        self.errors.worked()
        raw = answer["Body"].__enter__()  # the answer of urllib3 itself
        found = answer.get("ContentRange", "the whole object")
        if offset_bytes and not found.startswith(f"bytes {offset_bytes}-"):
            raw.close()
            raise self.errors.explained(uri, RANGE_IGNORED, offset=offset_bytes, found=found)
        return Body(raw, stopper(raw), answer.get("ContentLength"))

    def _opened(self, client: Any, request: Mapping[str, str]) -> Any:
        body = client.get_object(**request)["Body"]
        self.errors.worked()
        return body

    def _tagged(self, client: Any, where: Mapping[str, str]) -> tuple[bytes, str]:
        answer = client.get_object(**where)
        return answer["Body"].read(), answer["ETag"]

    def _body(self, key: str, **extra: str) -> bytes:
        request = self._where(key) | extra
        return self._tried(key, lambda client: self._opened(client, request).read())

    def _upload(self, key: str, opened: Callable[[], BinaryIO]) -> None:
        where = self._where(key)

        def upload(client: Any) -> None:
            with opened() as file:
                client.upload_fileobj(file, Config=_TRANSFER, **where)

        self._written(key, upload, _UPLOAD_ATTEMPTS)

    def _written(self, key: str, operation: Callable[[Any], object], attempts: int = 1) -> None:
        try:
            self._tried(key, operation, attempts)
        except MissingObject as error:  # OBS, where the bucket stands in the path
            raise self.errors.explained(join(self.uri, key), PATH_REFUSED) from error

    def _pages(self, prefix: str) -> Iterator[dict[str, Any]]:
        request = {"Bucket": self.bucket, "Prefix": prefix}
        while True:
            page = self._tried("", lambda client: self._page(client, request))
            yield page
            if not page.get("IsTruncated"):
                return
            request["ContinuationToken"] = page["NextContinuationToken"]

    def _page(self, client: Any, request: Mapping[str, str]) -> dict[str, Any]:
        page: dict[str, Any] = client.list_objects_v2(**request)
        if not page.keys() & {"Name", "KeyCount", "Contents"}:  # an empty body is no empty list
            raise self.errors.explained(self.uri, NOT_S3, WrongAnswer)
        return page

    def _tried(self, key: str, operation: Callable[[Any], _Result], attempts: int = 1) -> _Result:
        """Retried while the store is unavailable; `attempts` are botocore's own, inside of one."""

        def once() -> _Result:
            with self.errors.client(join(self.uri, key), attempts) as client:
                result = operation(client)
            self.errors.worked()
            return result

        return retried(once, self.config.max_attempts)
