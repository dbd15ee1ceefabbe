"""The S3 family: bodies that break, answers that refuse, and what the user is told to do about
them.
"""

import multiprocessing
import os
import socket
from pathlib import Path

import pytest

from adapt.platforms.local_stack import HOST, S3Server, free_ports
from storage.config import StoreConfig
from storage.errors import MissingObject, StoreError, StoreUnavailable
from storage.stores import Stores
from tests.servers import BUCKET, stores_of
from tests.storage.broken_answers import Answer
from tests.storage.faults import CannedServer, FaultProxy
from tests.storage.s3.refusal import refusal_of
from tests.storage.web_fixtures import *  # noqa: F403

DATA = os.urandom(1 << 20)


@pytest.mark.parametrize("secret", ["access_key", "secret_key"])
def test_wrong_credentials_name_the_variables(
    s3_server: S3Server, s3_uri: str, waits: list[float], secret: str
) -> None:
    store = stores_of(s3_server._replace(**{secret: "wrong"})).open(s3_uri)
    message = refusal_of(store)
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
    message = (
        f"there is no bucket 'no-such-bucket' at {s3_server.endpoint_url} .*. Fix: check the URI"
    )
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
    message = refusal_of(Stores({"s3": config}).open(s3_uri))
    assert f"{s3_uri}/k: no credentials" in message
    assert "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, profile or role" in message


def test_half_of_the_credentials_is_named(
    s3_server: S3Server, s3_uri: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _forget_credentials(monkeypatch, tmp_path)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_server.access_key)
    config = StoreConfig(endpoint_url=s3_server.endpoint_url)
    assert "no credentials (Partial credentials" in refusal_of(Stores({"s3": config}).open(s3_uri))


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


@pytest.mark.slow
def test_a_session_token_travels_with_the_request(s3_server: S3Server, s3_uri: str) -> None:
    stores = stores_of(s3_server, session_token_env="TEST_TOKEN")
    stores.environment["TEST_TOKEN"] = "no-such-token"
    assert "TEST_ACCESS_KEY, TEST_SECRET_KEY, TEST_TOKEN" in refusal_of(stores.open(s3_uri))


def test_an_unreachable_store_is_named_within_seconds(s3_server: S3Server, s3_uri: str) -> None:
    (port,) = free_ports(1)
    away = s3_server._replace(endpoint_url=f"http://{HOST}:{port}")
    message = refusal_of(stores_of(away).open(s3_uri))
    assert f"{s3_uri}/k: the store at http://{HOST}:{port} is unreachable or broke" in message
    assert "check stores.s3.endpoint_url and the network" in message


@pytest.mark.slow
def test_a_store_that_accepts_and_says_nothing_is_named(s3_server: S3Server, s3_uri: str) -> None:
    with socket.create_server((HOST, 0)) as silent:
        url = f"http://{HOST}:{silent.getsockname()[1]}"
        stores = stores_of(s3_server._replace(endpoint_url=url), read_timeout_s=0.3)
        assert "is unreachable or broke off" in refusal_of(stores.open(s3_uri))


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
    "RequestTimeTooSkewed": "the clock of this machine is wrong",
    "AuthorizationHeaderMalformed": "check stores.obs.region and .endpoint_url",
    "PermanentRedirect": "check stores.obs.region and .endpoint_url",
    "InvalidBucketName": "'bucket' is no name of a bucket",
    "SomethingNew": "refuses: An error occurred (SomethingNew)",
}


@pytest.mark.slow
@pytest.mark.parametrize("code", sorted(REFUSALS))
def test_refusals_are_explained_and_not_repeated(
    s3_server: S3Server, canned: CannedServer, waits: list[float], code: str
) -> None:
    canned.answers.extend([(400, code)] * 9)
    stores = stores_of(s3_server._replace(endpoint_url=canned.endpoint_url))
    message = refusal_of(stores.open("obs://bucket/runs"))
    assert message.startswith("obs://bucket/runs/k: ")
    assert REFUSALS[code] in message
    assert waits == []
    assert canned.num_requests == (
        2 if code == "PermanentRedirect" else 1
    )  # botocore seeks the region


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


@pytest.mark.slow
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
    assert "s3://b!d/k: " in refusal_of(s3_stores.open("s3://b!d"))


@pytest.mark.parametrize("uri", ["s3://", "obs:///runs"])
def test_a_uri_without_a_bucket_is_refused(s3_stores: Stores, uri: str) -> None:
    with pytest.raises(StoreError, match=r"expected (s3|obs)://BUCKET/PREFIX"):
        s3_stores.open(uri)


def test_a_prefix_that_climbs_is_refused(s3_stores: Stores) -> None:
    with pytest.raises(StoreError, match=r"s3://bucket: expected a key .*got 'a/../b'"):
        s3_stores.open("s3://bucket/a/../b")


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
    with pytest.raises(
        StoreError, match=rf"{tmp_path}/file/k: expected folders as parts of the path"
    ):
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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("status", "code", "swapped", "num_requests"),
    [
        (501, "NotImplemented", True, 2),
        (400, "InvalidArgument", True, 2),
        (412, "PreconditionFailed", False, 1),
    ],
)
def test_a_store_without_conditional_writes_writes_plainly(
    s3_server: S3Server,
    canned: CannedServer,
    status: int,
    code: str,
    swapped: bool,
    num_requests: int,
) -> None:
    canned.answers.append((status, code))
    stores = stores_of(s3_server._replace(endpoint_url=canned.endpoint_url))
    assert stores.open("s3://bucket/run").swap("k", None, b"new") is swapped
    assert canned.num_requests == num_requests
