"""SageMaker's profile and requests: golden files, and all that is refused before it is sent.

`GOLDEN_WRITE=1 pytest tests/platforms/test_sagemaker.py` writes the golden files anew.
"""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from adapt.cli.live import describe
from adapt.config.strict_yaml import unpacked
from adapt.errors import JobError
from adapt.evaluation.evaluate import Score
from adapt.platforms import PLATFORMS, load_profile
from adapt.platforms.platform import Submission
from adapt.platforms.sagemaker.errors import PROBLEMS
from adapt.platforms.sagemaker.request import METRICS
from adapt.spec.job_spec import JobSpec
from adapt.spec.loading import parse_spec
from tests.cli.test_live import REPORT
from tests.commands import ROOT
from tests.conftest import tiny_values
from tests.platforms.sagemaker_double import SageMakerDouble

GOLDEN = Path(__file__).parent / "golden"
PROFILES = ROOT / "job_specs/platforms"
ROW = PLATFORMS["sagemaker"]
LEAST = {
    "platform": "sagemaker",
    "region": "us-east-1",
    "role_arn": "arn:aws:iam::111122223333:role/segadapt",
    "image": "111122223333.dkr.ecr.us-east-1.amazonaws.com/segadapt:0.1.0",
    "instance_type": "ml.g5.xlarge",
    "output_uri": "s3://bucket/out",
}


def job(**changes: Any) -> JobSpec:
    return parse_spec(tiny_values("s3://data/tiny", "s3://data/runs") | changes, "tiny")


def profile(folder: Path, **changes: Any) -> Any:
    values = {key: value for key, value in (LEAST | changes).items() if value is not None}
    (folder / "profile.yaml").write_text(yaml.safe_dump(values))
    return load_profile(folder / "profile.yaml")


def request(folder: Path, of: JobSpec | None = None, **changes: Any) -> dict[str, Any]:
    return ROW.request(Submission("town-1", of or job()), profile(folder, **changes))


@pytest.mark.parametrize("name", ["sagemaker", "sagemaker_two_nodes"])
def test_a_request_is_as_its_golden_file(name: str) -> None:
    asked = ROW.request(Submission("tiny-261127-1", job()), load_profile(PROFILES / f"{name}.yaml"))
    parts = asked["HyperParameters"]
    text = "".join(parts[f"spec_base64_{number}"] for number in range(len(parts)))
    assert unpacked(text, "spec").decode() == job().to_yaml()
    asked["HyperParameters"] = {"spec_base64_0": "(the job spec)"}  # new keys are no news here
    golden = GOLDEN / f"{name}.json"
    if os.environ.get("GOLDEN_WRITE"):
        golden.write_text(json.dumps(asked, indent=2) + "\n")
    assert asked == json.loads(golden.read_text())


def test_a_long_job_spec_is_cut_and_comes_together_again(tmp_path: Path) -> None:
    table = [
        {"name": os.urandom(200).hex(), "colour": [n, 0, 0], "ids": {"tiny": [n]}} for n in range(9)
    ]
    long = job(classes=table)
    parts = request(tmp_path, long)["HyperParameters"]
    assert len(parts) > 1 and max(map(len, parts.values())) == 2500
    text = "".join(parts[f"spec_base64_{number}"] for number in range(len(parts)))
    assert unpacked(text, "spec").decode() == long.to_yaml()


def test_gpus_and_their_memory_follow_from_the_machine(tmp_path: Path) -> None:
    one = profile(tmp_path)
    assert (one.gpus, one.gpu_memory_gb) == (1, 24)
    four = profile(tmp_path, instance_type="ml.g5.12xlarge", gpus=4, gpu_memory_gb=22.5)
    assert (four.gpus, four.gpu_memory_gb) == (4, 22.5)
    cpu = profile(tmp_path, instance_type="ml.m5.xlarge", volume_gb=50)
    assert (cpu.gpus, cpu.gpu_memory_gb) == (0, None)
    assert profile(tmp_path, instance_type="ml.p2.xlarge", volume_gb=50, gpus=1).gpus == 1


def test_the_platform_restarts_spot_jobs_alone(tmp_path: Path) -> None:
    assert not ROW.restarts(profile(tmp_path)) and ROW.grace_s(profile(tmp_path)) == 120
    assert ROW.restarts(profile(tmp_path, spot=True, max_wait_hours=30))


def test_what_a_profile_leaves_out_is_not_asked(tmp_path: Path) -> None:
    asked = request(tmp_path)
    absent = {"CheckpointConfig", "InputDataConfig", "VpcConfig", "RetryStrategy"}
    assert not absent & asked.keys()
    assert asked["ResourceConfig"] == {"InstanceType": "ml.g5.xlarge", "InstanceCount": 1}
    assert asked["StoppingCondition"] == {"MaxRuntimeInSeconds": 86_400}
    assert "EnableNetworkIsolation" not in asked


