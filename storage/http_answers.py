"""Answers over HTTP as stores' bytes, and refusals and silence as `StoreError`s with their fix."""

import requests

from storage.config import StoreConfig
from storage.downloads import Body, skip, stopper
from storage.errors import (
    ChangedObject,
    MissingObject,
    ShortObject,
    SilentStore,
    StoreError,
    StoreUnavailable,
    WrongAnswer,
)
from storage.transient import (
    DENIED,
    is_certificate,
    is_final,
    is_transient_page,
    is_transient_status,
)
from storage.web_pages import PAGE_BYTES, WebPage, is_html, title_of

_GONE = (404, 410)
_SHORT = 416
_WITH_BYTES = (200, 206)
_CHANGED = (409, 412)


class Failures:
    """Explains the failures of one service; `name` is what messages call its settings.

    Until the service has answered once, its silence is taken for a wrong address, which waiting
    does not fix.
    """

    def __init__(self, name: str, credentials: str) -> None:
        self.name, self.credentials = name, credentials
        self.answered = False

    def of_status(self, uri: str, status: int, reason: str) -> StoreError:
        """The error of an answer with this HTTP status."""
        self.answered = True
        if status in _GONE:
            return MissingObject(f"{uri}: there is no such object", fix="check the URI")
        if status == _SHORT:
            return ShortObject(
                f"{uri}: the object is shorter than requested", fix="upload it again"
            )
        if status in DENIED:
            return StoreError(
                f"{uri}: access denied ({reason}) with the credentials from {self.credentials}",
                fix="check them and their rights there",
            )
        if is_transient_status(status):
            return StoreUnavailable(
                f"{uri}: the store fails ({reason})", fix="see the store's log if it persists"
            )
        kind = WrongAnswer if is_transient_page(status) else StoreError
        kind = ChangedObject if status in _CHANGED else kind
        return kind(f"{uri}: the store refuses ({reason})", fix=f"check the URI and {self.name}")

    def of_silence(self, uri: str, error: Exception, reason: str) -> StoreError:
        """The error of a request without an answer: `error`, or `reason` where that is secret."""
        kind: type[StoreError] = StoreUnavailable if self.answered else SilentStore
        if is_certificate(error):
            return StoreError(
                f"{uri}: the server's certificate is not accepted ({reason})",
                fix="set REQUESTS_CA_BUNDLE to the file of its authority, or have it renewed",
            )
        kind = StoreError if is_final(error) else kind
        return kind(
            f"{uri}: the store is unreachable or broke off ({reason})",
            fix=f"check the host, the network, HTTP_PROXY/NO_PROXY and {self.name}",
        )

    def no_answer(self, uri: str) -> StoreError:
        """The error of an answer that cannot be read."""
        fix = f"check {self.name}.endpoint_url, HTTP_PROXY/NO_PROXY"
        return WrongAnswer(f"{uri}: the answer is not the store's, or half of one", fix=fix)

    def unusable(self, uri: str, reason: str) -> StoreError:
        """The error of settings with which no request can be sent."""
        return StoreError(
            f"{uri}: a setting of the store cannot be used ({reason})",
            fix=f"check {self.name} and {self.credentials}",
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

    Raises `WrongAnswer` for anything else in the object's place, and `StoreUnavailable` for other
    bytes than those requested.
    """
    if is_html(answer.headers) and not uri.endswith((".html", ".htm")):
        page = WebPage(answer.status_code, title_of(answer.raw.read(PAGE_BYTES)), "")
        answer.close()
        raise WrongAnswer(
            f"{uri}: expected the object, got a web page ({page}), as of a proxy or login page in "
            "between",
            fix="check the URI, its credentials, HTTP_PROXY/NO_PROXY",
        )
    if answer.status_code not in _WITH_BYTES:
        answer.close()
        raise WrongAnswer(
            f"{uri}: expected the object, got status {answer.status_code}",
            fix="check the URI, HTTP_PROXY/NO_PROXY",
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
