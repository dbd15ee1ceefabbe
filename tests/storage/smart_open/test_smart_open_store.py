"""Web servers as stores: their faults, and what never stands in a message."""

import socket
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from adapt.data.packed.packed_split import PackedSplit
from adapt.platforms.local_stack import HOST
from storage.config import StoreConfig
from storage.errors import MissingObject, ShortObject, StoreError, StoreUnavailable
from storage.shards.cache import ShardCache
from storage.store import Store
from storage.stores import Stores, open_store
from tests.storage.web_fixtures import *  # noqa: F403
from tests.storage.web_server import Answer, WebServer

DATA = bytes(range(256)) * 8000
PAGE = b"<!DOCTYPE html>\n<title>\n Sign in  please</title>"
LOGIN = {"access_key_env": "WEB_USER", "secret_key_env": "WEB_PASSWORD"}


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_packed_split_is_read_through_the_web(
    request: pytest.FixtureRequest, scheme: str, tiny_uri: str, tmp_path: Path
) -> None:
    server: WebServer = request.getfixturevalue(f"{scheme}_server")
    for path in Path(tiny_uri).rglob("*"):
        if path.is_file():
            server.files[f"/data/{path.relative_to(tiny_uri).as_posix()}"] = path.read_bytes()
    here, web = open_store(tiny_uri), open_store(f"{server.url}/data")
    table = np.arange(256, dtype=np.uint8)
    cache = ShardCache(tmp_path, reserve_bytes=0)
    local = PackedSplit(here, "train", cache, table)
    remote = PackedSplit(web, "train", cache, table)
    assert len(remote) == 22
    for index in range(len(remote)):
        mine, theirs = remote.read(index), local.read(index)
        assert np.array_equal(mine.image, theirs.image)
        assert np.array_equal(mine.labels, theirs.labels)


@pytest.fixture
def web(http_server: WebServer) -> Store:
    """The folder /data of the web server, which holds `k`; it has answered once."""
    http_server.files["/data/k"] = DATA
    store = open_store(f"{http_server.url}/data")
    assert store.exists("k")
    return store


def test_servers_without_ranges_are_read_past(web: Store, http_server: WebServer) -> None:
    http_server.ranges = False
    assert web.get_range("k", 5, 7) == DATA[5:12]
    assert b"".join(web.download("k", 1_500_000)) == DATA[1_500_000:]
    with pytest.raises(ShortObject, match=r"/data/k: the object is shorter than requested"):
        list(web.download("k", len(DATA)))


def test_an_offset_is_asked_for_in_one_request(web: Store, http_server: WebServer) -> None:
    http_server.requests.clear()
    list(web.download("k", 1_500_000))
    assert [one.headers.get("range") for one in http_server.requests] == ["bytes=1500000-"]
    web.get_range("k", 5, 7)
    assert http_server.requests[-1].headers["range"] == "bytes=5-11"


def test_broken_answers_are_asked_for_again(
    web: Store, http_server: WebServer, waits: list[float], tmp_path: Path
) -> None:
    for read in (lambda: web.get("k"), lambda: web.get_range("k", 0, len(DATA))):
        http_server.answers.extend([Answer(503), Answer(429)])
        http_server.cuts.append(50_000)
        assert read() == DATA
    http_server.cuts.append(50_000)
    web.get_file("k", tmp_path / "k")
    assert (tmp_path / "k").read_bytes() == DATA
    assert [path.name for path in tmp_path.iterdir()] == ["k"]
    assert len(waits) == 7


def test_a_download_is_one_attempt(web: Store, http_server: WebServer, waits: list[float]) -> None:
    http_server.cuts.append(50_000)
    with pytest.raises(StoreUnavailable, match=r"/data/k: .*broke off"):
        list(web.download("k"))
    http_server.answers.append(Answer(503))
    with pytest.raises(StoreUnavailable, match=r"/data/k: the store fails .*503"):
        list(web.download("k"))
    assert waits == []


def test_a_wrong_range_is_not_taken_for_the_right_bytes(web: Store, http_server: WebServer) -> None:
    wrong = (("Content-Range", f"bytes 0-9/{len(DATA)}"),)
    http_server.answers.append(Answer(206, DATA[:10], wrong))
    with pytest.raises(StoreUnavailable, match=r"expected bytes from 5 on, got bytes 0-9"):
        list(web.download("k", 5))


def test_a_login_page_is_no_object(web: Store, http_server: WebServer, waits: list[float]) -> None:
    page = Answer(200, PAGE, (("Content-Type", "text/html; charset=utf-8"),))
    http_server.answers.extend([page] * 5)
    message = r"/data/k: expected the object, got a web page \(status 200, title 'Sign in please'\)"
    with pytest.raises(StoreError, match=message):
        web.get("k")
    http_server.files["/data/page.html"] = PAGE
    http_server.kind = "text/html"
    assert web.get("page.html") == PAGE