def test_fractions_of_hours_are_whole_seconds(tmp_path: Path) -> None:
    stopping = request(tmp_path, max_hours=0.0001)["StoppingCondition"]
    assert stopping == {"MaxRuntimeInSeconds": 1}
    assert request(tmp_path, max_hours=1.5)["StoppingCondition"]["MaxRuntimeInSeconds"] == 5400


NO_SECRETS = r"let role_arn reach S3, .*: SageMaker has no secrets for jobs, and its API shows"


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"region": "Frankfurt"}, r"region: expected a region's code, such as us-east-1, got .*"),
        (
            {"endpoint_urls": {"ecr": "nowhere"}},
            r"endpoint_urls: expected https://HOST for ecr, got 'nowhere'",
        ),
        ({"role_arn": None}, r"role_arn: missing, expected a text"),
        ({"image": "segadapt:0.1.0"}, r"image: expected an image of a private ECR repository, .*"),
        (
            {"region": "eu-west-1"},
            r"image: expected one in the job's region \(eu-west-1\), got us-east-1. Fix: push .*",
        ),
        ({"secrets": ["TOKEN"]}, rf"secrets: expected none, got TOKEN. Fix: {NO_SECRETS}.*"),
        (
            {"environment": {"MLFLOW_TRACKING_PASSWORD": "x", "A": "b"}},
            rf"environment: expected no secrets, got MLFLOW_TRACKING_PASSWORD. Fix: {NO_SECRETS}.*",
        ),
        (
            {"environment": {"AWS_SECRET_ACCESS_KEY": "x", "HF_TOKEN": "y"}},
            r"environment: expected no secrets, got AWS_SECRET_ACCESS_KEY, HF_TOKEN. Fix: .*",
        ),
        ({"network_isolation": True}, r"network_isolation: expected false, got true: an isol.*"),
        ({"tags": {"segadapt": "x"}}, r"tags: expected other tags than segadapt, by which .*"),
        ({"gpus": 8}, r"gpus: expected 1, as ml.g5.xlarge has, got 8. Fix: remove the key\."),
        ({"instance_type": "ml.trn1.2xlarge"}, r"instance_type: expected NVIDIA .* \(Trainium\)"),
        ({"volume_gb": 100}, r"volume_gb: expected none, as ml.g5.xlarge has disks .*, got 100.*"),
        (
            {"volume_kms_key": "k"},
            r"volume_kms_key: expected none, as ml.g5.xlarge has disks .*, got k.*",
        ),
        ({"instance_type": "ml.m5.large"}, r"volume_gb: missing, .*: ml.m5.large has none of .*"),
        (
            {"max_wait_hours": 30},
            r"max_wait_hours: expected none without spot, got .*. Fix: set spot: true or .*",
        ),
        (
            {"spot": True},
            r"max_wait_hours: missing, expected with spot, where it bounds .* max_hours \(24\)",
        ),
        (
            {"spot": True, "max_wait_hours": 23},
            r"max_wait_hours: expected at least max_hours \(24\), since it counts .*, got 23",
        ),
        (
            {"spot": True, "max_wait_hours": 24, "keep_alive_s": 60},
            r"keep_alive_s: expected none with spot, whose machines are not kept, got 60. Fix: "
            r"remove it or set spot: false\.",
        ),
        ({"max_hours": 673}, r"max_hours: expected a number > 0 and <= 672, got 673\. Fix: .*"),
        (
            {"channels": {"target": {"uri": "s3://b/x", "mode": "Pipe"}}},
            r"channels.target.mode: .*",
        ),
        ({"channels": {"more": {"uri": "s3://b/x"}}}, r"channels.more.*: expected .*"),
    ],
)
def test_a_profile_that_cannot_work_is_refused(
    changes: dict[str, Any], complaint: str, tmp_path: Path
) -> None:
    with pytest.raises(JobError) as caught:
        profile(tmp_path, **changes)
    said = str(caught.value).partition(".yaml: ")[2]
    assert re.fullmatch(complaint, said.splitlines()[0]), said


