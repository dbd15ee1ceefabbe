"""The requests of `predict --to`: golden ones of every platform, and what is refused before a job
is sent."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from adapt.errors import JobError
from adapt.platforms import PLATFORMS, predict_jobs
from adapt.platforms.model_uri import FoundModel
from adapt.platforms.predict_jobs import Asked, facts_of, prepare_prediction
from storage.config import StoreConfig
from storage.stores import Stores
from tests.platforms.kubernetes_schemas import VERSIONS, faults
from tests.platforms.modelarts_samples import SMALL as MODELARTS
from tests.platforms.modelarts_samples import profile_of
from tests.platforms.predict_samples import (
    ASKED,
    LINKED,
    NOW,
    PROFILES,
    SET,
    profile,
    requests_of,
)

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("platform", PROFILES)
def test_the_requests_are_the_golden_ones(platform: str) -> None:
    """Regenerate golden/*_predict.yaml by hand: a person has to have read a request."""
    found = requests_of(platform)
    assert json.loads(json.dumps(found)) == found
    assert found == yaml.safe_load((GOLDEN / f"{platform}_predict.yaml").read_text())
    assert "&id" not in yaml.safe_dump(found), "a dry run has no anchors"


@pytest.mark.parametrize("platform", PROFILES)
def test_one_slice_alone_and_a_spec_of_the_stores(platform: str) -> None:
    one = SET._replace(slices=(1,), spec="SPEC" * 700, out="s3://my-bucket/seen")
    ((name, request),) = requests_of(platform, one).items()
    assert name.endswith("predict-town-261130-120000-1")
    text = json.dumps(request)
    assert "--slice" in text and "1/2" in text and "env:SEGADAPT_SPEC_BASE64" in text


def test_every_version_that_can_takes_the_indexed_job() -> None:
    (job,) = requests_of("kubernetes")["predict-town-261130-120000"]["items"]
    for version in (one for one in VERSIONS if one >= "1.29"):
        assert faults(job, version) == []
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert {"name": "PET_NNODES", "value": "2"} in container["env"]
    assert "--slice" not in container["args"], "pods share the set out by their numbers"
    rule = job["spec"]["podFailurePolicy"]["rules"][1]
    assert rule["action"] == "FailIndex" and 4 in rule["onExitCodes"]["values"]


def test_the_gpus_of_an_engine_are_shared_out() -> None:
    many = SET._replace(num_slices=5, slices=tuple(range(5)))
    asked = requests_of("docker", many).values()
    ids = [one["body"]["HostConfig"]["DeviceRequests"][0]["DeviceIDs"] for one in asked]
    assert ids == [["0"], ["1"], ["0"], ["1"], ["0"]]
    named = PLATFORMS["docker"].predict(many, profile("docker", "gpus=2", "gpu_ids=[GPU-a, GPU-b]"))
    last = [*named.values()][-1]["body"]["HostConfig"]["DeviceRequests"][0]
    assert last["DeviceIDs"] == ["GPU-a"]
    none = PLATFORMS["docker"].predict(SET, profile("docker", "gpus=0"))
    body = none["predict-town-261130-120000-0"]["body"]
    assert "DeviceRequests" not in body["HostConfig"]
    assert "NVIDIA_VISIBLE_DEVICES=void" in body["Env"]


@pytest.mark.parametrize(
    ("platform", "overrides", "said"),
    [
        ("kubernetes", ["gpus=4"], "gpus: expected 0 or 1, since a slice uses one GPU, got 4"),
        (
            "kubernetes",
            ["gpus=1", "kind=pytorchjob"],
            "kind: expected indexed_job for `predict --to`",
        ),
        ("sagemaker", ["instance_type=ml.g5.12xlarge"], "gpus: expected 0 or 1"),
    ],
)
def test_machines_that_no_slice_would_use(platform: str, overrides: list[str], said: str) -> None:
    with pytest.raises(JobError, match=said):
        PLATFORMS[platform].predict(SET, profile(platform, *overrides))


@pytest.mark.parametrize(
    ("changes", "key"),
    [({"model": "/home/me/w.pt"}, "MODEL"), ({"inputs": ("photos",)}, "INPUT"),
     ({"out": "seen"}, "--out")],
)  # fmt: skip
@pytest.mark.parametrize("platform", PROFILES)
def test_a_path_that_the_jobs_do_not_have_is_refused(
    platform: str, changes: dict[str, Any], key: str
) -> None:
    with pytest.raises(JobError, match=f"{key}: expected the URI of a store.*copy it into a store"):
        requests_of(platform, SET._replace(**changes))


def test_a_path_below_a_mount_is_taken_and_results_only_where_it_is_writable() -> None:
    local = LINKED._replace(inputs=("/photos/a",), out="/seen/b")
    mounts = "mounts=[{source: /a, target: /photos, read_only: true}, {source: /b, target: /seen}]"
    PLATFORMS["docker"].predict(local, profile("docker", "gpus=0", mounts))
    with pytest.raises(JobError, match=r"--out: expected .* a path below /seen \(mounts of the"):
        PLATFORMS["docker"].predict(
            local._replace(out="/photos/b"), profile("docker", "gpus=0", mounts)
        )


def test_plain_http_is_not_read_on_sagemaker() -> None:
    said = r"MODEL: expected the URI of a store \(s3:// or https://\), got 'http://host/w.pt'"
    with pytest.raises(JobError, match=said):
        requests_of("sagemaker", SET._replace(model="http://host/w.pt"))
    requests_of("kubernetes", SET._replace(model="http://host/w.pt"))
    with pytest.raises(JobError, match=r"--out: expected the URI of a store \(s3://.*got 'http"):
        requests_of("kubernetes", SET._replace(out="http://host/seen"))


OBS = {"obs": StoreConfig(endpoint_url="https://obs.cn-north-4.myhuaweicloud.com")}


def modelarts_with_keys() -> Any:
    return profile_of(MODELARTS, secrets=["OBS_ACCESS_KEY"], nodes=1, cuda=12)


@pytest.mark.usefixtures("unpinned")
@pytest.mark.parametrize(
    ("key", "changes"),
    [("MODEL", {"model": "obs://b/w.pt"}), ("INPUT", {"inputs": ["obs://b/photos"]}),
     ("--out", {"out": "obs://b/seen"})],
)  # fmt: skip
def test_a_store_without_settings_that_it_needs_is_refused(
    key: str, changes: dict[str, Any]
) -> None:
    """Its jobs would all fail at their start."""
    asked = ASKED._replace(**changes)
    said = (
        rf"^{key}: expected stores\.obs\.endpoint_url, which 'obs://b/.* needs, got none\. Fix: .*"
    )
    with pytest.raises(JobError, match=said + "--spec SPEC"):
        prepare_prediction(asked, modelarts_with_keys(), Stores({}))
    prepare_prediction(asked, modelarts_with_keys(), Stores(OBS))
    with pytest.raises(JobError, match=rf'^{key}: expected stores\["obs://b"\]\.endpoint_url'):
        prepare_prediction(asked, modelarts_with_keys(), Stores({**OBS, "obs://b": StoreConfig()}))


@pytest.mark.usefixtures("unpinned")
@pytest.mark.parametrize(
    "uri", ["http://127.0.0.1:9/w.pt", "https://localhost/w", "http://[::1]/w"]
)
@pytest.mark.parametrize("platform", PROFILES)
def test_a_server_of_this_machine_is_not_reached(platform: str, uri: str) -> None:
    said = f"MODEL: expected a server that {platform} reaches, got .* which is each machine's own"
    with pytest.raises(JobError, match=said):
        prepare_prediction(ASKED._replace(model=uri), PROFILES[platform](), Stores({}))


@pytest.mark.usefixtures("unpinned")
@pytest.mark.parametrize("platform", PROFILES)
def test_a_store_of_this_machine_is_not_reached(platform: str) -> None:
    stores = Stores({"s3": StoreConfig(endpoint_url="http://127.0.0.1:8333")})
    said = f"^stores.s3.endpoint_url: expected a server that {platform} reaches, got 'http://127.0"
    with pytest.raises(JobError, match=said):
        prepare_prediction(ASKED, PROFILES[platform](), stores)
    shared = profile("docker", "gpus=0", "network=host")
    assert prepare_prediction(ASKED, shared, stores).prediction.inputs == (*ASKED.inputs,)


@pytest.mark.usefixtures("unpinned")
def test_the_machine_s_own_network_reaches_its_servers() -> None:
    asked = ASKED._replace(model="http://127.0.0.1:9/w.pt")
    shared = profile("docker", "gpus=0", "network=host")
    assert prepare_prediction(asked, shared, Stores({})).prediction.model == asked.model


@pytest.mark.parametrize("platform", PROFILES)
def test_mistakes_of_one_command_are_told_together(platform: str) -> None:
    asked = ASKED._replace(model="best", inputs=["photos", "7", "obs://b/c"], out="seen")
    with pytest.raises(JobError) as raised:
        prepare_prediction(asked, PROFILES[platform](), Stores({}))
    told = str(raised.value)
    for said in ("MODEL: expected the URI of a store (s3://", "got 'best'", "got 'photos'",
                 "got camera 7", "INPUT: expected stores.obs.endpoint_url",
                 "--out: expected the URI of a store (s3://"):  # fmt: skip
        assert said in told, told


def test_keys_that_the_jobs_of_a_platform_do_not_get() -> None:
    with pytest.raises(JobError, match=r"--out: expected the URI of a store \(s3://\), got"):
        requests_of("sagemaker", SET._replace(out="obs://bucket/seen"))
    with pytest.raises(JobError, match=r"secrets: expected the keys with which jobs reach 's3://"):
        PLATFORMS["modelarts"].predict(SET, profile_of(MODELARTS))
    with pytest.raises(JobError, match=r"secrets: expected the keys with which jobs reach 'az://"):
        PLATFORMS["modelarts"].predict(LINKED._replace(out="az://c/seen"), profile_of(MODELARTS))


def test_a_spec_that_is_too_long_for_its_variable() -> None:
    with pytest.raises(JobError, match="--spec: expected at most 4096 characters in base64, got"):
        requests_of("modelarts", SET._replace(spec="x" * 5000))
    with pytest.raises(JobError, match="--spec: expected at most 131050 characters in base64"):
        requests_of("docker", SET._replace(spec="x" * 140_000))
    with pytest.raises(JobError, match="--spec: expected at most 131050 characters in base64"):
        requests_of("kubernetes", SET._replace(spec="x" * 131_051))
    requests_of("kubernetes", SET._replace(spec="x" * 131_050))


def test_an_argument_that_is_too_long_for_sagemaker() -> None:
    with pytest.raises(JobError, match=r"ContainerArguments.*expected at most 256 characters"):
        requests_of("sagemaker", SET._replace(inputs=(f"s3://my-bucket/{'x' * 300}",)))


@pytest.mark.usefixtures("unpinned")
def test_the_pods_of_one_job_are_told() -> None:
    asked = Asked("https://host/town/weights.safetensors", ["s3://b/photos"], "s3://b/seen", [],
                  4, "0/1")  # fmt: skip
    shown = facts_of(prepare_prediction(asked, PROFILES["kubernetes"](), Stores({}), now=NOW))
    assert shown["platform"] == "kubernetes, 1 job of 4 pods x 1 GPU"


KEYS = StoreConfig(access_key_env="LAB_KEY", secret_key_env="LAB_SECRET")


@pytest.mark.usefixtures("unpinned")
@pytest.mark.parametrize(
    "changes", [{"model": "s3://lab/w.pt"}, {"inputs": ["s3://lab/a"]}, {"out": "s3://lab/seen"}]
)
def test_keys_in_variables_do_not_reach_sagemaker_s_jobs(changes: dict[str, Any]) -> None:
    """The rule of its training jobs; other stores of the spec do not count."""
    asked, stores = ASKED._replace(**changes), Stores({"s3://lab": KEYS})
    said = r'^stores\["s3://lab"\]\.access_key_env: expected none, got one. Fix: let role_arn reach'
    with pytest.raises(JobError, match=said):
        prepare_prediction(asked, PROFILES["sagemaker"](), stores)
    prepare_prediction(ASKED, PROFILES["sagemaker"](), stores)
    prepare_prediction(asked, PROFILES["kubernetes"](), stores)


def test_keys_of_a_registered_model_s_store_do_not_reach_sagemaker_s_jobs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its store is known after the registry alone."""
    found = FoundModel("s3://lab/town/weights.safetensors", "ab" * 32)
    monkeypatch.setattr(predict_jobs, "find_model", lambda *_, **__: found)
    asked = ASKED._replace(model="models:/town@best")
    with pytest.raises(JobError, match=r'stores\["s3://lab"\]\.access_key_env: expected none'):
        prepare_prediction(asked, PROFILES["sagemaker"](), Stores({"s3://lab": KEYS}))