def test_a_silent_server_is_named_soon() -> None:
    with socket.create_server((HOST, 0)) as silent:
        config = StoreConfig(read_timeout_s=0.3)
        url = f"http://{HOST}:{silent.getsockname()[1]}/data"
        store = Stores({"http": config}).open(url)
        with pytest.raises(StoreError, match=r"/data/k: the store is unreachable") as caught:
            store.get("k")
    assert not isinstance(caught.value, StoreUnavailable)


SECRETS = ("hush", "h%75sh", "sig-nature", "user-name", "s%2Fig")
SIGNED = f"gone?sig={SECRETS[2]}"


def _failing(http_server: WebServer, store: Store) -> dict[str, Callable[[], object]]:
    def answered(answer: Answer) -> Callable[[], object]:
        def call() -> object:
            http_server.answers.append(answer)
            return list(store.download("k"))

        return call

    return {
        "refused": answered(Answer(401)),
        "missing": answered(Answer(404)),
        "odd": answered(Answer(418)),
        "page": answered(Answer(200, PAGE, (("Content-Type", "text/html"),))),
        "range": lambda: store.get_range("k", len(DATA), 9),
        "list": store.list,
        "put": lambda: store.put("k", b""),
        "query": lambda: store.get(SIGNED),
    }


@pytest.mark.parametrize(
    "kind", ["refused", "missing", "odd", "page", "range", "list", "put", "query", "away"]
)
def test_secrets_of_a_uri_stand_in_no_message(
    http_server: WebServer, absent_uri: str, waits: list[float], kind: str
) -> None:
    http_server.files["/data/k"] = DATA
    url = absent_uri if kind == "away" else http_server.url
    login = url.replace("://", "://user-name:h%75sh@")
    store = open_store(f"{login}/data?sig=sig-nature&t=s%2Fig")
    call = _failing(http_server, store).get(kind, lambda: store.get("k"))
    with pytest.raises(StoreError) as caught:
        call()
    text = "".join(traceback.format_exception(caught.value)) + store.uri
    assert url in text
    assert [secret for secret in SECRETS if secret in text] == []


def test_user_and_password_come_from_the_uri_or_the_settings(http_server: WebServer) -> None:
    http_server.files["/data/k"] = DATA
    http_server.login = "me:a secret/word"
    with pytest.raises(
        StoreError, match=r"access denied \(status 401\) with the credentials from store"
    ):
        open_store(f"{http_server.url}/data").get("k")
    uri = http_server.url.replace("://", "://me:a%20secret%2Fword@")
    assert open_store(f"{uri}/data").get("k") == DATA
    environment = {"WEB_USER": "me", "WEB_PASSWORD": "a secret/word"}
    stores = Stores({http_server.url: StoreConfig(**LOGIN)}, environment)  # type: ignore[arg-type]
    assert stores.open(f"{http_server.url}/data").get("k") == DATA


def test_a_signature_goes_with_every_request(http_server: WebServer) -> None:
    http_server.files["/data/k"] = DATA
    open_store(f"{http_server.url}/data?sig=one%2Ftwo").get("k")
    assert http_server.requests[-1].path == "/data/k?sig=one%2Ftwo"
    open_store(f"{http_server.url}/data").get("k?download=1")
    assert http_server.requests[-1].path == "/data/k?download=1"


def test_names_are_literal_and_the_message_says_so(web: Store) -> None:
    with pytest.raises(MissingObject, match=r"a%20b: there is no such .*write %20 as a space"):
        web.get("a%20b")


@pytest.mark.parametrize("call", ["put", "put_file"])
def test_the_web_is_for_reading_only(web: Store, tmp_path: Path, call: str) -> None:
    (tmp_path / "k").touch()
    with pytest.raises(StoreError, match=r"/data/new: http is for reading only. Fix: use file, s3"):
        web.put("new", b"") if call == "put" else web.put_file("new", tmp_path / "k")


def test_what_cannot_be_listed_or_deleted_says_where_to_go(web: Store) -> None:
    with pytest.raises(StoreError, match=r"/data: objects cannot be listed over http. Fix: name "):
        web.list()
    with pytest.raises(StoreError, match=r"/data: objects cannot be deleted over http. Fix: use f"):
        web.delete("k")


@pytest.mark.parametrize("field", ["endpoint_url", "region", "session_token_env"])
def test_a_setting_without_meaning_is_refused(field: str) -> None:
    config = StoreConfig(**{**LOGIN, field: "https://x"})  # type: ignore[arg-type]
    message = rf"stores.https.{field}: expected none, as https knows no such"
    with pytest.raises(StoreError, match=message):
        Stores({"https": config}, {"WEB_USER": "u", "WEB_PASSWORD": "p"}).open("https://host")


def test_a_uri_without_a_host_is_refused() -> None:
    with pytest.raises(StoreError, match=r"https:///data: expected https://HOST/PATH, got"):
        open_store("https:///data")
