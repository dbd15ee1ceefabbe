"""The S3 family: bodies that break, answers that refuse, and what the user is told to do about
them.
"""

import hashlib
import multiprocessing
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from adapt.platforms.local_stack import HOST, S3Server, free_ports
from storage.config import StoreConfig
from storage.errors import MissingObject, StoreError, StoreUnavailable
from storage.store import Store
from storage.stores import Stores
from tests.servers import BUCKET, DOMAIN_NAME, stores_of
from tests.storage.broken_answers import Answer
from tests.storage.faults import CannedServer, FaultProxy
from tests.storage.web_fixtures import *  # noqa: F403
from tests.storage.web_server import Answer as WebAnswer
from tests.storage.web_server import WebServer

DATA = os.urandom(1 << 20)


def _refusal(store: Store) -> str:
    """The message of a refused read, which comes at once."""
    started = time.monotonic()
    with pytest.raises(StoreError) as caught:
        store.get("k")
    assert time.monotonic() - started < 15  # a busy machine; a repeat would pause longer
    assert not isinstance(caught.value, MissingObject | StoreUnavailable)
    return str(caught.value)


@pytest.mark.parametrize("secret", ["access_key", "secret_key"])
def test_wrong_credentials_name_the_variables(
    s3_server: S3Server, s3_uri: str, waits: list[float], secret: str
) -> None:
    store = stores_of(s3_server._replace(**{secret: "wrong"})).open(s3_uri)
    message = _refusal(store)
    assert f"{s3_uri}/k: the store refuses the credentials" in message
    assert "the environment variables TEST_ACCESS_KEY, TEST_SECRET_KEY" in message
    assert "wrong" not in message
    with pytest.raises(StoreError, match=r"access denied: .*TEST_ACCESS_KEY, TEST_SECRET_KEY"):
        store.exists("k")
    assert waits == []


def test_a_missing_bucket_is_told_from_a_missing_object(
    s3_server: S3Server, s3_stores: Stores, waits: list[float], tmp_path: Path
) -> None:
    store = s3_stores.open("s3://no-such-bucket/runs")
    calls = (
        lambda: store.get("k"),
        lambda: store.exists("k"),
        lambda: store.put("k", b""),
        lambda: store.get_file("k", tmp_path / "k"),
        lambda: list(store.list()),
        lambda: store.delete("k"),
    )
    message = f"there is no bucket 'no-such-bucket' at {s3_server.endpoint_url}; check the URI and"
    for call in calls:
        with pytest.raises(StoreError, match=message) as caught:
            call()
        assert not isinstance(caught.value, MissingObject)
    assert waits == []
    assert list(tmp_path.iterdir()) == []


def test_no_credentials_are_named(
    s3_server: S3Server, s3_uri: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _forget_credentials(monkeypatch, tmp_path)
    config = StoreConfig(endpoint_url=s3_server.endpoint_url)
    message = _refusal(Stores({"s3": config}).open(s3_uri))
    assert f"{s3_uri}/k: no credentials" in message
    assert "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, profile or role" in message


def test_half_of_the_credentials_is_named(
    s3_server: S3Server, s3_uri: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _forget_credentials(monkeypatch, tmp_path)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_server.access_key)
    config = StoreConfig(endpoint_url=s3_server.endpoint_url)
    assert "no credentials (Partial credentials" in _refusal(Stores({"s3": config}).open(s3_uri))


def test_the_sdks_own_chain_is_used_where_no_variables_are_named(
    s3_server: S3Server, s3_uri: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _forget_credentials(monkeypatch, tmp_path)
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    store = Stores().open(s3_uri)
    store.put("k", b"1")
    assert store.get("k") == b"1"


def _forget_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))


@pytest.mark.parametrize("value", [None, ""])
def test_a_secret_variable_that_is_not_set_is_named(value: str | None) -> None:
    config = StoreConfig(access_key_env="KEY", secret_key_env="SECRET")
    environment = {"KEY": "1"} if value is None else {"KEY": "1", "SECRET": value}
    message = "stores.s3.secret_key_env: the environment variable 'SECRET' is not set or empty"
    with pytest.raises(StoreError, match=message):
        Stores({"s3": config}, environment).open("s3://b/c")