def test_names_that_only_sound_like_secrets_pass(tmp_path: Path) -> None:
    assert profile(tmp_path, environment={"TOKENIZERS_PARALLELISM": "1", "KEYS": "2"}).environment


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"role_arn": "segadapt"}, r"role_arn: expected at least 20 characters, got 8"),
        ({"instance_type": "ml.g5.3xlarge"}, r"instance_type: .* got 'ml.g5.3xlarge' \(known:.*"),
        ({"environment": {"LONG": "x" * 600}}, r"environment.LONG: .* most 512 characters, .* 600"),
        ({"retries": 31}, r"retries: expected at most 30, got 31"),
        ({"keep_alive_s": 21_601}, r"keep_alive_s: expected at most 21600, got 21601"),
        ({"kms_key": "key with blanks"}, r"kms_key: expected a text of the form .*"),
        ({"tags": {"a": "x" * 257}}, r"tags.1.Value: expected at most 256 characters, got 257"),
        ({"output_uri": "/opt/ml"}, r"output_uri: expected s3://BUCKET/PREFIX, got '/opt/ml'"),
        ({"checkpoint_uri": "obs://b"}, r"checkpoint_uri: expected s3://BUCKET/PREFIX, got .*"),
        (
            {"channels": {"target": {"uri": "data/city"}}},
            r"channels.target.uri: expected s3://BUCKET/PREFIX, got 'data/city'",
        ),
        (
            {
                "channels": {
                    "source": {"uri": "s3://b/a"},
                    "target": {"uri": "s3://b/" + "x" * 1024},
                }
            },
            r"channels.target.uri: expected at most 1024 characters, got 1032",
        ),
        (
            {"vpc": {"subnets": [], "security_groups": ["sg-1"]}},
            r"vpc.subnets: expected at least 1.*",
        ),
        (
            {"vpc": {"subnets": ["s"], "security_groups": ["sg_1"]}},
            r"vpc.security_groups.0: expected a text of the form .*",
        ),
    ],
)
def test_what_sagemaker_would_refuse_is_named_by_the_profiles_key(
    changes: dict[str, Any], complaint: str, tmp_path: Path
) -> None:
    with pytest.raises(JobError) as caught:
        request(tmp_path, **changes)
    assert re.fullmatch(complaint, str(caught.value).splitlines()[0]), str(caught.value)


def test_names_with_underscores_are_refused(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="name: expected a text of the form"):
        ROW.request(Submission("my_town", job()), profile(tmp_path))


def test_file_paths_of_this_machine_are_refused(tmp_path: Path) -> None:
    here = parse_spec(tiny_values("data/tiny", "runs"), "tiny")
    with pytest.raises(JobError) as caught:
        request(tmp_path, here)
    said = str(caught.value).splitlines()
    assert said[0] == (
        "source.uri: expected the URI of a store, channels.source in the profile or a path below "
        "/opt/segadapt, got 'data/tiny', a path that the job's container does not have or that "
        "is lost with it"
    )
    assert said[1].startswith("checkpoint.uri: expected the URI of a store or checkpoint_uri in")
    assert len(said) == 4


def test_what_sagemaker_brings_may_stand_anywhere_in_the_spec(tmp_path: Path) -> None:
    here = parse_spec(tiny_values("data/tiny", "runs"), "tiny")
    channels = {name: {"uri": "s3://b/tiny"} for name in ("source", "target", "validation")}
    asked = request(tmp_path, here, channels=channels, checkpoint_uri="s3://b/runs")
    first = asked["InputDataConfig"][0]
    assert first["DataSource"]["S3DataSource"]["S3Uri"] == "s3://b/tiny/"


def test_each_run_mirrors_a_folder_of_its_own_and_mlflow_is_told_it(tmp_path: Path) -> None:
    for name in ("town", "city"):
        mirror = f"s3://b/runs/{name}"
        asked = request(tmp_path, job(name=name), checkpoint_uri="s3://b/runs/")
        assert asked["CheckpointConfig"] == {"S3Uri": mirror, "LocalPath": "/opt/ml/checkpoints"}
        assert asked["Environment"]["SEGADAPT_CHECKPOINTS_AT"] == mirror
    assert "SEGADAPT_CHECKPOINTS_AT" not in request(tmp_path)["Environment"]


def test_weights_may_be_in_the_image_but_not_beside_the_spec(tmp_path: Path) -> None:
    model = tiny_values("", "")["model"]
    request(tmp_path, job(model={**model, "weights_uri": "/opt/segadapt/weights/a.safetensors"}))
    for path in ("weights/a.safetensors", "/home/me/a.safetensors"):
        with pytest.raises(JobError, match=r"model.weights_uri: expected the URI of a store or a"):
            request(tmp_path, job(model={**model, "weights_uri": path}))


