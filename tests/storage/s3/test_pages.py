"""Web pages and broken answers in the place of S3's, and proxies."""

from collections.abc import Callable
from pathlib import Path

import pytest

from adapt.platforms.local_stack import S3Server
from storage.errors import StoreError, StoreUnavailable
from storage.store import Store
from tests.servers import BUCKET, stores_of
from tests.storage.s3.refusal import refusal_of
from tests.storage.web_fixtures import *  # noqa: F403
from tests.storage.web_server import Answer as WebAnswer
from tests.storage.web_server import WebServer

PAGE = b"<!DOCTYPE html><html><head><title>\n  Please   sign in </title></head></html>"


HTML = (("Content-Type", "text/html; charset=utf-8"),)


PAGES = {
    "200": WebAnswer(200, PAGE, HTML),
    "403": WebAnswer(403, PAGE, HTML),
    "407": WebAnswer(407, PAGE, ()),
    "302": WebAnswer(302, b"", (("Location", "https://login.example/in?from=secret"),)),
    "307": WebAnswer(307, PAGE, (*HTML, ("Location", "https://login.example/"))),
    "502": WebAnswer(502, PAGE, HTML),
    "503": WebAnswer(503, PAGE, HTML),
    "504": WebAnswer(504, PAGE, HTML),
}


def _calls(store: Store, path: Path) -> dict[str, Callable[[], object]]:
    return {
        "get": lambda: store.get("k"),
        "get_range": lambda: store.get_range("k", 2, 5),
        "download": lambda: list(store.download("k")),
        "get_file": lambda: store.get_file("k", path),
        "put": lambda: store.put("k", b"1"),
        "list": store.list,
        "exists": lambda: store.exists("k"),
        "delete": lambda: store.delete("k"),
    }


@pytest.mark.slow
@pytest.mark.parametrize("page", sorted(PAGES))
def test_a_web_page_in_the_way_is_told_from_the_store(
    s3_server: S3Server, http_server: WebServer, waits: list[float], page: str, tmp_path: Path
) -> None:
    stores = stores_of(s3_server._replace(endpoint_url=http_server.url), max_attempts=2)
    store = stores.open("s3://bucket/data")
    for name, call in _calls(store, tmp_path / "copy").items():
        http_server.answers.extend([PAGES[page]] * 2)
        waits.clear()
        with pytest.raises(StoreError) as caught:
            call()
        passes = page in ("502", "503", "504")
        assert isinstance(caught.value, StoreUnavailable) == passes, name
        again = name != "download" and page not in ("403", "407")
        assert (len(waits), len(http_server.answers)) == ((1, 0) if again else (0, 1)), name
        text = str(caught.value)
        assert text.startswith("s3://bucket/data"), name
        assert f"expected an answer of S3, got a web page (status {page}" in text, name
        assert "check stores.s3.endpoint_url, HTTP_PROXY/NO_PROXY" in text, name
        assert "secret" not in text, name
        if name != "exists" and PAGES[page].body:
            assert "title 'Please sign in'" in text, name
        if page.startswith("30"):
            assert "it redirects to https://login.example" in text, name
        http_server.answers.clear()
    assert not (tmp_path / "copy").exists()


def test_an_object_that_is_html_is_no_web_page(s3_server: S3Server, s3_uri: str) -> None:
    key = f"{s3_uri.rpartition('/')[2]}/page.html"
    s3_server.client().put_object(Bucket=BUCKET, Key=key, Body=PAGE, ContentType="text/html")
    store = stores_of(s3_server).open(s3_uri)
    assert store.get("page.html") == b"".join(store.download("page.html")) == PAGE


def test_an_answer_that_is_no_xml_is_named_but_not_shown(
    s3_server: S3Server, http_server: WebServer, waits: list[float]
) -> None:
    http_server.answers.extend([WebAnswer(201, b'{"token": "hush"}')] * 5)
    stores = stores_of(s3_server._replace(endpoint_url=http_server.url))
    with pytest.raises(
        StoreError, match=r"the answer of the endpoint is not S3's. Fix: c"
    ) as caught:
        stores.open("s3://bucket").put("k", b"1")
    assert "hush" not in str(caught.value)
    assert len(waits) == 4


def test_a_proxy_that_refuses_is_named(
    s3_server: S3Server, http_server: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", http_server.url)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    stores = stores_of(s3_server._replace(endpoint_url="https://store.example"))
    message = refusal_of(stores.open("s3://bucket"))
    assert "the proxy on the way to https://store.example refuses the request" in message
    assert "check HTTP_PROXY, HTTPS_PROXY and NO_PROXY" in message
