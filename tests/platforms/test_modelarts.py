"""ModelArts: what a profile may say, and the request that it and a job come to."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from adapt.config.strict_yaml import parse_yaml, unpacked
from adapt.errors import JobError
from adapt.platforms import PLATFORMS, load_profile
from adapt.platforms.modelarts.request import request
from adapt.platforms.platform import Request
from adapt.spec.loading import load_spec, parse_spec
from tests.commands import ROOT
from tests.conftest import tiny_values
from tests.platforms.modelarts_double import check_job, check_types
from tests.platforms.modelarts_samples import LARGE, SMALL, job_of, profile_of, submission_of

GOLDEN = Path(__file__).parent / "golden"


def checked_request(values: dict[str, Any], runs_uri: str = "/mnt/runs") -> Request:
    """The request without the packed spec, which grows with every new key of a job."""
    found = request(submission_of(job_of(runs_uri)), profile_of(values))
    variables = found["algorithm"]["environments"]
    spec = parse_yaml(unpacked(variables["SEGADAPT_SPEC_BASE64"], "spec").decode(), "spec")
    assert spec["name"] == "tiny" and spec["checkpoint"]["uri"] == runs_uri
    variables["SEGADAPT_SPEC_BASE64"] = "<the job spec>"
    return found


@pytest.mark.parametrize(("name", "values"), [("small", SMALL), ("large", LARGE)])
def test_a_request_is_the_golden_one(name: str, values: dict[str, Any]) -> None:
    """`GOLDEN_WRITE=1` writes the file anew, to be read before it is committed."""
    path = GOLDEN / f"modelarts_{name}.json"
    found = checked_request(values)
    if os.environ.get("GOLDEN_WRITE"):
        path.write_text(json.dumps(found, indent=1) + "\n")
    assert found == json.loads(path.read_text())


def test_the_api_would_take_the_requests_once_secrets_are_filled_in() -> None:
    for values in (SMALL, LARGE):
        body = checked_request(values)
        variables = body["algorithm"]["environments"]
        for name in variables:
            variables[name] = "secret" if isinstance(variables[name], dict) else variables[name]
        check_types(body, "Job")
        check_job(body)


def test_no_secret_value_stands_in_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "swordfish")
    found = checked_request(LARGE)
    assert "swordfish" not in json.dumps(found)
    variable = found["algorithm"]["environments"]["MLFLOW_TRACKING_PASSWORD"]
    assert variable == {"from_environment": "MLFLOW_TRACKING_PASSWORD"}


def test_a_long_spec_comes_as_a_channel() -> None:
    found = request(submission_of(), profile_of(spec_uri="obs://towns/specs/tiny"))
    assert "SEGADAPT_SPEC_BASE64" not in found["algorithm"]["environments"]
    channel = found["algorithm"]["inputs"][-1]
    assert channel["name"] == "spec"
    assert channel["remote"]["obs"]["obs_url"] == "/towns/specs/tiny/"


def test_checkpoints_are_downloaded_before_a_restart_unless_that_is_unwanted() -> None:
    first = request(submission_of(), profile_of())["algorithm"]["outputs"][0]
    second = request(submission_of(), profile_of(predownload=False))["algorithm"]["outputs"][0]
    assert first == {**second, "prefetch_to_local": True}


def test_without_restarts_there_are_no_annotations_and_the_platform_restarts_nothing() -> None:
    none, hardware = profile_of(restarts=0), profile_of(restart_always=False)
    assert "annotations" not in request(submission_of(), none)["metadata"]
    annotations = request(submission_of(), hardware)["metadata"]["annotations"]
    assert annotations == {"fault-tolerance/job-retry-num": "3"}
    row = PLATFORMS["modelarts"]
    assert [row.restarts(one) for one in (none, hardware, profile_of())] == [False, False, True]
    assert row.grace_s(profile_of(grace_s=7.0)) == 7


def test_a_pool_of_cpus_has_no_flavor() -> None:
    cpus = profile_of(flavor_id=None, pool_id="pool-1a2b3c", gpus=0)
    resource = request(submission_of(), cpus)["spec"]["resource"]
    assert resource == {"pool_id": "pool-1a2b3c", "node_count": 1}


POOL = {"pool_id": "pool-1a2b3c"}
MOUNT = {"kind": "obs", "source": "/towns", "path": "/mnt/towns"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"region": "North 4"}, "region: expected a region, as in cn-north-4, got 'North 4'"),
        ({"endpoint": "modelarts.x"}, "endpoint: expected the URL of the API without a path"),
        ({"endpoint": "https://x/v2"}, "endpoint: expected the URL of the API without a path"),
        ({"project_id": "cn-north-4"}, "project_id: expected 32 digits of 0-9 and a-f, got"),
        ({"workspace_id": "mine"}, "workspace_id: expected 0 or 32 digits"),
        ({"image": "segadapt"}, "image: expected ORGANIZATION/NAME:TAG of SWR, got 'segadapt'"),
        ({"image": "town/segadapt"}, "image: expected ORGANIZATION/NAME:TAG of SWR"),
        (
            {"image": "docker.io/town/segadapt:1"},
            "image: expected an image of SWR, got one of docker.io. Fix: docker tag and",
        ),
        (
            {"image": "swr.cn-south-1.myhuaweicloud.com/town/segadapt:1"},
            "image: expected an image of the region cn-north-4, got 'swr.cn-south-1",
        ),
        ({"nodes": 0}, "nodes: expected a positive integer, got 0"),
        ({"max_hours": 0}, "max_hours: expected a positive integer or null, got 0"),
        ({"max_hours": 1.5}, "max_hours: expected a positive integer or null, got 1.5"),
        ({"restarts": 129}, "restarts: expected an integer >= 0 and <= 128, got 129"),
        (
            {"restarts": 0, "restart_hanging": True},
            "restart_hanging: expected false with restarts 0, got true",
        ),
        ({"flavor_id": None}, "flavor_id: missing, expected a flavor of the public pool, or"),
        (
            {"flavor_id": "modelarts.pool.visual.xlarge"},
            "pool_id: missing, expected the dedicated pool that modelarts.pool.visual.xlarge is",
        ),
        (POOL, "flavor_id: expected one of modelarts.pool.visual.xlarge, "),
        ({**POOL, "flavor_id": None}, "flavor_id: missing, expected one of modelarts.pool.vis"),
        (
            {**POOL, "flavor_id": "modelarts.pool.visual.4xlarge"},
            "gpus: expected 4, the cards of modelarts.pool.visual.4xlarge, got 1",
        ),
        ({"priority": 2}, "priority: expected none without pool_id"),
        ({**POOL, "priority": 4}, "priority: expected 1, 2 or 3 or null, got 4"),
        ({"log_uri": "/towns/logs"}, "log_uri: expected obs://BUCKET/FOLDER, got '/towns/logs'"),
        (
            {"inputs": {"source": "s3://towns/tiny"}},
            "inputs.source: expected obs://BUCKET/FOLDER, got 's3://towns/tiny'",
        ),
        ({"inputs": {"source": "obs://towns//a"}}, "inputs.source: expected obs://BUCKET/FOLDER"),
        ({"inputs": {"sources": "obs://towns/a"}}, "inputs.sources: unknown key, got 'sources'"),
        (
            {"outputs": {"checkpoints": "obs://towns/tiny/runs"}},
            "outputs.checkpoints: expected a folder apart from the inputs, got",
        ),
        (
            {"outputs": {"checkpoints": "obs://towns/a", "model": "obs://towns/a/b"}},
            "outputs.model: expected a folder apart from outputs.checkpoints, got",
        ),
        (
            {"nodes": 2},
            "outputs.checkpoints: expected nodes 1, got 2: every node has a folder of its own",
        ),
        (
            {"volumes": [{**MOUNT, "kind": "nfs"}]},
            "volumes.0: expected source SERVER:/PATH for nfs, got '/towns'",
        ),
        (
            {"volumes": [{**MOUNT, "source": "obs://towns"}]},
            "volumes.0: expected source /BUCKET/FOLDER for obs, got 'obs://towns'",
        ),
        (
            {"volumes": [{**MOUNT, "read_only": True}]},
            "volumes.0.read_only: expected false for obs, got true. Fix: remove it, or mount",
        ),
        (
            {"volumes": [{**MOUNT, "path": "/cache"}]},
            "volumes.0.path: expected a folder that nothing else uses, as in /mnt/data, got",
        ),
        ({"volumes": [MOUNT, MOUNT]}, "volumes: expected a path for each, got /mnt/towns twice"),
        (
            {"volumes": [{"kind": "nfs", "source": "1.2.3.4:/a", "path": "/mnt/a"}]},
            "volumes: expected no nfs without pool_id, since SFS Turbo needs a pool, got one",
        ),
        (
            {"notification": {"topic_urn": "me", "events": ["JobFailed"]}},
            "notification.topic_urn: expected the URN of a topic, urn:smn:..., got 'me'",
        ),
        (
            {"notification": {"topic_urn": "urn:smn:x", "events": ["JobLost"]}},
            "notification.events.0: expected JobStarted, JobCompleted, JobF",
        ),
        ({"grace_s": 0}, "grace_s: expected a number > 0, got 0"),
    ],
)
def test_what_modelarts_would_refuse_is_refused_by_key(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(JobError) as caught:
        profile_of(**changes)
    assert said in str(caught.value)


def test_a_secret_in_place_of_its_variables_name_is_not_shown() -> None:
    with pytest.raises(JobError) as caught:
        profile_of(secrets=["pass word!"])
    assert "secrets.0: expected a variable's name, never the secret itself" in str(caught.value)
    assert "pass word" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"environment": {"MA_X": "1"}},
            "environment.MA_X: expected a name that does not start with MA_ or VC_",
        ),
        ({"environment": {"A" * 8193: "1"}}, ": expected at most 8192 characters"),
        (
            {"environment": {"A": "/x:$HOME"}},
            "environment.A: expected no variables, which ModelArts does not replace, got",
        ),
        ({"environment": {"A": "x" * 4097}}, "environment.A: expected at most 4096 characters"),
        (
            {"environment": {"source": "/x"}},
            "environment.source: expected another name than a channel's",
        ),
        (
            {"secrets": ["spec"]},
            "secrets: spec: expected another name than a channel's, which inputs and outputs set",
        ),
        (
            {"environment": {"A": "1"}, "secrets": ["A"]},
            "A: expected it in environment or secrets, got both. Fix: remove it from environment",
        ),
        (
            {"environment": {f"A{number}": "1" for number in range(100)}},
            "environment: expected at most 100 variables with secrets and the job's own, got 104",
        ),
        (
            {"inputs": {"source": "obs://towns/tiny"}},
            "stores.obs.access_key_env: expected the secret in environment variable OBS_ACCESS_KEY",
        ),
        (
            {"outputs": {}},
            "stores.obs.access_key_env: expected the secret in environment variable OBS_ACCESS_KEY",
        ),
    ],
)
def test_what_the_job_could_not_run_with_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(JobError) as caught:
        request(submission_of(), profile_of(**changes))
    assert said in str(caught.value)


def test_stores_without_named_keys_need_those_of_the_sdk() -> None:
    stores = {"obs": {"endpoint_url": "https://obs.cn-north-4.myhuaweicloud.com"}}
    submission = submission_of(job_of(stores=stores))
    with pytest.raises(
        JobError, match=r"checkpoint\.uri: obs://towns/runs needs keys, and a job on Model"
    ):
        request(submission, profile_of(outputs={}))
    secrets = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]
    found = request(submission, profile_of(outputs={}, secrets=secrets))
    assert "outputs" not in found["algorithm"]


def test_paths_that_the_nodes_do_not_have_are_refused_by_key_with_the_cure() -> None:
    values = tiny_values("data/tiny", "runs")
    values["model"] |= {"weights_uri": "/home/me/weights.safetensors"}
    job = parse_spec(values, "tiny")
    with pytest.raises(JobError) as caught:
        request(submission_of(job), profile_of(LARGE, inputs=None))
    lines = str(caught.value).splitlines()
    assert lines[0] == (
        "source.uri: expected the URI of a store, inputs.source in the profile, a path below "
        "/mnt/share, a path below /mnt/runs, a path below /mnt/towns or a path below "
        "/opt/segadapt, got 'data/tiny', a path that the job's container does not have or that "
        "is lost with it"
    )
    keys = [line.partition(":")[0] for line in lines]
    domains = ["target.uri", "validation.uri"]
    assert keys == ["source.uri", "checkpoint.uri", *domains, "model.weights_uri"]
    with pytest.raises(
        JobError, match=r"^checkpoint\.uri: expected the URI of a store or outputs\."
    ):
        request(submission_of(job_of("runs")), profile_of(outputs={}))


def test_paths_of_volumes_and_of_the_image_are_there() -> None:
    values = tiny_values("/mnt/towns/tiny", "/mnt/runs")
    values["model"] |= {"weights_uri": "/opt/segadapt/weights.safetensors"}
    asked = request(submission_of(parse_spec(values, "tiny")), profile_of(LARGE, inputs=None))
    assert "inputs" not in asked["algorithm"]


def test_mlflow_is_told_the_folder_that_is_brought_there() -> None:
    """That of the whole channel, below which the job makes one more of the run's name."""
    algorithm = request(submission_of(), profile_of())["algorithm"]
    (output,) = algorithm["outputs"]
    outside = algorithm["environments"]["SEGADAPT_CHECKPOINTS_AT"]
    assert outside == "obs://towns/runs/tiny"
    assert output["remote"]["obs"]["obs_url"] == outside.removeprefix("obs:/") + "/"


