"""Stores that refuse, are wrong or are unreachable."""

from pathlib import Path

import pytest

from adapt.check.stores import checkpoint_findings
from adapt.platforms.local_stack import S3Server
from tests.check.subjects import assert_green, assert_red, stores_seen, subject
from tests.servers import BUCKET, stores_of
from tests.storage.broken_answers import Answer, Flip
from tests.storage.faults import FaultProxy
from tests.storage.s3.test_credentials import TokenStore


@pytest.mark.slow
def test_a_wrong_bucket(s3_server: S3Server, tmp_path: Path) -> None:
    wrong = subject(tmp_path, "s3://no-such/d", server=s3_server, runs="s3://no-such/runs")
    for what, found in stores_seen(wrong):
        assert_red(found, what, 3, "there is no bucket 'no-such'", "create the bucket")


@pytest.mark.slow
def test_wrong_keys(packed_s3: str, s3_server: S3Server, tmp_path: Path) -> None:
    secrets = {"TEST_SECRET_KEY": "wrong"}
    runs = f"s3://{BUCKET}/runs"
    wrong = subject(tmp_path, packed_s3, server=s3_server, environment=secrets, runs=runs)
    for what, found in stores_seen(wrong):
        parts = ("the store refuses the credentials", "TEST_ACCESS_KEY, TEST_SECRET_KEY")
        assert_red(found, what, 3, *parts)


def test_an_expired_token(s3_server: S3Server, tmp_path: Path) -> None:
    server = TokenStore()
    expired = subject(
        tmp_path,
        "s3://b/d",
        server=s3_server,
        endpoint_url=server.url,
        store={"session_token_env": "TEST_TOKEN"},
        environment={"TEST_TOKEN": "old"},
        runs="s3://b/runs",
    )
    for what, found in stores_seen(expired):
        assert_red(found, what, 3, "the temporary credentials have expired", "cannot be refreshed")
    server.close()


def test_addresses_by_path_that_obs_refuses(s3_server: S3Server, tmp_path: Path) -> None:
    by_path = subject(
        tmp_path,
        "s3://b/d",
        server=s3_server,
        endpoint_url="https://obs.cn-north-4.myhuaweicloud.com",
        store={"addressing": "path"},
        runs="s3://b/runs",
    )
    for what, found in stores_seen(by_path):
        message = "addressing: expected virtual, which OBS alone accepts, got path; set stores"
        assert_red(found, what, 3, message)


def test_addresses_by_path_that_the_store_refuses(
    proxy: FaultProxy, s3_server: S3Server, tmp_path: Path
) -> None:
    by_path = subject(
        tmp_path,
        "s3://b/d",
        server=s3_server,
        endpoint_url=proxy.endpoint_url,
        store={"addressing": "path"},
        runs="s3://b/runs",
    )
    proxy.order(Answer(403, "SecondLevelDomainForbidden"), method="GET")
    proxy.order(Answer(403, "SecondLevelDomainForbidden"), method="PUT")
    for what, found in stores_seen(by_path):
        parts = ("refuses the bucket's name in the path", "set stores.s3.addressing: virtual")
        assert_red(found, what, 3, *parts)


def test_a_store_that_is_away(absent_uri: str, s3_server: S3Server, tmp_path: Path) -> None:
    away = subject(
        tmp_path, "s3://b/d", server=s3_server, endpoint_url=absent_uri, runs="s3://b/runs"
    )
    for what, found in stores_seen(away):
        assert_red(found, what, 3, "is unreachable or broke off", "check stores.s3.endpoint_url")


def test_checkpoints_that_may_not_be_written_or_deleted_or_come_back_changed(
    proxy: FaultProxy, s3_server: S3Server, tmp_path: Path
) -> None:
    runs = f"s3://{BUCKET}/probed"
    one = subject(tmp_path, server=s3_server, endpoint_url=proxy.endpoint_url, runs=runs)
    proxy.order(Answer(403, "AccessDenied"), method="PUT")
    assert_red(checkpoint_findings(one), "checkpoint", 3, "access denied")
    proxy.order(Flip(3))
    message = "expected the written bytes, got others; check for a proxy or a gateway"
    assert_red(checkpoint_findings(one), "checkpoint", 3, message)
    assert list(stores_of(s3_server).open(runs).list()) == []
    proxy.order(Answer(403, "AccessDenied"), method="DELETE")
    message = "the probe was written and cannot be deleted"
    assert_red(checkpoint_findings(one), "checkpoint", 3, message, "grant the right to delete")


def test_a_folder_for_checkpoints_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    found = list(checkpoint_findings(subject(tmp_path, runs=f"{tmp_path}/file/runs")))
    assert_red(found, "checkpoint", 3, "file/runs")


def test_a_probe_leaves_nothing_and_takes_no_folder_that_was_there(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    runs = tmp_path / "there" / "new" / "runs"
    found = list(checkpoint_findings(subject(tmp_path, runs=str(runs))))
    assert_green(found, "checkpoint", "written, read back and deleted")
    assert list((tmp_path / "there").iterdir()) == []