def test_a_session_token_travels_with_the_request(s3_server: S3Server, s3_uri: str) -> None:
    stores = stores_of(s3_server, session_token_env="TEST_TOKEN")
    stores.environment["TEST_TOKEN"] = "no such token"
    assert "TEST_ACCESS_KEY, TEST_SECRET_KEY, TEST_TOKEN" in _refusal(stores.open(s3_uri))


def test_an_unreachable_store_is_named_within_seconds(s3_server: S3Server, s3_uri: str) -> None:
    (port,) = free_ports(1)
    away = s3_server._replace(endpoint_url=f"http://{HOST}:{port}")
    message = _refusal(stores_of(away).open(s3_uri))
    assert f"{s3_uri}/k: the store at http://{HOST}:{port} does not answer" in message
    assert "check stores.s3.endpoint_url and the network" in message


def test_a_store_that_accepts_and_says_nothing_is_named(s3_server: S3Server, s3_uri: str) -> None:
    with socket.create_server((HOST, 0)) as silent:
        url = f"http://{HOST}:{silent.getsockname()[1]}"
        stores = stores_of(s3_server._replace(endpoint_url=url), read_timeout_s=0.3)
        assert "does not answer or broke off" in _refusal(stores.open(s3_uri))


@pytest.mark.parametrize("call", ["get", "get_range", "get_file"])
def test_bodies_that_break_are_fetched_again(
    s3_server: S3Server,
    s3_uri: str,
    proxy: FaultProxy,
    waits: list[float],
    tmp_path: Path,
    call: str,
) -> None:
    stores_of(s3_server).open(s3_uri).put("k", DATA)
    store = stores_of(s3_server._replace(endpoint_url=proxy.endpoint_url)).open(s3_uri)
    proxy.cuts.extend([300_000, 700_000])
    if call == "get":
        assert store.get("k") == DATA
    elif call == "get_range":
        assert store.get_range("k", 1, len(DATA) - 1) == DATA[1:]
    else:
        store.get_file("k", tmp_path / "k")
        assert (tmp_path / "k").read_bytes() == DATA
        assert [path.name for path in tmp_path.iterdir()] == ["k"]
    assert len(waits) == 2
    assert not proxy.cuts


def test_bodies_that_always_break_end_after_max_attempts(
    s3_server: S3Server, s3_uri: str, proxy: FaultProxy, waits: list[float], tmp_path: Path
) -> None:
    stores_of(s3_server).open(s3_uri).put("k", DATA)
    broken = s3_server._replace(endpoint_url=proxy.endpoint_url)
    store = stores_of(broken, max_attempts=3).open(s3_uri)
    proxy.cuts.extend([300_000] * 9)
    with pytest.raises(
        StoreUnavailable, match=rf"{s3_uri}/k: the store at {proxy.endpoint_url} .*broke off"
    ):
        store.get_file("k", tmp_path / "k")
    assert len(waits) == 2
    assert list(tmp_path.iterdir()) == []


REFUSALS = {
    "SecondLevelDomainForbidden": "set stores.obs.addressing: virtual",
    "VirtualHostDomainRequired": "set stores.obs.addressing: virtual",
    "ExpiredToken": "the temporary credentials have expired; they come from the environment",
    "InvalidToken": "the store refuses the credentials",
    "InvalidSecurity": "the store refuses the credentials",
    "AccessDenied": "access denied: the credentials are wrong or lack a right here",
    "RequestTimeTooSkewed": "this machine's clock is wrong",
    "AuthorizationHeaderMalformed": "check stores.obs.region and .endpoint_url",
    "PermanentRedirect": "check stores.obs.region and .endpoint_url",
    "InvalidBucketName": "'bucket' is no name of a bucket",
    "SomethingNew": "refuses: An error occurred (SomethingNew)",
}


@pytest.mark.parametrize("code", sorted(REFUSALS))
def test_refusals_are_explained_and_not_repeated(
    s3_server: S3Server, canned: CannedServer, waits: list[float], code: str
) -> None:
    canned.answers.extend([(400, code)] * 9)
    stores = stores_of(s3_server._replace(endpoint_url=canned.endpoint_url))
    message = _refusal(stores.open("obs://bucket/runs"))
    assert message.startswith("obs://bucket/runs/k: ")
    assert REFUSALS[code] in message
    assert waits == []
    assert canned.num_requests == (
        2 if code == "PermanentRedirect" else 1
    )  # botocore seeks the region


