"""Paths in a job spec, against the folders that a container has."""

from typing import Any

import pytest

from adapt.platforms.platform import Profile
from adapt.platforms.reachable import asked_faults, unreachable
from adapt.spec.job_spec import JobSpec
from adapt.spec.loading import parse_spec
from storage.config import StoreConfig
from storage.stores import Stores
from tests.conftest import tiny_values

PROFILE = Profile(platform="somewhere", image="segadapt:0.1.0")


class Brings(Profile):
    """A platform that brings data and takes checkpoints."""

    def replaced(self) -> dict[str, str]:
        keys = ("source.uri", "target.uri", "validation.uri", "checkpoint.uri")
        return dict.fromkeys(keys, "s3://b/x")


def job(data: str = "s3://b/tiny", runs: str = "s3://b/runs", **model: Any) -> JobSpec:
    values = tiny_values(data, runs)
    return parse_spec({**values, "model": {**values["model"], **model}}, "tiny")


def test_stores_are_reached_from_everywhere() -> None:
    assert unreachable(job(weights_uri="https://h/w.safetensors?a=/x"), PROFILE, {}) == []


def test_a_path_of_this_machine_is_told_by_key_with_all_cures() -> None:
    cures = {"source.uri": "channels.source in the profile"}
    lines = unreachable(job("data/tiny", "runs"), PROFILE, cures, ["/mnt/a", "/mnt/b/"])
    assert lines[0] == (
        "source.uri: expected the URI of a store, channels.source in the profile, a path below "
        "/mnt/a, a path below /mnt/b/ or a path below /opt/segadapt, got 'data/tiny', a path "
        "that the job's container does not have or that is lost with it"
    )
    keys = [line.partition(":")[0] for line in lines]
    assert keys == ["source.uri", "checkpoint.uri", "target.uri", "validation.uri"]
    assert "/opt/segadapt" not in lines[1]
    alone = unreachable(job(runs="/runs"), PROFILE, {})
    assert len(alone) == 1 and alone[0].startswith(
        "checkpoint.uri: expected the URI of a store, got '/runs', a path that"
    )


def test_what_the_platform_brings_may_be_anywhere() -> None:
    brings = Brings(platform="somewhere", image="segadapt:0.1.0")
    assert unreachable(job("data/tiny", "runs"), brings, {}) == []
    (line,) = unreachable(job("data/tiny", "runs", start_uri="w.safetensors"), brings, {})
    assert line.startswith("model.start_uri: expected the URI of a store or a path below /opt/seg")


@pytest.mark.parametrize(
    ("data", "runs", "refused"),
    [
        ("/mnt/a/tiny", "/mnt/a", 0),
        ("file:///mnt/a/tiny", "file:///mnt/a/", 0),
        ("/opt/segadapt/tiny", "/mnt/a", 0),
        ("/mnt/a/tiny", "/opt/segadapt/runs", 1),
        ("/mnt/ab/tiny", "/mnt/a", 3),
        ("/mnt/a/../b", "/mnt/a", 3),
        ("mnt/a/tiny", "/mnt/a/runs", 3),
    ],
)
def test_paths_below_a_mounted_folder_are_there(data: str, runs: str, refused: int) -> None:
    assert len(unreachable(job(data, runs), PROFILE, {}, ["/mnt/a"])) == refused


OWN = "expected a server that somewhere reaches, got 'http://127.0.0.1:8333', which is each machine"


class SharesLoopback(Profile):
    """A platform whose jobs run in this machine's network."""

    def shares_loopback(self) -> bool:
        return True


def with_stores(**stores: dict[str, str]) -> JobSpec:
    values = tiny_values("s3://b/tiny", "s3://b/runs")
    return parse_spec({**values, "stores": {**stores}}, "tiny")


def test_a_store_on_this_machine_alone_is_told_once_by_its_key() -> None:
    own = {"endpoint_url": "http://127.0.0.1:8333"}
    (line,) = unreachable(with_stores(s3=own), PROFILE, {})
    assert line.startswith(f"stores.s3.endpoint_url: {OWN}")
    assert line.endswith("Fix: name the server's address in the network")
    unused = with_stores(**{"s3://others": own, "s3": {"endpoint_url": "http://10.0.0.1:8333"}})
    assert unreachable(unused, PROFILE, {}) == []
    brings = Brings(platform="somewhere", image="segadapt:0.1.0")
    assert unreachable(with_stores(s3=own), brings, {}) == []
    shared = SharesLoopback(platform="somewhere", image="segadapt:0.1.0")
    assert unreachable(with_stores(s3=own), shared, {}) == []


def test_a_server_on_this_machine_alone_is_told_by_the_key_of_its_uri() -> None:
    (line,) = unreachable(job(weights_uri="http://127.0.0.1:8333/w.pth"), PROFILE, {})
    assert line.startswith("model.weights_uri: expected a server that somewhere reaches, got 'http")


def test_stores_of_what_was_asked_are_told_with_it() -> None:
    stores = Stores({"s3": StoreConfig(endpoint_url="http://localhost:8333")})
    asked = [("MODEL", "s3://b/w.pt"), ("INPUT", "s3://b/c"), ("INPUT", "https://127.0.0.1/d")]
    faults = [str(fault) for fault in asked_faults(asked, PROFILE, stores)]
    assert [fault.partition(": ")[0] for fault in faults] == ["stores.s3.endpoint_url", "INPUT"]
    assert "got 'http://localhost:8333', which is each machine's own. Fix: name the" in faults[0]