def test_the_shipped_profile_needs_no_keys_in_the_job() -> None:
    """Weights come by a channel, as data do."""
    profile = load_profile(ROOT / "job_specs/platforms/modelarts.yaml")
    for name in ("advent", "vgg16_advent"):
        job = load_spec(ROOT / f"job_specs/gta5_to_cityscapes/{name}.yaml")
        asked = request(submission_of(job), profile)
        assert not profile.secret_names()
        assert all(isinstance(one, str) for one in asked["algorithm"]["environments"].values())
        inputs = {
            one["name"]: one["remote"]["obs"]["obs_url"] for one in asked["algorithm"]["inputs"]
        }
        assert inputs["weights"] == "/my-bucket/weights/encoder/"


def test_weights_that_the_spec_does_not_name_are_no_input() -> None:
    values = profile_of(inputs={**SMALL["inputs"], "weights": "obs://towns/w"})
    with pytest.raises(JobError, match=r"inputs\.weights: expected model\.weights_uri in the"):
        request(submission_of(), values)


def test_an_input_that_the_job_has_no_use_for_is_refused() -> None:
    source_only = job_of(method={"name": "source_only"}, target=None)
    with pytest.raises(
        JobError,
        match=r"inputs\.target: expected a section target in the job spec, got none\. Fix: "
        r"remove it",
    ):
        request(submission_of(source_only), profile_of())


def test_a_run_whose_name_is_no_folder_in_obs_is_refused() -> None:
    with pytest.raises(JobError, match=r"name: expected letters, digits, _ \. and - for a run"):
        request(submission_of(job_of(name="my run")), profile_of())


@pytest.mark.parametrize("name", ["x" * 60, "a b"])
def test_a_name_that_modelarts_refuses_is_refused(name: str) -> None:
    with pytest.raises(JobError, match="name: expected up to 64 letters, digits, _ and -, got"):
        request(submission_of(name=name), profile_of())


def test_a_spec_too_long_for_a_variable_names_the_cure() -> None:
    names = [f"class {os.urandom(16).hex()}" for _ in range(100)]
    classes = [
        {"name": name, "colour": [number, 0, 0], "ids": {"tiny": [number]}}
        for number, name in enumerate(names)
    ]
    with pytest.raises(JobError, match=r"SEGADAPT_SPEC_BASE64: expected at most 4096 .* spec_uri"):
        request(submission_of(job_of(classes=classes)), profile_of())