def test_a_write_that_ends_in_no_such_key_explains_addressing(
    s3_server: S3Server, canned: CannedServer
) -> None:
    canned.answers.append((404, "NoSuchKey"))
    stores = stores_of(s3_server._replace(endpoint_url=canned.endpoint_url))
    with pytest.raises(StoreError, match=r"obs://bucket/k: .*set stores.obs.addressing: virtual"):
        stores.open("obs://bucket").put("k", b"1")


@pytest.mark.parametrize(
    ("status", "code"), [(503, "SlowDown"), (500, "InternalError"), (429, "X")]
)
def test_a_busy_store_is_asked_again(
    s3_server: S3Server, canned: CannedServer, waits: list[float], status: int, code: str
) -> None:
    canned.answers.extend([(status, code)] * 4)
    stores = stores_of(s3_server._replace(endpoint_url=canned.endpoint_url))
    assert stores.open("s3://bucket").get("k") == b"ok"
    assert canned.num_requests == 5
    assert len(waits) == 4


def test_a_store_that_stays_busy_is_named(
    s3_server: S3Server, canned: CannedServer, waits: list[float]
) -> None:
    canned.answers.extend([(503, "SlowDown")] * 99)
    stores = stores_of(s3_server._replace(endpoint_url=canned.endpoint_url), max_attempts=2)
    with pytest.raises(StoreUnavailable, match=r"s3://bucket/k: the store at .* fails: .*SlowDown"):
        stores.open("s3://bucket").get("k")
    assert canned.num_requests == 2


def test_a_part_of_an_upload_is_tried_twice_before_the_whole_is(
    s3_server: S3Server, s3_uri: str, proxy: FaultProxy, waits: list[float], tmp_path: Path
) -> None:
    (tmp_path / "large").write_bytes(bytes(40 << 20))
    store = stores_of(s3_server._replace(endpoint_url=proxy.endpoint_url)).open(s3_uri)
    proxy.order(Answer(503), method="PUT")
    store.put_file("k", tmp_path / "large")
    parts = [one for one in proxy.requests if one.method == "PUT"]
    assert len(parts) == 4, "three parts, one of them twice"
    assert len(store.get("k")) == 40 << 20


def test_a_name_that_no_bucket_can_have_is_refused(s3_stores: Stores) -> None:
    assert "s3://b!d/k: " in _refusal(s3_stores.open("s3://b!d"))


@pytest.mark.parametrize("uri", ["s3://", "obs:///runs"])
def test_a_uri_without_a_bucket_is_refused(s3_stores: Stores, uri: str) -> None:
    with pytest.raises(StoreError, match=r"expected (s3|obs)://BUCKET/PREFIX"):
        s3_stores.open(uri)


def test_a_prefix_that_climbs_is_refused(s3_stores: Stores) -> None:
    with pytest.raises(StoreError, match=r"s3://bucket: 'a/../b' is not a key"):
        s3_stores.open("s3://bucket/a/../b")


def test_obs_needs_an_endpoint_and_a_bucket_without_dots(s3_stores: Stores) -> None:
    with pytest.raises(StoreError, match=r"stores.obs.endpoint_url is missing"):
        Stores().open("obs://bucket/runs")
    with pytest.raises(StoreError, match=r"'my.bucket' breaks https"):
        s3_stores.open("obs://my.bucket/runs")


