"""Huawei OBS: what it requires beyond S3, and how its buckets are addressed."""

import socket
from urllib.parse import urlsplit

import pytest

from adapt.platforms.local_stack import HOST, S3Server
from storage.config import StoreConfig
from storage.errors import StoreError
from storage.stores import Stores
from tests.servers import BUCKET, DOMAIN_NAME, stores_of
from tests.storage.faults import CannedServer
from tests.storage.web_fixtures import *  # noqa: F403
from tests.storage.web_server import Answer as WebAnswer
from tests.storage.web_server import WebServer


def test_a_write_that_ends_in_no_such_key_explains_addressing(
    s3_server: S3Server, canned: CannedServer
) -> None:
    canned.answers.append((404, "NoSuchKey"))
    stores = stores_of(s3_server._replace(endpoint_url=canned.endpoint_url))
    with pytest.raises(StoreError, match=r"obs://bucket/k: .*set stores.obs.addressing: virtual"):
        stores.open("obs://bucket").put("k", b"1")


def test_obs_needs_an_endpoint_and_a_bucket_without_dots(s3_stores: Stores) -> None:
    with pytest.raises(StoreError, match=r"stores.obs.endpoint_url: missing, expected"):
        Stores().open("obs://bucket/runs")
    with pytest.raises(StoreError, match=r"expected a bucket without dots, got 'my.bucket'"):
        s3_stores.open("obs://my.bucket/runs")


@pytest.mark.parametrize("domain", ["com", "cn", "eu"])
@pytest.mark.parametrize("scheme", ["obs", "s3"])
def test_obs_refuses_paths_before_any_request(scheme: str, domain: str) -> None:
    endpoint = f"https://obs.cn-north-4.myhuaweicloud.{domain}"
    key = f"{scheme}://bucket"
    config = StoreConfig(endpoint_url=endpoint, addressing="path")
    message = (
        rf"{key}/runs: .*addressing: expected virtual, which OBS alone accepts, got path. Fix: "
        rf"set stores\[\"{key}\"\].addressing: virtual"
    )
    with pytest.raises(StoreError, match=message):
        Stores({key: config}).open(f"{key}/runs")
    with pytest.raises(StoreError, match=rf"set stores.{scheme}.addressing: virtual"):
        Stores({scheme: config}).open(f"{key}/runs")
    with pytest.raises(StoreError, match=r"expected a bucket without dots, got 'my.bucket'"):
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


@pytest.mark.slow
def test_objects_are_deleted_one_by_one(s3_server: S3Server, http_server: WebServer) -> None:
    stores = stores_of(s3_server._replace(endpoint_url=http_server.url))
    http_server.answers.extend([WebAnswer(204)] * 3)
    for key in ("a", "b", "c"):
        stores.open("obs://bucket/runs").delete(key)
    sent = [(one.method, urlsplit(one.path).path) for one in http_server.requests]
    assert sent == [("DELETE", f"/bucket/runs/{key}") for key in "abc"]


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
