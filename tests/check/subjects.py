"""The tiny job as the subject of checks, and assertions on their lines."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType

from adapt.check import Subject
from adapt.check.data import check_split
from adapt.check.stores import checkpoint_findings
from adapt.config.strict_yaml import with_overrides
from adapt.places import find_place
from adapt.platforms.local_stack import S3Server
from adapt.platforms.platform import (
    Finding,
    Profile,
)
from adapt.spec.loading import parse_spec
from tests.conftest import tiny_values

PROFILE = {"platform": "double", "image": "segadapt:1"}


def store_values(endpoint_url: str, **more: object) -> dict[str, object]:
    named = {"access_key_env": "TEST_ACCESS_KEY", "secret_key_env": "TEST_SECRET_KEY"}
    return {"endpoint_url": endpoint_url, "region": "us-east-1", **named, **more}


def subject(
    folder: Path,
    uri: str = "packed",
    *overrides: str,
    server: S3Server | None = None,
    endpoint_url: str = "",
    profile: Mapping[str, object] | None = None,
    environment: Mapping[str, str] = MappingProxyType({}),
    store: Mapping[str, object] = MappingProxyType({}),
    runs: str | None = None,
) -> Subject:
    """The tiny job on data at `uri`, here or by a profile; `store` changes the store's settings."""
    values = tiny_values(uri, runs or str(folder / "runs"))
    variables = {"SEGADAPT_SCRATCH_DIR": str(folder / "scratch"), **environment}
    if server is not None:
        values["stores"] = {"s3": store_values(endpoint_url or server.endpoint_url, **store)}
        secrets = {"TEST_ACCESS_KEY": server.access_key, "TEST_SECRET_KEY": server.secret_key}
        variables = {**secrets, **variables}
    job = parse_spec(with_overrides(values, overrides), "tiny")
    promised = None if profile is None else Profile.from_values({**PROFILE, **profile}, "profile")
    return Subject(job, find_place(variables), promised)


def said(found: Iterable[Finding]) -> dict[str, Finding]:
    return {one.what: one for one in found}


def assert_red(found: Iterable[Finding], what: str, code: int, *parts: str) -> None:
    """The first red line is this one, with this code, and its words have these parts."""
    red = [one for one in found if not one.ok]
    assert red, "nothing is red"
    assert (red[0].what, red[0].exit_code) == (what, code), red
    for part in parts:
        assert part in f"{red[0].found}; {red[0].fix}"


def assert_green(found: Iterable[Finding], what: str, *parts: str) -> None:
    line = said(found)[what]
    assert line.ok, line
    for part in parts:
        assert part in line.found


def stores_seen(one: Subject) -> list[tuple[str, list[Finding]]]:
    return [
        ("source", list(check_split(one, "source").findings)),
        ("checkpoint", list(checkpoint_findings(one))),
    ]
