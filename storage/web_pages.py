"""Web pages in the place of bytes: of a proxy that requires a login, a portal, a wrong address."""

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from storage.errors import StoreError, StoreUnavailable, WrongAnswer
from storage.transient import REDIRECTS, is_transient_page, is_transient_status

_IDS = ("x-amz-request-id", "x-amz-id-2", "x-obs-request-id")
"""Headers that S3 stores add to every answer, and web servers to none."""

_TITLE = re.compile(rb"<title[^>]*>\s*(.*?)\s*</title>", re.IGNORECASE | re.DOTALL)
PAGE_BYTES = 64 << 10
_PROXY_WANTS_LOGIN = 407


class WebPage(Exception):
    """An answer that is no store's; `kind` is the type of its error."""

    def __init__(self, status: int, title: str, location: str) -> None:
        self.kind: type[StoreError] = StoreError
        if is_transient_page(status):
            self.kind = StoreUnavailable if is_transient_status(status) else WrongAnswer
        named = f", title {title!r}" if title else ""
        to = f", it redirects to {location}" if location else ""
        super().__init__(f"status {status}{named}{to}")


def is_html(headers: Mapping[str, str], body: bytes = b"") -> bool:
    """Return whether an answer is HTML by its content type or its beginning."""
    start = body.lstrip()[:14].lower()
    kind = headers.get("content-type", "").lower()
    return "html" in kind or start.startswith((b"<!doctype html", b"<html"))


def title_of(body: bytes) -> str:
    """The title of an HTML page in one short line; empty where it has none."""
    match = _TITLE.search(body)
    words = match[1].decode(errors="replace").split() if match else []
    return "".join(char for char in " ".join(words) if char.isprintable())[:80]


def host_of(headers: Mapping[str, str]) -> str:
    """The target of a redirect, without the path and query, which may contain secrets."""
    parts = urlsplit(headers.get("location", ""))
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}" if host else ""


def refuse_web_page(response_dict: Mapping[str, Any], **_: object) -> None:
    """Hook of botocore before it parses an answer. Raises `WebPage` for one of no S3 store."""
    headers, status = response_dict["headers"], int(response_dict["status_code"])
    if any(name in headers for name in _IDS):
        return
    body = response_dict.get("body") or b""
    page = is_html(headers, body if isinstance(body, bytes) else b"")
    redirect = status in REDIRECTS and "location" in headers and not body
    if not page and not redirect and status != _PROXY_WANTS_LOGIN:
        return
    if not isinstance(body, bytes):
        streamed = body
        body = streamed.read(PAGE_BYTES)
        streamed.close()
    raise WebPage(status, title_of(body), host_of(headers) if status in REDIRECTS else "")
