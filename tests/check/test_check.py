"""The command: all lines, in order, with the code of the first red one."""

import json
from pathlib import Path

import yaml

from adapt.check import exit_code_of
from adapt.platforms.local_stack import S3Server
from adapt.platforms.platform import (
    Finding,
)
from tests.check.subjects import (
    store_values,
)
from tests.commands import call
from tests.conftest import tiny_values
from tests.servers import BUCKET, stores_of
<<<<<<< HEAD
=======
from tests.storage.broken_answers import Answer, Flip
from tests.storage.faults import FaultProxy
from tests.storage.s3.test_credentials import TokenStore
from tests.storage.web_server import Answer as WebAnswer
from tests.storage.web_server import WebServer

PROFILE = {"platform": "double", "image": "segadapt:1"}


@pytest.fixture(scope="module")
def packed_s3(s3_server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The tiny dataset in the S3 server; its URI."""
    uri = f"s3://{BUCKET}/checked"
    pack_tiny(tmp_path_factory.mktemp("raw"), stores_of(s3_server).open(uri))
    return uri


@pytest.fixture
def damaged(tiny_uri: str, tmp_path: Path) -> Path:
    """A copy of the tiny dataset, to be damaged."""
    return Path(shutil.copytree(tiny_uri, tmp_path / "packed"))


@pytest.fixture
def web_server() -> Iterator[WebServer]:
    server = WebServer()
    yield server
    server.close()


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
        assert part in f"{red[0].found}; {red[0].cure}"


def assert_green(found: Iterable[Finding], what: str, *parts: str) -> None:
    line = said(found)[what]
    assert line.ok, line
    for part in parts:
        assert part in line.found


# the command
>>>>>>> 82d04f4 (gs:// and az:// are full stores that keep checkpoints; the web stays readable; ftp, hdfs and ssh go)


def test_a_job_that_will_run_is_green_in_all_lines(
    packed_s3: str, s3_server: S3Server, mlflow_uri: str, tmp_path: Path
) -> None:
    runs = f"s3://{BUCKET}/runs-of-check"
    values = tiny_values(packed_s3, runs) | {"stores": {"s3": store_values(s3_server.endpoint_url)}}
    values["tracking"] |= {"uri": mlflow_uri}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(values))
    secrets = {"TEST_ACCESS_KEY": s3_server.access_key, "TEST_SECRET_KEY": s3_server.secret_key}
    ended = call("check", "tiny.yaml", "--json", folder=tmp_path, environment=secrets)
    assert ended.code == 0, ended.out + ended.err
    answer = json.loads(ended.out)
    assert answer["ok"] and all(one["ok"] for one in answer["findings"])
    found = {one["what"]: one["found"] for one in answer["findings"]}
    assert list(found) == [
        *("batches", "secrets", "networks"),
        *("source", "source classes", "source shards", "source sample"),
        *("target", "target shards", "target sample"),
        *("validation", "validation classes", "validation shards", "validation sample"),
        *("checkpoint", "MLflow", "weights", "/dev/shm", "disk", "GPU memory"),
    ]
    assert f"{packed_s3}/train: 22 samples of tiny" in found["source"]
    assert f"{runs}: written, read back and deleted" in found["checkpoint"]
    assert "answers; the experiment 'tests'" in found["MLflow"]
    assert list(stores_of(s3_server).open(runs).list()) == []


def test_the_command_goes_on_after_a_red_line_and_ends_with_the_first_ones_code(
    damaged: Path, absent_uri: str, tmp_path: Path
) -> None:
    next(damaged.glob("val/*.tar")).unlink()
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(tiny_values(str(damaged), "runs")))
    ended = call("check", "tiny.yaml", "--set", f"tracking.uri={absent_uri}", folder=tmp_path)
    assert ended.code == 4, ended.err
    assert ended.out == "" and "Traceback" not in ended.err
    words = " ".join(ended.err.replace("│", " ").split())
    assert "no validation shards" in words and "Fix: copy the objects there again" in words
    assert "no MLflow" in words and "ok GPU memory" in words and "ok checkpoint" in words
    assert not (tmp_path / "runs").exists()


def test_a_profile_that_is_none_is_refused(tiny_uri: str, tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(tiny_values(tiny_uri, "runs")))
    (tmp_path / "profile.yaml").write_text("platform: sagemakr\n")
    ended = call("check", "tiny.yaml", "--to", "profile.yaml", folder=tmp_path)
    assert ended.code == 2 and "platform: got 'sagemakr'; did you mean 'sagemaker'" in ended.err


def test_the_first_red_line_gives_the_code() -> None:
    ok = Finding("a", True, "fine", exit_code=3)
    assert exit_code_of([ok]) == 0
    red = [ok, Finding("b", False, "no", exit_code=4), Finding("c", False, "no", exit_code=2)]
    assert exit_code_of(red) == 4
