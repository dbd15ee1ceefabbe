"""Where S3 keys come from, that they are refreshed before they expire, and what happens when a
store calls them expired.

SeaweedFS stands for the store wherever its own keys are enough; it knows no session tokens of
others, so a web server that looks at nothing but X-Amz-Security-Token stands for it elsewhere.
"""

import json
import os
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import parse_qs

import pytest

from adapt.platforms.local_stack import S3Server
from storage.config import StoreConfig
from storage.errors import StoreError, StoreUnavailable
from storage.store import Store
from storage.stores import Stores
from tests.servers import stores_of
from tests.storage.web_server import Answer, WebServer, credentials_json

DATA = os.urandom(200_000)
SOON_S, LATE_S = 60, 7200


def _in(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


class Keys(WebServer):
    """Gives out keys as the credentials endpoint of a container, and as STS."""

    def __init__(self, access_key: str, secret_key: str) -> None:
        super().__init__()
        self.keys = (access_key, secret_key)
        self.token = ""
        self.lasts_s: float = LATE_S
        self.forms: list[dict[str, list[str]]] = []

    def answer(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Answer:
        """Keys; STS is asked by POST."""
        self.requests.append(None)  # type: ignore[arg-type]  # counted only
        if method == "GET":
            return Answer(200, credentials_json(*self.keys, self.token, _in(self.lasts_s)))
        self.forms.append(parse_qs(body.decode()))
        return Answer(200, STS.format(*self.keys, self.token, _in(self.lasts_s)).encode())


STS = """<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
<AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>{}</AccessKeyId>
<SecretAccessKey>{}</SecretAccessKey><SessionToken>{}</SessionToken><Expiration>{}</Expiration>
</Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"""


class TokenStore(WebServer):
    """An S3 store with one object that lets in who has the token."""

    def __init__(self) -> None:
        super().__init__()
        self.token = "first"
        self.seen: list[str] = []
        self.lock = threading.Lock()

    def answer(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Answer:
        """The object, or ExpiredToken (to HEAD: nothing but the status)."""
        with self.lock:
            self.seen.append(headers.get("x-amz-security-token", ""))
        if self.seen[-1] != self.token:
            error = b"<Error><Code>ExpiredToken</Code><Message>over</Message></Error>"
            return Answer(400, error)
        return Answer(200, DATA)


@pytest.fixture
def bare_aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An environment without credentials."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))


@pytest.fixture
def keys(s3_server: S3Server, bare_aws: None) -> Iterator[Keys]:
    server = Keys(s3_server.access_key, s3_server.secret_key)
    yield server
    server.close()


@pytest.fixture
def token_store() -> Iterator[TokenStore]:
    server = TokenStore()
    yield server
    server.close()


def _by_chain(endpoint_url: str, uri: str, **fields: object) -> Store:
    config = {"endpoint_url": endpoint_url, "region": "us-east-1", **fields}
    return Stores({"s3": StoreConfig.model_validate(config)}).open(uri)


def _use_container(monkeypatch: pytest.MonkeyPatch, keys: Keys) -> None:
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{keys.url}/keys")


def test_a_containers_keys_are_asked_for_again_before_they_expire(
    s3_server: S3Server, s3_uri: str, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    _use_container(monkeypatch, keys)
    store = _by_chain(s3_server.endpoint_url, s3_uri)
    keys.lasts_s = SOON_S
    store.put("k", DATA)
    keys.lasts_s = LATE_S
    assert b"".join(store.download("k")) == DATA
    asked = len(keys.requests)
    assert asked >= 2, "keys that last a minute were used without asking again"
    assert store.get("k") == DATA
    assert len(keys.requests) == asked, "keys that last for hours were asked for again"


def test_keys_by_web_identity_are_asked_for_again_before_they_expire(
    s3_server: S3Server,
    s3_uri: str,
    keys: Keys,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    (tmp_path / "token").write_text("of the service account")
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", keys.url)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/training")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
    store = _by_chain(s3_server.endpoint_url, s3_uri)
    keys.lasts_s = SOON_S
    store.put("k", DATA)
    (tmp_path / "token").write_text("a later one")
    keys.lasts_s = LATE_S
    assert store.get("k") == DATA
    tokens = [form["WebIdentityToken"] for form in keys.forms]
    assert tokens[0] == ["of the service account"]
    assert tokens[-1] == ["a later one"]
    assert keys.forms[0]["RoleArn"] == ["arn:aws:iam::123456789012:role/training"]


def test_a_credential_process_is_run_again_before_its_keys_expire(
    s3_server: S3Server,
    s3_uri: str,
    bare_aws: None,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    program, runs = tmp_path / "keys.py", tmp_path / "runs"
    answer = {"Version": 1, "AccessKeyId": s3_server.access_key, "Expiration": _in(SOON_S)}
    answer["SecretAccessKey"] = s3_server.secret_key
    program.write_text(f"open({str(runs)!r}, 'a').write('x')\nprint({json.dumps(answer)!r})")
    config = f"[profile obs]\ncredential_process = {sys.executable} {program}\n"
    (tmp_path / "config").write_text(config)
    monkeypatch.setenv("AWS_PROFILE", "obs")
    store = _by_chain(s3_server.endpoint_url, s3_uri)
    store.put("k", DATA)
    before = len(runs.read_text())
    assert store.get("k") == DATA
    assert len(runs.read_text()) > before >= 1


@pytest.mark.slow
def test_a_token_that_the_store_calls_expired_is_replaced(
    token_store: TokenStore, keys: Keys, monkeypatch: pytest.MonkeyPatch, waits: list[float]
) -> None:
    _use_container(monkeypatch, keys)
    keys.token = "first"
    store = _by_chain(token_store.url, "s3://bucket")
    assert store.get("k") == DATA
    keys.token = token_store.token = "second"
    assert store.get("k") == DATA
    assert store.get("k") == DATA
    assert token_store.seen == ["first", "first", "second", "second"]
    keys.token = token_store.token = "third"
    assert store.exists("k"), "HEAD says 400 and nothing else"


def test_a_download_with_an_expired_token_works_the_next_time(
    token_store: TokenStore, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    _use_container(monkeypatch, keys)
    keys.token = "first"
    store = _by_chain(token_store.url, "s3://bucket")
    downloads = [store.download("k") for _ in range(4)]
    assert b"".join(downloads[0]) == DATA
    keys.token = token_store.token = "second"
    with pytest.raises(StoreUnavailable, match=r"s3://bucket/k: the temporary credentials have"):
        list(downloads[1])
    assert b"".join(downloads[2]) == DATA
    assert token_store.seen == ["first", "first", "second"]


@pytest.mark.slow
@pytest.mark.parametrize("by", ["get", "download"])
def test_credentials_that_stay_expired_are_named_in_the_end(
    token_store: TokenStore,
    keys: Keys,
    monkeypatch: pytest.MonkeyPatch,
    waits: list[float],
    by: str,
) -> None:
    _use_container(monkeypatch, keys)
    keys.token = "old"
    store = _by_chain(token_store.url, "s3://bucket", max_attempts=3)

    def read() -> None:
        for _ in range(1 if by == "get" else 3):
            try:
                store.get("k") if by == "get" else list(store.download("k"))
            except StoreUnavailable:
                continue

    with pytest.raises(StoreError, match=r"k: the temporary credentials have expired") as caught:
        read()
    assert not isinstance(caught.value, StoreUnavailable)
    assert "let a role, web identity or credential_process provide them" in str(caught.value)
    assert token_store.seen == ["old"] * 3


def test_expired_keys_of_the_spec_are_refused_at_once_with_the_way_out(
    token_store: TokenStore, s3_server: S3Server, waits: list[float]
) -> None:
    stores = stores_of(
        s3_server._replace(endpoint_url=token_store.url), session_token_env="TEST_TOKEN"
    )
    stores.environment["TEST_TOKEN"] = "old"
    message = (
        r"s3://b/k: the temporary credentials have expired; they come from the environment "
        r"variables TEST_ACCESS_KEY, TEST_SECRET_KEY, TEST_TOKEN .ExpiredToken.. Fix: remove "
        r"stores.s3.access_key_env, as such keys cannot be refreshed, and let a role, web identity"
    )
    with pytest.raises(StoreError, match=message):
        stores.open("s3://b").get("k")
    assert token_store.seen == ["old"]


def test_two_buckets_of_one_job_have_their_own_credentials(
    s3_server: S3Server, s3_uri: str, waits: list[float]
) -> None:
    good = stores_of(s3_server).configs["s3"]
    bad = good.model_copy(update={"secret_key_env": "WRONG"})
    environment = {**stores_of(s3_server).environment, "WRONG": "wrong"}
    stores = Stores({"s3": bad, s3_uri: good}, environment)
    stores.open(s3_uri).put("k", DATA)
    assert stores.open(f"{s3_uri}/deeper").exists("k") is False
    with pytest.raises(StoreError, match=r"the environment variables TEST_ACCESS_KEY, WRONG"):
        stores.open(f"{s3_uri}-beside").get("k")
    stores = Stores({"s3": good, s3_uri: bad}, environment)
    with pytest.raises(StoreError, match=r"variables TEST_ACCESS_KEY, WRONG"):
        stores.open(s3_uri).get("k")


def test_messages_name_the_key_that_holds(s3_server: S3Server, absent_uri: str) -> None:
    config = StoreConfig(endpoint_url=absent_uri, access_key_env="A", secret_key_env="B")
    stores = Stores({"s3": StoreConfig(), "s3://bucket": config}, {"A": "1", "B": "2"})
    with pytest.raises(StoreError, match=r'check stores\["s3://bucket"\].endpoint_url'):
        stores.open("s3://bucket/data").get("k")
    message = r'stores\["s3://bucket"\].access_key_env: the environment variable \'A\' is not set'
    with pytest.raises(StoreError, match=message):
        Stores({"s3://bucket": config}).open("s3://bucket")
