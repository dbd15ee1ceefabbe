"""What smart_open and the packages below it raise, as `StoreError`s that name URI and cure."""

import ftplib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from smart_open.webhdfs import WebHdfsException
from urllib3.exceptions import HTTPError

from storage.errors import MissingObject, ShortObject, StoreError, StoreUnavailable
from storage.smart_open.uri import Target

_PACKAGES = {"gs": "gcs", "gcs": "gcs", "az": "azure", "azure": "azure"}
_PACKAGES |= dict.fromkeys(("sftp", "scp", "ssh"), "ssh")
_PACKAGES |= dict.fromkeys(("http", "https", "webhdfs"), "http")
_OPTIONAL = (
    ("google.api_core.exceptions", "GoogleAPIError"),
    ("google.auth.exceptions", "GoogleAuthError"),
    ("google.cloud.storage.exceptions", "InvalidResponse"),
    ("google.cloud.storage.exceptions", "DataCorruption"),
    ("azure.core.exceptions", "AzureError"),
    ("paramiko.ssh_exception", "SSHException"),
)
"""Base classes of packages that need not be installed: who raises them has imported them."""

_REFUSED = (401, 403, 407)
_PASSING = (408, 425, 429)
CREDENTIALS = {
    "http": "{name}.access_key_env and .secret_key_env (user and password), ~/.netrc, or the URI",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS or the machine's service account",
    "az": "AZURE_STORAGE_CONNECTION_STRING",
    "hdfs": "the `hdfs` program's own configuration (kinit)",
    "webhdfs": "the URI (webhdfs://USER@HOST:PORT/...)",
    "sftp": "the URI and ~/.ssh",
}
_LIKE = {"https": "http", "ftp": "http", "ftps": "http", "gcs": "gs", "azure": "az"}
_LIKE |= {"viewfs": "hdfs", "scp": "sftp", "ssh": "sftp"}


@contextmanager
def explained(target: Target, key: str, name: str, answered: bool) -> Iterator[None]:
    """`name` is what messages call the settings; a store that has never `answered` is not asked
    again. The causes are cut off: their texts hold whole URIs."""
    uri = target.shown(key)
    try:
        yield
    except ImportError:
        package = _PACKAGES.get(target.scheme, "all")
        raise StoreError(
            f"{uri}: {target.scheme} needs a package: pip install 'smart_open[{package}]'"
        ) from None
    except _failures() as error:
        status = _status(error)
        reason = target.hidden(f"{type(error).__name__}: {error}", key)
        if status:
            raise _of_status(uri, status, reason, target, key, name) from None
        raise _of_silence(uri, error, reason, name, answered) from None


def _failures() -> tuple[type[Exception], ...]:
    loaded = [
        getattr(sys.modules[module], name) for module, name in _OPTIONAL if module in sys.modules
    ]
    known = (OSError, EOFError, ValueError, HTTPError, ftplib.Error, WebHdfsException)
    return (*known, NotImplementedError, *loaded)


def _status(error: Any) -> int:
    """The HTTP status, or what is like it; 0 where no store has spoken."""
    if isinstance(error, ftplib.Error):
        code = str(error)[:3]
        return {"550": 404, "530": 401}.get(code, 503 if code.startswith("4") else 400)
    places = (getattr(error, "response", None), error)
    found = [getattr(place, field, None) for place in places for field in ("status_code", "code")]
    return next((int(one) for one in found if isinstance(one, int) and 100 <= one < 600), 0)


def _of_status(
    uri: str, status: int, reason: str, target: Target, key: str, name: str
) -> StoreError:
    if status in (404, 410):
        hint = "; names are taken literally: write %20 as a space" if "%" in key else ""
        return MissingObject(f"{uri}: there is no such object; check the URI{hint}")
    if status == 416:
        return ShortObject(f"{uri}: the object is shorter than asked; upload it again")
    if status in _REFUSED:
        source = CREDENTIALS[_LIKE.get(target.scheme, target.scheme)].format(name=name)
        return StoreError(f"{uri}: access denied ({status}); the credentials come from {source}")
    if status >= 500 or status in _PASSING:
        return StoreUnavailable(f"{uri}: the store fails ({reason}); if it goes on, see its log")
    return StoreError(f"{uri}: the store refuses ({reason}); check the URI and {name}")


def _of_silence(uri: str, error: Exception, reason: str, name: str, answered: bool) -> StoreError:
    if isinstance(error, FileNotFoundError) and error.filename == "hdfs":
        return StoreError(f"{uri}: there is no program `hdfs`; install Hadoop's client")
    if isinstance(error, FileNotFoundError):
        return MissingObject(f"{uri}: there is no such object ({error}); check the URI")
    if isinstance(error, ValueError | NotImplementedError):
        return StoreError(f"{uri}: smart_open refuses ({reason}); check the URI")
    kind = StoreUnavailable if answered else StoreError
    return kind(
        f"{uri}: the store does not answer or broke off ({reason}); check the host in the URI, "
        f"the network, HTTP_PROXY/NO_PROXY and {name}"
    )
