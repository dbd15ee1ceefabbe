"""`https://` and `http://`: files of a web server, for reading, through smart_open.

smart_open's own reader of web answers waits for full blocks and requests an offset twice; so the
answer below it is read, which the Range header makes begin at the offset. Users, passwords and
signatures of a URI (`https://user:password@host/data?sig=...`) go into requests and never into
messages.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from typing import Any, BinaryIO, NamedTuple, NoReturn

import requests
import smart_open
from urllib3.exceptions import HTTPError

from storage.clients import PerProcess
from storage.config import StoreConfig
from storage.downloads import Body, Readable
from storage.errors import MissingObject, ShortObject, StoreError
from storage.http_answers import Failures, body_of, range_header, timeouts_s
from storage.remote import RemoteStore
from storage.smart_open.uri import find_target


class WebBucket:
    """`Bucket` over a folder of a web server; it opens objects and refuses the rest."""

    def __init__(
        self, uri: str, config: StoreConfig, environment: Mapping[str, str], name: str
    ) -> None:
        self._target = find_target(uri, config, environment, name)
        self.uri = self._target.uri
        self._timeout_s = timeouts_s(config)
        self._failures = Failures(
            name,
            f"{name}.access_key_env and .secret_key_env (user and password), ~/.netrc, or the URI",
        )
        self._sessions = PerProcess(requests.Session)

    def shown(self, key: str) -> str:
        """The URI of an object without its query."""
        return self._target.shown(key)

    def opened(self, key: str, offset_bytes: int, length_bytes: int | None) -> Body:
        """One request; a server without ranges is read past the offset."""
        with self._explained(key):
            file: Any = smart_open.open(
                self._target.address(key),
                "rb",
                compression="disable",
                transport_params={
                    "user": self._target.user,
                    "password": self._target.password,
                    "timeout": self._timeout_s,
                    "session": self._sessions.get(),
                    "headers": {"Accept-Encoding": "identity"}
                    | range_header(offset_bytes, length_bytes),
                },
            )
            body = body_of(file.response, self.shown(key), offset_bytes)
            return body._replace(file=_Answer(file, body.file))

    def exists(self, key: str) -> bool:
        """Return whether the object can be opened; not every web server answers HEAD."""
        try:
            self.opened(key, 0, 1).file.close()
        except MissingObject:
            return False
        except ShortObject:  # it is empty
            return True
        return True

    def write(self, key: str, file: BinaryIO, size_bytes: int) -> NoReturn:  # noqa: ARG002
        """Refused."""
        self._refuse(f"{self.shown(key)}: {self._target.scheme} is for reading only")

    def swap(self, key: str, old: bytes | None, new: bytes) -> NoReturn:  # noqa: ARG002
        """Nothing is written over HTTP."""
        self.write(key, BytesIO(new), len(new))

    def list(self, prefix: str) -> NoReturn:  # noqa: ARG002
        """Refused: web servers know no standard way."""
        raise StoreError(
            f"{self.uri}: objects cannot be listed over {self._target.scheme}",
            fix="name a file, or a checkpoint's folder; or use file, s3, obs, gs or az",
        )

    def md5(self, key: str) -> None:
        """None: web servers keep none."""

    def delete(self, key: str) -> NoReturn:  # noqa: ARG002
        """Refused."""
        self._refuse(f"{self.uri}: objects cannot be deleted over {self._target.scheme}")

    def _refuse(self, problem: str) -> NoReturn:
        raise StoreError(problem, fix="use file, s3, obs, gs or az")

    @contextmanager
    def _explained(self, key: str) -> Iterator[None]:
        """Turn what requests raises inside into a `StoreError`. The causes are cut off: they
        contain whole URIs."""
        uri = self.shown(key)
        try:
            yield
        except requests.HTTPError as error:
            assert error.response is not None  # raise_for_status, which alone raises it, sets it
            raise self._of_status(key, error.response.status_code) from None
        except (OSError, HTTPError, ValueError) as error:
            reason = self._target.hidden(f"{type(error).__name__}: {error}", key)
            raise self._failures.of_silence(uri, error, reason) from None
        self._failures.answered = True

    def _of_status(self, key: str, status: int) -> StoreError:
        error = self._failures.of_status(self.shown(key), status, f"status {status}")
        if isinstance(error, MissingObject) and "%" in key:
            return MissingObject(error.problem, fix="take names literally: write %20 as a space")
        return error


class _Answer(NamedTuple):
    """An answer, and smart_open's file, which would end it when nothing refers to it."""

    owner: Any
    file: Readable

    def read1(self, size: int, /) -> bytes:
        """As `Readable`."""
        return self.file.read1(size)

    def close(self) -> None:
        """As `Readable`."""
        self.owner.close()


def open_web(
    uri: str, config: StoreConfig, environment: Mapping[str, str], name: str
) -> RemoteStore:
    """The store at `https://HOST/PATH`."""
    return RemoteStore(WebBucket(uri, config, environment, name), config.max_attempts)
