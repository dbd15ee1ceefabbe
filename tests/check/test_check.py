"""What `check` finds, red line by red line: stores, data, MLflow, weights, machine, platform."""

import json
import shutil
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import pytest
import torch
import yaml
from mlflow import MlflowClient
from safetensors.torch import save_file

from adapt.check import Subject, exit_code_of, findings
from adapt.check.data import Looked, look_at
from adapt.check.machine import disk_findings, gpu_findings, shm_findings
from adapt.check.memory import Peak
from adapt.check.platform import platform_findings
from adapt.check.spec import spec_findings
from adapt.check.stores import checkpoint_findings
from adapt.check.tracking import tracking_findings
from adapt.check.weights import weights_findings
from adapt.config.strict_yaml import with_overrides
from adapt.errors import JobError
from adapt.places import find_place
from adapt.platforms import PLATFORMS
from adapt.platforms.local_stack import S3Server
from adapt.platforms.platform import (
    Client,
    Finding,
    Platform,
    Profile,
    Promised,
    Request,
    Submission,
)
from adapt.spec.job_spec import parse_spec
from adapt.trainer.networks import build_network
from storage.errors import StoreUnavailable
from tests.commands import call
from tests.conftest import pack_tiny, tiny_values
from tests.servers import BUCKET, stores_of
from tests.storage.broken_answers import Answer, Flip
from tests.storage.faults import FaultProxy
from tests.storage.places import Answer as WebAnswer
from tests.storage.places import WebServer
from tests.storage.s3.test_credentials import TokenStore

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
        *("batches", "networks", "secrets"),
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
    assert "no validation shards" in words and "to mend it: copy the objects there again" in words
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


# the spec


def test_batches_that_do_not_fit_the_profiles_ranks(tmp_path: Path) -> None:
    wide = subject(tmp_path, profile={"nodes": 2, "gpus": 2})
    message = "source.batch_size: expected a multiple of 4 (4 ranks x train.accumulate 1), got 2"
    assert_red(spec_findings(wide), "batches", 2, message)
    assert_red(gpu_findings(wide, dict), "GPU memory", 2, message)
    assert_green(spec_findings(subject(tmp_path, profile={"gpus": 2})), "batches", "1 and 1 images")


def test_networks_that_do_not_fit_one_another(tmp_path: Path) -> None:
    odd = subject(tmp_path, "packed", "model.aux=false")
    assert_red(spec_findings(odd), "networks", 2, "method.weight_adv: expected at most one weight")
    assert_red(gpu_findings(odd, dict), "GPU memory", 2, "method.weight_adv")


def test_secrets_that_are_not_in_the_environment(s3_server: S3Server, tmp_path: Path) -> None:
    bare = subject(tmp_path, "s3://b/d", server=s3_server, environment={"TEST_SECRET_KEY": ""})
    message = "stores.s3.secret_key_env: expected the secret in environment variable TEST_SECRET"
    assert_red(spec_findings(bare), "secrets", 2, message, "export it before starting the job")
    assert_red(look_at(bare, "source").findings, "source", 3, "TEST_SECRET_KEY", "is not set")


# stores


def stores_seen(one: Subject) -> list[tuple[str, list[Finding]]]:
    return [
        ("source", list(look_at(one, "source").findings)),
        ("checkpoint", list(checkpoint_findings(one))),
    ]


def test_a_wrong_bucket(s3_server: S3Server, tmp_path: Path) -> None:
    wrong = subject(tmp_path, "s3://no-such/d", server=s3_server, runs="s3://no-such/runs")
    for what, found in stores_seen(wrong):
        assert_red(found, what, 3, "there is no bucket 'no-such'", "create the bucket")


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
        message = "path-style addressing is refused by OBS; set stores.s3.addressing: virtual"
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
        message = "refuses the bucket's name in the path; set stores.s3.addressing: virtual"
        assert_red(found, what, 3, message)