def test_stores_with_keys_of_their_own_are_refused(tmp_path: Path) -> None:
    keys = {"access_key_env": "A", "secret_key_env": "B"}
    with pytest.raises(
        JobError, match=rf"stores.s3.access_key_env: expected none, got one. Fix: {NO_SECRETS}"
    ):
        request(tmp_path, job(stores={"s3": keys}))
    unused = {"obs": {**keys, "endpoint_url": "https://obs.example"}}
    assert request(tmp_path, job(stores=unused))


LOSSES = {
    "segmentation/main": 0.51234,
    "segmentation/aux": 1.25,
    "adversarial/main": 1e-7,
    "adversarial/aux": 0.7,
    "entropy/main": 0.3,
    "confusion/source": 0.4,
    "discriminator_source/main": 0.69,
    "discriminator_target/main": 12345678.0,
}


def test_metrics_are_read_from_the_lines_that_jobs_print() -> None:
    seen = describe(REPORT._replace(losses=LOSSES))
    figures = {"miou": 0.4379, "pixel_accuracy": 0.9, "miou_synthia16": 0.5, "miou_synthia13": 1.0}
    scored = ", ".join(f"{name} {value:.2%}" for name, value in figures.items())
    lines = [seen, f"2026-11-27 10:00:00,123 INFO step 2000: {scored}"]
    found = {
        name: [match[1] for line in lines if (match := re.search(regex, line))]
        for name, regex in METRICS.items()
    }
    assert {name: values for name, values in found.items() if len(values) != 1} == {}
    assert {name: float(values[0]) for name, values in found.items()} == {
        "validation:miou_percent": 43.79,
        "validation:miou_synthia16_percent": 50.0,
        "validation:miou_synthia13_percent": 100.0,
        "validation:pixel_accuracy_percent": 90.0,
        "loss:segmentation": 0.5123,
        "loss:adversarial": 1e-7,
        "loss:entropy": 0.3,
        "loss:confusion": 0.4,
        "loss:discriminator_source": 0.69,
        "loss:discriminator_target": 1.235e7,
        "speed:samples_per_s": 8.0,
        "speed:waiting_percent": 25.0,
    }


def test_metrics_keep_to_sagemakers_limits() -> None:
    assert len(METRICS) <= 40
    for name, regex in METRICS.items():
        assert len(regex) <= 500 and re.compile(regex).groups == 1, name


def test_every_figure_of_an_evaluation_is_a_metric() -> None:
    import torch

    score = Score(torch.eye(4, dtype=torch.int64), {"synthia16": (0, 1), "synthia13": (0,)})
    drawn = {name.removeprefix("validation:").removesuffix("_percent") for name in METRICS}
    assert score.metrics().keys() <= drawn


def test_a_figure_that_is_not_a_number_is_no_metric() -> None:
    line = "2026-11-27 10:00:00,123 INFO step 3: miou nan%, pixel_accuracy 10.00%"
    assert not re.search(METRICS["validation:miou_percent"], line)


PAGE = (ROOT / "docs/platforms/sagemaker.md").read_text()


def test_the_pages_policies_allow_all_that_is_asked() -> None:
    blocks = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    mine, trust, roles = (json.loads(block) for block in blocks)
    allowed = [set(one["Action"]) for one in mine["Statement"] if isinstance(one["Action"], list)]
    asked = {
        "sagemaker:": ("CreateTrainingJob", "DescribeTrainingJob", "StopTrainingJob", "Search"),
        "logs:": ("DescribeLogStreams", "GetLogEvents"),
        "ecr:": ("DescribeImages",),
        "servicequotas:": ("ListServiceQuotas",),
    }
    needed = {service + action for service, actions in asked.items() for action in actions}
    assert needed <= set().union(*allowed)
    known = {name.removeprefix("_") for name in vars(SageMakerDouble) if re.match(r"_[A-Z]", name)}
    assert known - {"GetCallerIdentity"} == {name.partition(":")[2] for name in needed}
    assert trust["Statement"][0]["Principal"] == {"Service": "sagemaker.amazonaws.com"}
    assert len(roles["Statement"]) == 3


def test_the_page_explains_every_error_of_aws() -> None:
    table = PAGE.partition("## What errors mean")[2]
    for problem, _ in PROBLEMS.values():
        words = problem.split(",")[0][:25]
        assert words in table, words


def test_a_channel_that_replaces_nothing_is_refused(tmp_path: Path) -> None:
    values = tiny_values("s3://data/tiny", "s3://data/runs")
    listed = parse_spec({**values, "source": [values["source"]] * 2}, "tiny")
    one = profile(tmp_path, channels={"source": {"uri": "s3://b/a"}})
    message = r"channels\.source: expected source\.uri in the job spec, .*lists of datasets"
    with pytest.raises(JobError, match=message):
        ROW.request(Submission("tiny-1", listed), one)