@pytest.mark.parametrize("domain", ["com", "cn", "eu"])
@pytest.mark.parametrize("scheme", ["obs", "s3"])
def test_obs_refuses_paths_before_any_request(scheme: str, domain: str) -> None:
    endpoint = f"https://obs.cn-north-4.myhuaweicloud.{domain}"
    key = f"{scheme}://bucket"
    config = StoreConfig(endpoint_url=endpoint, addressing="path")
    message = (
        rf"{key}/runs: path-style addressing is refused by OBS; "
        rf"set stores\[\"{key}\"\].addressing: virtual"
    )
    with pytest.raises(StoreError, match=message):
        Stores({key: config}).open(f"{key}/runs")
    with pytest.raises(StoreError, match=rf"set stores.{scheme}.addressing: virtual"):
        Stores({scheme: config}).open(f"{key}/runs")
    with pytest.raises(StoreError, match=r"'my.bucket' breaks https"):
        Stores({scheme: StoreConfig(endpoint_url=endpoint)}).open(f"{scheme}://my.bucket")
    inside = StoreConfig(endpoint_url=endpoint.replace("obs.", "bucket.obs."))
    with pytest.raises(StoreError, match=r"endpoint_url: expected https://obs.REGION.*got"):
        Stores({scheme: inside}).open(key)


def test_obs_behind_s3_uris_is_addressed_by_host() -> None:
    config = StoreConfig(
        endpoint_url="https://obs.eu-west-101.myhuaweicloud.eu",
        region="eu-west-101",
        access_key_env="A",
        secret_key_env="B",
    )
    store = Stores({"s3": config}, {"A": "1", "B": "2"}).open("s3://bucket/data")
    client = store.clients.get()  # type: ignore[attr-defined]  # its inside
    url = client.generate_presigned_url("get_object", {"Bucket": "bucket", "Key": "data/k"})
    assert url.startswith("https://bucket.obs.eu-west-101.myhuaweicloud.eu/data/k?")


def test_objects_are_deleted_one_by_one(s3_server: S3Server, http_server: WebServer) -> None:
    stores = stores_of(s3_server._replace(endpoint_url=http_server.url))
    http_server.answers.extend([WebAnswer(204)] * 3)
    for key in ("a", "b", "c"):
        stores.open("obs://bucket/runs").delete(key)
    sent = [(one.method, urlsplit(one.path).path) for one in http_server.requests]
    assert sent == [("DELETE", f"/bucket/runs/{key}") for key in "abc"]


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


@pytest.mark.parametrize("page", sorted(PAGES))
def test_a_web_page_in_the_way_is_told_from_the_store(
    s3_server: S3Server, http_server: WebServer, waits: list[float], page: str, tmp_path: Path
) -> None:
    stores = stores_of(s3_server._replace(endpoint_url=http_server.url), max_attempts=2)
    store = stores.open("s3://bucket/data")
    for name, call in _calls(store, tmp_path / "copy").items():
        http_server.answers.extend([PAGES[page]] * 2)
        with pytest.raises(StoreError) as caught:
            call()
        passes = page in ("502", "503", "504")
        assert isinstance(caught.value, StoreUnavailable) == passes, name
        text = str(caught.value)
        assert text.startswith("s3://bucket/data"), name
        assert f"the endpoint answers a web page, not S3 (status {page}" in text, name
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
    s3_server: S3Server, http_server: WebServer
) -> None:
    http_server.answers.append(WebAnswer(201, b'{"token": "hush"}'))
    stores = stores_of(s3_server._replace(endpoint_url=http_server.url))
    with pytest.raises(StoreError, match=r"the endpoint's answer is not S3's; check st") as caught:
        stores.open("s3://bucket").put("k", b"1")
    assert "hush" not in str(caught.value)


