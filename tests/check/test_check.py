"""The command: all lines, in order, with the code of the first red one."""

import json
from pathlib import Path

import pytest
import yaml

from adapt.check import exit_code_of
from adapt.platforms.local_stack import S3Server
from adapt.platforms.platform import Finding
from tests.check.subjects import store_values
from tests.commands import call
from tests.conftest import tiny_values
from tests.servers import BUCKET, stores_of


@pytest.mark.slow
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


@pytest.mark.slow
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
    assert (
        ended.code == 2
        and "platform: expected a known name, got 'sagemakr'; did you mean 'sagemaker'" in ended.err
    )


def test_the_first_red_line_gives_the_code() -> None:
    ok = Finding("a", True, "fine", exit_code=3)
    assert exit_code_of([ok]) == 0
    red = [ok, Finding("b", False, "no", exit_code=4), Finding("c", False, "no", exit_code=2)]
    assert exit_code_of(red) == 4
