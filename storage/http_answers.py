"""Answers over HTTP as stores' bytes, and refusals and silence as `StoreError`s with their fix."""

import requests

from storage.config import StoreConfig
from storage.downloads import Body, skip, stopper
from storage.errors import MissingObject, ShortObject, StoreError, StoreUnavailable
from storage.web_pages import PAGE_BYTES, WebPage, is_html, title_of

_DENIED = (401, 403, 407)
_TRANSIENT = (408, 425, 429)
_GONE = (404, 410)
_SHORT = 416


class Failures:
    """Explains the failures of one service; `name` is what messages call its settings.

    Until the service has answered once, its silence is taken for a wrong address, which waiting
    does not fix.
    """

    def __init__(self, name: str, credentials: str) -> None:
        self.name, self.credentials = name, credentials
        self.answered = False

    def of_status(self, uri: str, status: int, reason: str) -> StoreError:
        """The error of an answer with this HTTP status (>= 400)."""
        self.answered = True
        if status in _GONE:
            return MissingObject(f"{uri}: there is no such object", fix="check the URI")
        if status == _SHORT:
            return ShortObject(
                f"{uri}: the object is shorter than requested", fix="upload it again"
            )
        if status in _DENIED:
            return StoreError(
                f"{uri}: access denied ({reason}) with the credentials from {self.credentials}",
                fix="check them and their rights there",
            )
        if status >= 500 or status in _TRANSIENT:
            return StoreUnavailable(
                f"{uri}: the store fails ({reason})", fix="see the store's log if it persists"
            )
        return StoreError(
            f"{uri}: the store refuses ({reason})", fix=f"check the URI and {self.name}"
        )

    def of_silence(self, uri: str, reason: str) -> StoreError:
        """The error of a request without an answer."""
        kind = StoreUnavailable if self.answered else StoreError
        return kind(
            f"{uri}: the store is unreachable or broke off ({reason})",
            fix=f"check the host, the network, HTTP_PROXY/NO_PROXY and {self.name}",
        )

    def no_credentials(self, uri: str, reason: object) -> StoreError:
        """The error where no credentials are found, or where they cannot be renewed."""
        return StoreError(
            f"{uri}: no credentials ({reason})", fix=f"set them in {self.credentials}"
        )


def timeouts_s(config: StoreConfig) -> tuple[float, float]:
    """`timeout` of requests: to connect, and of silence in an answer."""
    return config.connect_timeout_s, config.read_timeout_s


def range_header(offset_bytes: int, length_bytes: int | None) -> dict[str, str]:
    """The header that requests a part of an object; none for the whole."""
    if not offset_bytes and length_bytes is None:
        return {}
    last = "" if length_bytes is None else str(offset_bytes + length_bytes - 1)
    return {"Range": f"bytes={offset_bytes}-{last}"}


def body_of(answer: requests.Response, uri: str, offset_bytes: int) -> Body:
    """A streamed answer with status 200 or 206, from the offset on that was requested.

    Raises `StoreError` for a web page in the object's place, and `StoreUnavailable` for other bytes
    than those requested.
    """
    if is_html(answer.headers) and not uri.endswith((".html", ".htm")):
        page = WebPage(answer.status_code, title_of(answer.raw.read(PAGE_BYTES)), "")
        answer.close()
        raise StoreError(
            f"{uri}: expected the object, got a web page ({page}), as of a proxy or login page in "
            "between",
            fix="check the URI, its credentials, HTTP_PROXY/NO_PROXY",
        )
    found = answer.headers.get("Content-Range", "")
    partial = answer.status_code == requests.codes.partial_content
    if partial and not found.startswith(f"bytes {offset_bytes}-"):
        answer.close()
        raise StoreUnavailable(
            f"{uri}: expected bytes from {offset_bytes} on, got {found or 'others'}: the server's "
            "ranges are wrong"
        )
    if not partial:  # the whole, whatever was requested
        skip(answer.raw, offset_bytes)
    return Body(answer.raw, stopper(answer.raw))