def test_a_proxy_that_refuses_is_named(
    s3_server: S3Server, http_server: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", http_server.url)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    stores = stores_of(s3_server._replace(endpoint_url="https://store.example"))
    message = _refusal(stores.open("s3://bucket"))
    assert "the proxy on the way to https://store.example does not let the request" in message
    assert "check HTTP_PROXY, HTTPS_PROXY and NO_PROXY" in message


def test_obs_puts_the_bucket_into_the_host_name(
    s3_server: S3Server, s3_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts, resolve = [], socket.getaddrinfo

    def resolved(host: str, *rest: object, **named: object) -> object:
        hosts.append(host)
        known = HOST if host.endswith(DOMAIN_NAME) else host
        return resolve(known, *rest, **named)  # type: ignore[arg-type]  # passed on

    monkeypatch.setattr(socket, "getaddrinfo", resolved)
    port = urlsplit(s3_server.endpoint_url).port
    stores = stores_of(s3_server._replace(endpoint_url=f"http://{DOMAIN_NAME}:{port}"))
    prefix = s3_uri.rpartition("/")[2]
    stores.open(f"obs://{BUCKET}/{prefix}").put("k", b"1")
    assert set(hosts) == {f"{BUCKET}.{DOMAIN_NAME}"}
    hosts.clear()
    assert stores.open(s3_uri).get("k") == b"1"
    assert set(hosts) == {DOMAIN_NAME}


def test_a_forked_process_makes_its_own_client(s3_stores: Stores, s3_uri: str) -> None:
    store = s3_stores.open(s3_uri)
    store.put("k", b"1")

    def child(results: "multiprocessing.SimpleQueue[tuple[bytes, int]]") -> None:
        results.put((store.get("k"), id(store.clients.get())))  # type: ignore[attr-defined]  # inside

    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    process = context.Process(target=child, args=(results,))
    process.start()
    process.join(20)
    assert process.exitcode == 0
    data, client = results.get()
    assert data == b"1"
    assert client != id(store.clients.get())  # type: ignore[attr-defined]  # its inside


def test_objects_that_consoles_make_for_folders_are_not_listed(
    s3_server: S3Server, s3_stores: Stores, s3_uri: str
) -> None:
    prefix = s3_uri.rpartition("/")[2]
    s3_server.client().put_object(Bucket=BUCKET, Key=f"{prefix}/folder/")
    store = s3_stores.open(s3_uri)
    store.put("folder/k", b"")
    assert [info.key for info in store.list()] == ["folder/k"]


def test_a_full_disk_is_told_from_a_broken_store(
    s3_stores: Stores, s3_uri: str, tmp_path: Path
) -> None:
    store = s3_stores.open(s3_uri)
    store.put("k", DATA)
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=rf"{tmp_path}/file/k: a part of the path is a file"):
        store.get_file("k", tmp_path / "file" / "k")


def test_long_listings_are_read_to_the_end(
    s3_stores: Stores, s3_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = s3_stores.open(s3_uri)
    keys = [f"{number:02d}" for number in range(7)]
    for key in keys:
        store.put(key, b"")
    client = store.clients.get()  # type: ignore[attr-defined]  # its inside
    whole = client.list_objects_v2
    monkeypatch.setattr(client, "list_objects_v2", lambda **named: whole(MaxKeys=3, **named))
    assert [info.key for info in store.list()] == keys


@pytest.mark.parametrize(
    ("scheme", "sign_uploads", "signed"),
    [
        ("https", None, False),
        ("https", True, True),
        ("http", None, True),
        ("http", False, False),
    ],
)
def test_uploads_are_signed_where_tls_does_not_protect_them(
    https_server: WebServer,
    http_server: WebServer,
    monkeypatch: pytest.MonkeyPatch,
    scheme: str,
    sign_uploads: bool | None,
    signed: bool,
) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", os.environ["REQUESTS_CA_BUNDLE"])
    server = {"https": https_server, "http": http_server}[scheme]
    config = StoreConfig(
        endpoint_url=server.url,
        region="us-east-1",
        addressing="path",
        access_key_env="KEY",
        secret_key_env="SECRET",
        sign_uploads=sign_uploads,
    )
    server.answers.append(WebAnswer(200))
    keys = {"KEY": "key", "SECRET": "secret"}
    Stores({"s3": config}, keys).open("s3://bucket/runs").put("k", DATA)
    expected = hashlib.sha256(DATA).hexdigest() if signed else "UNSIGNED-PAYLOAD"
    assert server.requests[-1].headers["x-amz-content-sha256"] == expected


def test_an_aws_config_file_says_whether_uploads_are_signed(
    https_server: WebServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "config").write_text("[default]\ns3 =\n  payload_signing_enabled = true\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_CA_BUNDLE", os.environ["REQUESTS_CA_BUNDLE"])
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    config = StoreConfig(endpoint_url=https_server.url, region="us-east-1", addressing="path")
    https_server.answers.append(WebAnswer(200))
    Stores({"s3": config}, {}).open("s3://bucket/runs").put("k", DATA)
    found = https_server.requests[-1].headers["x-amz-content-sha256"]
    assert found == hashlib.sha256(DATA).hexdigest()