def test_a_store_that_is_away(absent_uri: str, s3_server: S3Server, tmp_path: Path) -> None:
    away = subject(
        tmp_path, "s3://b/d", server=s3_server, endpoint_url=absent_uri, runs="s3://b/runs"
    )
    for what, found in stores_seen(away):
        assert_red(found, what, 3, "does not answer or broke off", "check stores.s3.endpoint_url")


def test_checkpoints_that_may_not_be_written_or_deleted_or_come_back_changed(
    proxy: FaultProxy, s3_server: S3Server, tmp_path: Path
) -> None:
    runs = f"s3://{BUCKET}/probed"
    one = subject(tmp_path, server=s3_server, endpoint_url=proxy.endpoint_url, runs=runs)
    proxy.order(Answer(403, "AccessDenied"), method="PUT")
    assert_red(checkpoint_findings(one), "checkpoint", 3, "access denied")
    proxy.order(Flip(3))
    message = "other bytes come back than were written; look for a proxy or a gateway"
    assert_red(checkpoint_findings(one), "checkpoint", 3, message)
    assert list(stores_of(s3_server).open(runs).list()) == []
    proxy.order(Answer(403, "AccessDenied"), method="DELETE")
    message = "the probe was written and cannot be deleted"
    assert_red(checkpoint_findings(one), "checkpoint", 3, message, "give the right to delete")


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


# data


def source_of(one: Subject) -> tuple[Finding, ...]:
    return look_at(one, "source").findings


def test_a_shard_that_is_missing(damaged: Path, tmp_path: Path) -> None:
    shard = min(damaged.glob("train/*.tar"))
    shard.unlink()
    found = source_of(subject(tmp_path, str(damaged)))
    message = f"1 of 4 shards are missing, the first is train/{shard.name}; copy the objects"
    assert_red(found, "source shards", 4, message)


def test_a_shard_that_is_truncated(damaged: Path, tmp_path: Path) -> None:
    shard = max(damaged.glob("train/*.tar"))
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-512])
    found = source_of(subject(tmp_path, str(damaged)))
    message = f"{shard.name}: expected {len(whole)} bytes, got {len(whole) - 512}"
    assert_red(found, "source shards", 4, message, "pack the split again (--overwrite)")


def test_a_first_sample_that_is_damaged(damaged: Path, tmp_path: Path) -> None:
    for shard in damaged.glob("*/*.tar"):
        data = bytearray(shard.read_bytes())
        data[512:2048] = bytes(1536)
        shard.write_bytes(data)
    one = subject(tmp_path, str(damaged))
    assert_red(source_of(one), "source sample", 4, "its bytes are not those that were packed")
    target = look_at(one, "target").findings
    assert_red(target, "target sample", 4, "pack the split again (--overwrite)")


def test_a_store_without_a_list_is_asked_for_the_ends_of_its_shards(
    damaged: Path, web_server: WebServer, tmp_path: Path
) -> None:
    files = {f"/d/{p.relative_to(damaged)}": p.read_bytes() for p in damaged.rglob("*.*")}
    web_server.files |= files
    one = subject(tmp_path, f"{web_server.url}/d")
    assert_green(source_of(one), "source shards", "all 4 are there")
    last = max(name for name in files if name.startswith("/d/train/") and name.endswith(".tar"))
    web_server.files[last] = files[last][:-512]
    assert_red(source_of(one), "source shards", 3, last.removeprefix("/d/"), "shorter than asked")
    del web_server.files[last]
    assert_red(source_of(one), "source shards", 3, "there is no such object")


@pytest.mark.parametrize(
    ("override", "code", "message"),
    [
        ("source.split=trian", 4, "is missing: `pack` the split first"),
        ("source.split=trian", 4, "packed splits there: train, val"),
        ("classes.0.ids={tiny: [200]}", 0, "no pixel of 4 classes is of band 0"),
    ],
)
def test_splits_and_sizes_and_classes_that_are_not_there(
    override: str, code: int, message: str, tiny_uri: str, tmp_path: Path
) -> None:
    found = source_of(subject(tmp_path, tiny_uri, override))
    if code:
        assert_red(found, "source", code, message)
    else:
        assert_green(found, "source classes", message)


def test_classes_that_have_nothing_to_do_with_the_data(tiny_uri: str, tmp_path: Path) -> None:
    none = [f"classes.{number}.ids={{tiny: [{200 + number}]}}" for number in range(4)]
    found = source_of(subject(tmp_path, tiny_uri, *none))
    message = "expected pixels of the job's classes, got none of any; correct `classes`"
    assert_red(found, "source classes", 4, message)


def test_data_of_another_name(damaged: Path, tmp_path: Path) -> None:
    manifest = damaged / "train" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"dataset": "tiny"', '"dataset": "town"'))
    message = "expected dataset 'tiny', got shards packed as 'town'"
    assert_red(source_of(subject(tmp_path, str(damaged))), "source", 4, message)


def test_data_that_was_packed_at_another_size(damaged: Path, tmp_path: Path) -> None:
    path = damaged / "train" / "manifest.json"
    exact = {"profile": "exact", "size_hw": [48, 64]}
    path.write_text(json.dumps(json.loads(path.read_text()) | exact))
    found = source_of(subject(tmp_path, str(damaged), "source.size_hw=[24, 32]"))
    assert_red(found, "source", 4, "packed at [48, 64], asked for [24, 32]: set size_hw")


def test_shards_of_other_classes(damaged: Path, tmp_path: Path) -> None:
    path = damaged / "train" / "manifest.json"
    space = {"name": "custom", "classes": ["sky", "road"]}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"label_space": space}))
    message = "its labels were packed as train ids of custom (sky, road)"
    assert_red(source_of(subject(tmp_path, str(damaged))), "source", 4, message)


# MLflow


def mlflow_of(uri: str, folder: Path, **more: Any) -> list[Finding]:
    return list(tracking_findings(subject(folder, "packed", f"tracking.uri={uri}", **more)))


def test_an_embedded_database_needs_no_server(tmp_path: Path) -> None:
    here = list(tracking_findings(subject(tmp_path)))
    assert_green(here, "MLflow", "figures go to a database file, sqlite:///")
    there = list(tracking_findings(subject(tmp_path, profile={})))
    assert_green(there, "MLflow", "it ends with the machine: name a server in tracking.uri")


def test_a_server_that_refuses_connections(absent_uri: str, tmp_path: Path) -> None:
    cure = "see that the server is up and can be reached from the job"
    assert_red(mlflow_of(absent_uri, tmp_path), "MLflow", 3, absent_uri, cure)


def test_a_server_that_does_not_know_its_own_name(
    mlflow_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = socket.getaddrinfo

    def by_name(host: Any, *args: Any, **more: Any) -> Any:
        return real("127.0.0.1" if host == "mlflow.example.org" else host, *args, **more)

    monkeypatch.setattr(socket, "getaddrinfo", by_name)
    uri = mlflow_uri.replace("127.0.0.1", "mlflow.example.org")
    found = mlflow_of(uri, tmp_path)
    assert_red(
        found, "MLflow", 3, "Invalid Host header", "`mlflow server --allowed-hosts HOST:PORT`"
    )


def test_a_server_that_wants_a_login(web_server: WebServer, tmp_path: Path) -> None:
    web_server.login = "user:password"
    found = mlflow_of(web_server.url, tmp_path)
    assert_red(found, "MLflow", 3, "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD")


def test_an_address_where_no_mlflow_is(web_server: WebServer, tmp_path: Path) -> None:
    web_server.answers.append(WebAnswer(404, b"not here"))
    assert_red(mlflow_of(web_server.url, tmp_path), "MLflow", 3, web_server.url)


def test_an_experiment_that_was_deleted(mlflow_uri: str, tmp_path: Path) -> None:
    client = MlflowClient(tracking_uri=mlflow_uri)
    client.delete_experiment(client.create_experiment("was-deleted"))
    one = subject(
        tmp_path, "packed", f"tracking.uri={mlflow_uri}", "tracking.experiment=was-deleted"
    )
    message = "the experiment 'was-deleted' was deleted; `mlflow experiments restore` it"
    assert_red(tracking_findings(one), "MLflow", 2, message)


# weights


def test_weights_that_are_missing(packed_s3: str, s3_server: S3Server, tmp_path: Path) -> None:
    for uri in (f"{tmp_path}/none.safetensors", f"s3://{BUCKET}/none.safetensors"):
        override = f"model.weights_uri={uri}"
        one = subject(tmp_path, packed_s3, override, server=s3_server)
        assert_red(weights_findings(one), "weights", 3, "none.safetensors", "there is no such")


def test_weights_of_the_wrong_kind(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_text("{}")
    save_file({"x": torch.zeros(1)}, tmp_path / "b.safetensors")
    for file, key, message in (
        ("a", "weights_uri", "expected a file of tensors, got a.safetensors, which cannot be"),
        ("b", "start_uri", "model: expected weights of deeplab_v2 on resnet18 with 4 classes"),
    ):
        one = subject(tmp_path, "packed", f"model.{key}={tmp_path}/{file}.safetensors")
        assert_red(weights_findings(one), "weights", 2, message)


def test_weights_that_fit_are_loaded(tmp_path: Path) -> None:
    one = subject(tmp_path)
    save_file(build_network(one.job, one.stores).state_dict(), tmp_path / "start.safetensors")
    one = subject(tmp_path, "packed", f"model.start_uri={tmp_path}/start.safetensors")
    assert_green(weights_findings(one), "weights", "start.safetensors")
    assert_green(weights_findings(subject(tmp_path)), "weights", "none: random ones")


# the machine


def promising(one: Subject, **more: object) -> Subject:
    """The subject with a profile that promises more than the common one's keys."""

    class Promising(Profile):
        shm_gb: float | None = None
        scratch_gb: float | None = None

        def promised_gb(self) -> Promised:
            return Promised(self.shm_gb, self.scratch_gb)

    assert one.profile is not None
    values = {**one.profile.model_dump(mode="json"), **more}
    return Subject(one.job, one.place, Promising.from_values(values, "profile"))


def test_too_little_shared_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    two = subject(tmp_path, profile={"gpus": 2})
    cure = "docker run --shm-size=1g, or shm_gb of the profile"
    small = shm_findings(promising(two, shm_gb=0.064))
    assert_red(small, "/dev/shm", 2, "0.06 GB for 2 ranks, 1 GB needed", cure)
    assert_green(shm_findings(promising(two, shm_gb=1)), "/dev/shm", "1.00 GB for 2 ranks")
    assert_green(shm_findings(two), "/dev/shm", "seen only there")
    assert_green(shm_findings(subject(tmp_path, profile={})), "/dev/shm", "one rank a node")
    here = subject(tmp_path)
    here = Subject(here.job, replace(here.place, processes=2))
    monkeypatch.setattr("adapt.check.machine.SHM_BYTES", 10**15)
    assert_red(shm_findings(here), "/dev/shm", 2, "GB for 2 ranks, 1000000 GB needed", cure)


def fetched(*shard_gb: float) -> Callable[[], dict[str, Looked]]:
    sizes = tuple(int(size * 1e9) for size in shard_gb)
    return lambda: {"source": Looked((), sizes, None, remote=True)}


def test_too_little_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = promising(subject(tmp_path, profile={}), scratch_gb=11)
    assert_green(disk_findings(there, fetched(4, 4)), "disk", "11.0 GB free for 8.0 GB of shards")
    partly = list(disk_findings(there, fetched(*[4] * 10)))
    assert_green(
        partly, "disk", "25% of 40.0 GB of shards stay on it, the others are fetched again"
    )
    message = "11.0 GB free, 13.1 GB needed at least; make room, or set SEGADAPT_SCRATCH_DIR"
    assert_red(disk_findings(there, fetched(12)), "disk", 2, message)
    unknown = subject(tmp_path, profile={})
    assert_green(disk_findings(unknown, fetched(12)), "disk", "seen only there")
    monkeypatch.setattr("adapt.check.machine.RESERVE_BYTES", 10**15)
    here = list(disk_findings(subject(tmp_path), dict))
    assert_red(here, "disk", 2, f"GB free in {tmp_path}/scratch, 1000000.0 GB needed at least")


def test_a_step_that_needs_more_memory_than_the_gpu_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peak = Peak(10**9, 10**9, 2 * 10**9, 6 * 10**9)
    monkeypatch.setattr("adapt.check.machine.predicted_bytes", lambda *_: peak)

    def found(**profile: object) -> list[Finding]:
        return list(gpu_findings(subject(tmp_path, profile=profile), dict))

    parts = "12.5 GB of 11.0 GB: parameters 1.00, gradients 1.00, optimizer 2.00, activations 6.00"
    cure = "margin 2.50; raise train.accumulate, lower batch_size or augment.crop_hw"
    assert_red(found(gpu_memory_gb=11), "GPU memory", 2, parts, cure)
    assert_green(found(gpu_memory_gb=12.5), "GPU memory", "12.5 GB of 12.5 GB")
    assert_green(found(), "GPU memory", "a GPU whose gpu_memory_gb the profile does not name")
    if not torch.cuda.is_available():
        here = gpu_findings(subject(tmp_path), dict)
        assert_green(here, "GPU memory", "12.5 GB of a GPU that is not here")


def test_sizes_that_only_the_shards_know(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = subject(tmp_path, "packed", "source.size_hw=null")
    message = "source.size_hw: expected a size, by which the memory of a step is predicted"
    assert_red(gpu_findings(one, dict), "GPU memory", 2, message)
    asked: list[Any] = []
    monkeypatch.setattr(
        "adapt.check.machine.predicted_bytes", lambda *args: asked.append(args[2]) or Peak()
    )
    looked = {"source": Looked((), (), (48, 64)), "target": Looked(())}
    assert_green(gpu_findings(one, lambda: looked), "GPU memory", "margin 1.50")
    assert asked == [{"source": (48, 64)}]


def test_a_network_that_cannot_be_predicted_is_no_reason_to_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch._subclasses.fake_tensor import DynamicOutputShapeException

    def unpredictable(*_: object) -> Peak:
        raise DynamicOutputShapeException("aten.nonzero")

    monkeypatch.setattr("adapt.check.machine.predicted_bytes", unpredictable)
    found = gpu_findings(subject(tmp_path), dict)
    assert_green(found, "GPU memory", "not predicted", "aten.nonzero")


# what only the platform sees


def test_what_stands_on_the_platform_alone_is_said_to(tmp_path: Path) -> None:
    start = f"model.start_uri={tmp_path}/start.safetensors"
    there = subject(tmp_path, "/opt/ml/input/data/source", start, profile={})
    seen = "a folder of double's machines, seen only there"
    assert_green(look_at(there, "source").findings, "source", "/opt/ml/input/data/source", seen)
    assert_green(checkpoint_findings(there), "checkpoint", seen)
    assert_green(weights_findings(there), "model.start_uri", seen)


def test_names_of_the_platforms_own_network_are_said_to(
    s3_server: S3Server, tmp_path: Path
) -> None:
    inside = subject(
        tmp_path,
        "s3://b/d",
        server=s3_server,
        endpoint_url="http://seaweedfs.data.svc:8333",
        profile={"environment": {"MLFLOW_TRACKING_URI": "http://mlflow:5000"}},
        runs="s3://b/runs",
    )
    seen = "a name of double's own network, seen only there"
    for what, found in stores_seen(inside):
        assert_green(found, what, f"seaweedfs.data.svc: {seen}")
    assert_green(tracking_findings(inside), "MLflow", f"mlflow: {seen}")


def test_mlflow_of_this_machine_is_not_the_platforms(tmp_path: Path) -> None:
    here = subject(tmp_path, "s3://b/d", profile={})
    place = replace(here.place, environment={"MLFLOW_TRACKING_URI": "http://127.0.0.1:1"})
    found = tracking_findings(replace(here, place=place))
    assert_green(found, "MLflow", "a database file", "it ends with the machine")


def test_data_that_the_platform_brings_is_its_own_to_check(tmp_path: Path) -> None:
    class Bringing(Profile):
        def replaced(self) -> dict[str, str]:
            return {"source.uri": "obs://b/d"}

    one = subject(tmp_path, "s3://b/d")
    there = Subject(one.job, one.place, Bringing.from_values(PROFILE, "profile"))
    found = look_at(there, "source").findings
    assert_green(found, "source", "obs://b/d: double's to bring, with rights of its own")


# the platform


class Double:
    """A client whose platform has found these lines, or does not answer."""

    def __init__(self, *found: Finding, error: Exception | None = None) -> None:
        self.found, self.error = found, error
        self.asked: list[Request] = []

    def check(self, request: Request) -> Iterator[Finding]:
        self.asked.append(request)
        yield from self.found
        if self.error is not None:
            raise self.error


@pytest.fixture
def on_double(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes a double the client of the platform `double`."""

    def row(client: Double, refuse: str = "") -> None:
        def request(submission: Submission, profile: Profile) -> Request:
            if refuse:
                raise JobError(refuse)
            return {"name": submission.name, "image": profile.image}

        platform = Platform(
            Profile,
            request,
            lambda *_: cast(Client, client),
            grace_s=lambda _: 30.0,
            restarts=lambda _: False,
        )
        monkeypatch.setitem(PLATFORMS, "double", platform)

    return row


@pytest.mark.parametrize(
    ("what", "found", "cure"),
    [
        ("machine", "there is no flavor gpu.x9", "flavor_id: one of gpu.x1, gpu.x2"),
        ("gpus", "the engine has no GPU runtime", "install the NVIDIA container toolkit"),
        ("image", "there is no image segadapt:1", "push it, or correct image"),
    ],
)
def test_what_the_platform_finds_is_a_line(
    what: str, found: str, cure: str, on_double: Callable[..., None], tmp_path: Path
) -> None:
    client = Double(Finding("account", True, "yours"), Finding(what, False, found, cure))
    on_double(client)
    lines = list(platform_findings(subject(tmp_path, profile={})))
    assert_green(lines, "account", "yours")
    assert_red(lines, what, 2, found, cure)
    assert client.asked[0]["image"] == "segadapt:1"
    assert client.asked[0]["name"].startswith("tiny-")


def test_a_request_that_the_platform_would_refuse(
    on_double: Callable[..., None], tmp_path: Path
) -> None:
    client = Double()
    on_double(client, "name: expected at most 24 characters, got 40; shorten it")
    lines = list(platform_findings(subject(tmp_path, profile={})))
    assert_red(lines, "request", 2, "name: expected at most 24 characters, got 40; shorten it")
    assert client.asked == []


def test_a_platform_that_does_not_answer(on_double: Callable[..., None], tmp_path: Path) -> None:
    on_double(Double(error=StoreUnavailable("double: does not answer; check the network")))
    lines = list(platform_findings(subject(tmp_path, profile={})))
    assert_red(lines, "double", 3, "does not answer; check the network")


def test_without_a_profile_no_platform_is_asked(tmp_path: Path) -> None:
    assert list(platform_findings(subject(tmp_path))) == []


def test_a_red_platform_is_the_last_of_all_lines(
    on_double: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adapt.check.machine.predicted_bytes", lambda *_: Peak())
    on_double(Double(Finding("image", False, "there is no image", "push it")))
    found = list(findings(subject(tmp_path, "/data", profile={})))
    assert exit_code_of(found) == 2
    assert [one.what for one in found if not one.ok] == ["image"]
