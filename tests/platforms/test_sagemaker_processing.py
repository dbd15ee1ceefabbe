"""The processing jobs of `predict --to` on SageMaker: requests, the client beside the strict
double, and what a container of one knows."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from adapt.config.strict_yaml import packed
from adapt.errors import JobError
from adapt.places import find_place
from adapt.platforms import PLATFORMS
from adapt.platforms.platform import Request
from adapt.platforms.predict_jobs import facts_of, prepare_prediction
from adapt.platforms.sagemaker.job_kinds import processing_status
from adapt.spec.loading import parse_spec
from storage.stores import Stores
from tests.commands import call, finish, start
from tests.conftest import tiny_values
from tests.platforms.predict_samples import ASKED, SET, profile
from tests.platforms.sagemaker_double import SageMakerDouble
from tests.platforms.sagemaker_jobs import KEYS, client, request
from tests.platforms.sagemaker_jobs import profile as profile_at
from tests.platforms.test_sagemaker_client import write_files

FIRST, SECOND = f"{SET.name}-0", f"{SET.name}-1"


def requests(aws: SageMakerDouble, *overrides: str) -> dict[str, Request]:
    return PLATFORMS["sagemaker"].predict(SET, profile_at(aws.url, *overrides))


def one_request(*overrides: str, **changes: Any) -> Request:
    asked = SET._replace(slices=(0,), **changes)
    (found,) = PLATFORMS["sagemaker"].predict(asked, profile("sagemaker", *overrides)).values()
    return found


def test_a_slice_goes_through_its_states(aws: SageMakerDouble) -> None:
    connected = client(aws)
    for name, body in requests(aws).items():
        assert connected.submit(body) == name
    assert [connected.status(FIRST).state for _ in range(3)] == ["waiting", "running", "done"]
    assert connected.status(FIRST).exit_code == 0
    assert "DescribeTrainingJob" not in aws.actions(), "the kind of what was sent is known"


def test_what_is_sent_is_the_request(aws: SageMakerDouble) -> None:
    overrides = (
        "vpc={subnets: [subnet-1], security_groups: [sg-1]}", "encrypt_traffic=true",
        "instance_type=ml.m5.xlarge", "volume_gb=50", "volume_kms_key=alias/k",
    )  # fmt: skip
    asked = requests(aws, *overrides)[FIRST]
    client(aws).submit(asked)
    assert aws.calls[0].given == asked
    assert asked["ProcessingResources"]["ClusterConfig"] == {
        "InstanceType": "ml.m5.xlarge", "InstanceCount": 1, "VolumeSizeInGB": 50,
        "VolumeKmsKeyId": "alias/k",
    }  # fmt: skip
    assert asked["NetworkConfig"] == {
        "EnableInterContainerTrafficEncryption": True,
        "VpcConfig": {"Subnets": ["subnet-1"], "SecurityGroupIds": ["sg-1"]},
    }


def test_a_job_of_another_machine_is_found_among_both_kinds(aws: SageMakerDouble) -> None:
    client(aws).submit(requests(aws)[FIRST])
    client(aws).submit(request(aws))
    fresh = client(aws)
    assert fresh.status(FIRST).state == "waiting" and fresh.status("tiny-1").state == "waiting"
    with pytest.raises(JobError, match="no-1: there is no such job in this account and region"):
        fresh.status("no-1")
    aws.fails("DescribeProcessingJob", "ResourceNotFound", "odd")
    with pytest.raises(JobError, match="no-1: there is no such job in this account and region"):
        fresh.stop("no-1")
    aws.fails("DescribeTrainingJob", "AccessDeniedException", "not authorized")
    with pytest.raises(JobError, match="no-1: the credentials may not do this"):
        fresh.status("no-1")


def test_a_stop_is_asked_and_what_has_ended_is_left_as_it_is(aws: SageMakerDouble) -> None:
    client(aws).submit(requests(aws)[FIRST])
    connected = client(aws)
    connected.stop(FIRST)
    assert [connected.status(FIRST).state for _ in range(2)] == ["running", "stopped"]
    connected.stop(FIRST)
    assert aws.actions().count("StopProcessingJob") == 2 and "StopTrainingJob" not in aws.actions()
    aws.states[FIRST] = ["InProgress"]
    aws.fails("StopProcessingJob", "AccessDeniedException", "not authorized")
    with pytest.raises(JobError, match=f"{FIRST}: the credentials may not do this"):
        connected.stop(FIRST)


def test_both_kinds_are_listed_the_newest_first(aws: SageMakerDouble) -> None:
    connected = client(aws)
    connected.submit(request(aws, "a"))
    for body in requests(aws).values():
        connected.submit(body)
    connected.submit(request(aws, "b"))
    third = requests(aws)[FIRST] | {"ProcessingJobName": f"{SET.name}-2"}
    connected.submit(third)
    connected.submit(third | {"ProcessingJobName": "predict-of-others"})
    verifying = "verify-predict-town-261130-120000-0"
    connected.submit(third | {"ProcessingJobName": verifying})
    aws.states[SECOND] = ["Running"]
    aws.states[FIRST], aws.said = ["Failed"], "DataError: 1 bad file"
    assert [(one.job, one.state) for one in client(aws).jobs()] == [
        (verifying, "waiting"),
        (f"{SET.name}-2", "waiting"),
        ("b", "waiting"),
        (SECOND, "running"),
        (FIRST, "failed"),
        ("a", "waiting"),
    ]


def test_lines_come_from_the_log_of_processing_jobs(aws: SageMakerDouble) -> None:
    client(aws).submit(requests(aws)[FIRST])
    aws.streams[f"{FIRST}/algo-1-1700000000"] = [(1, "predicting"), (2, "2 images")]
    aws.streams[f"{FIRST}1/algo-1-1700000000"] = [(1, "another job's")]
    connected = client(aws)
    assert list(connected.logs(FIRST, follow=False)) == ["predicting", "2 images"]
    assert list(connected.logs(FIRST, follow=True)) == ["predicting", "2 images"]


def test_a_job_that_arrived_though_the_answer_was_lost_is_submitted_once(
    aws: SageMakerDouble,
) -> None:
    aws.broken.add("CreateProcessingJob")
    assert client(aws).submit(requests(aws)[FIRST]) == FIRST
    assert aws.actions() == ["CreateProcessingJob"] * 2
    with pytest.raises(JobError, match=f"{FIRST}: there is a job of this name already"):
        client(aws).submit(requests(aws)[FIRST])


@pytest.mark.parametrize(
    ("first", "reason", "said", "state", "code", "detail"),
    [
        ("InProgress", "", "", "waiting", None, "InProgress"),
        ("Stopping", "", "", "running", None, "Stopping"),
        ("Stopped", "", "", "stopped", None, "Stopped"),
        ("Completed", "", "", "done", 0, "Completed"),
        ("Failed", "AlgorithmError: , exit code: 4", "DataError: 1 bad\nfile", "failed", 4,
         "Failed: DataError: 1 bad file [AlgorithmError: , exit code: 4]"),
        ("Failed", "AlgorithmError: , exit code: 75", "", "interrupted", 75,
         "Failed: AlgorithmError: , exit code: 75"),
        ("Failed", "InternalServerError: We encountered", "", "interrupted", None,
         "Failed: InternalServerError: We encountered"),
        ("Failed", "ClientError: pull", "", "failed", None, "Failed: ClientError: pull"),
        ("Deleting", "", "", "unknown", None, "Deleting"),
    ],
)  # fmt: skip
def test_states_are_told_in_our_words(
    first: str, reason: str, said: str, state: str, code: int | None, detail: str
) -> None:
    answer = {"ProcessingJobName": "j", "ProcessingJobStatus": first}
    answer |= {"FailureReason": reason} if reason else {}
    status = processing_status({**answer, **({"ExitMessage": said} if said else {})})
    assert status == ("j", state, detail, code)


def test_a_run_time_beyond_that_of_processing_jobs_is_refused() -> None:
    said = r"^max_hours: expected at most 216 for the processing jobs of `predict`, got 240\. Fix: "
    with pytest.raises(JobError, match=said + "lower it"):
        one_request("max_hours=240", "max_wait_hours=300")
    body = one_request("max_hours=216", "max_wait_hours=300")
    assert body["StoppingCondition"] == {"MaxRuntimeInSeconds": 777600}


def test_a_value_that_processing_jobs_do_not_take_is_named() -> None:
    with pytest.raises(JobError, match=r"environment\.LONG: expected at most 256 characters, got"):
        one_request(f"environment.LONG={'x' * 257}")
    with pytest.raises(JobError, match="instance_type: expected a name that AWS knows"):
        one_request("instance_type=ml.c5n.xlarge", "volume_gb=9")


def test_a_spec_travels_in_variables_and_arrives(tmp_path: Path) -> None:
    text = packed(parse_spec(tiny_values("s3://data/tiny", "s3://data/runs"), "tiny").to_yaml())
    body = one_request(spec=text)
    variables = body["Environment"]
    parts = {name: value for name, value in variables.items() if name.startswith("SEGADAPT_SPEC")}
    assert len(parts) > 4 and max(map(len, parts.values())) == 256
    words = body["AppSpecification"]["ContainerArguments"]
    assert words[-4:-2] == ["--spec", "env:SEGADAPT_SPEC_BASE64"]
    root = container(tmp_path, body)
    assert find_place(variables, root).environment["SEGADAPT_SPEC_BASE64"] == text
    del variables["SEGADAPT_SPEC_BASE64_1"]
    with pytest.raises(JobError, match="variables: expected SEGADAPT_SPEC_BASE64_0 and so on, wi"):
        find_place(variables, root)


def test_a_spec_that_is_too_long_for_the_variables() -> None:
    with pytest.raises(JobError, match="--spec: expected at most 24576 characters in base64, got"):
        one_request(spec="x" * 24577)
    assert len(one_request(spec="x" * 24576)["Environment"]) == 100


@pytest.mark.usefixtures("unpinned")
def test_machines_on_demand_are_told_where_spot_is_asked() -> None:
    def facts(*overrides: str) -> dict[str, str]:
        return facts_of(prepare_prediction(ASKED, profile("sagemaker", *overrides), Stores({})))

    told = facts()
    assert told["machines"].startswith("on demand: slices are processing jobs, which have no sp")
    assert told["price"] == "that of machines on demand; price_per_hour is of spot machines"
    plain = facts("spot=false", "max_wait_hours=null", "price_per_hour=1.5")
    assert "machines" not in plain and plain["price"] == "6.00 USD an hour while all run"
    assert "price" not in facts("price_per_hour=null")


def container(root: Path, body: Request, hosts: tuple[str, ...] = ("algo-1",)) -> Path:
    """The files of a processing job's container: its description, and its hosts."""
    (root / "opt/ml/config").mkdir(parents=True)
    (root / "opt/ml/output").mkdir()
    (root / "opt/ml/config/processingjobconfig.json").write_text(json.dumps(body))
    names = {"current_host": hosts[-1], "hosts": [*hosts]}
    (root / "opt/ml/config/resourceconfig.json").write_text(json.dumps(names))
    return root


def test_a_container_of_a_processing_job_is_recognised(tmp_path: Path) -> None:
    root = container(tmp_path, one_request(), ("algo-1", "algo-2"))
    place = find_place({}, root)
    assert (place.platform, place.job, place.grace_s) == ("sagemaker", FIRST, 30)
    assert (place.node, place.num_nodes, place.master_addr) == (1, 2, "algo-1")
    assert place.failure_file == root / "opt/ml/output/message"
    assert place.overrides == () and place.model_dir is None and place.spec is None
    assert find_place({"SEGADAPT_GRACE_S": "60"}, root).grace_s == 60


def test_a_container_that_contradicts_itself_says_so_where_sagemaker_looks(tmp_path: Path) -> None:
    root = container(tmp_path, one_request())
    (root / "opt/ml/config/resourceconfig.json").unlink()
    ended = call("version", folder=tmp_path, environment={"SEGADAPT_ROOT": str(root)})
    said = (root / "opt/ml/output/message").read_text()
    assert ended.code == 2 and "expected current_host to be one of hosts, got None" in said


@pytest.mark.slow
def test_a_command_that_fails_says_why_where_sagemaker_looks(tmp_path: Path) -> None:
    root = container(tmp_path / "root", one_request())
    variables = {**one_request()["Environment"], "SEGADAPT_ROOT": str(root)}
    ended = finish(start("status", "nothing", folder=tmp_path, environment=variables))
    said = (root / "opt/ml/output/message").read_text()
    assert ended.code == 2 and said.startswith("JobError: JOB: expected a job that was submitted")


@pytest.mark.usefixtures("unpinned")
def test_the_commands_show_send_and_stop_a_set(aws: SageMakerDouble, tmp_path: Path) -> None:
    write_files(aws, tmp_path)
    here = {**KEYS, "XDG_STATE_HOME": str(tmp_path)}
    words = ("predict", "s3://my-bucket/w.safetensors", "s3://my-bucket/photos", "--out",
             "s3://my-bucket/seen", "--to", "profile.yaml", "--slices", 2)  # fmt: skip
    shown = call(*words, "--dry-run", folder=tmp_path, environment=here)
    assert shown.code == 0 and aws.calls == [], shown.err
    dry = yaml.safe_load(shown.out)
    sent = call(*words, "--yes", folder=tmp_path, environment=here)
    assert sent.code == 0, sent.err
    assert "on demand: slices are processing jobs" in " ".join(sent.err.split())
    first, _ = aws.processing
    assert set(aws.processing[first]) - {"ProcessingJobArn", "CreationTime"} == set(
        next(iter(dry.values()))
    )
    aws.streams[f"{first}/algo-1-1"] = [(1, "2 images")]
    assert call("logs", first, folder=tmp_path, environment=here).out == "2 images\n"
    stopped = call("stop", first, folder=tmp_path, environment=here)
    assert stopped.code == 0 and "stopping" in stopped.err
    listed = call("jobs", "--to", "profile.yaml", "--json", folder=tmp_path, environment=here)
    assert {one["job"] for one in json.loads(listed.out)} == {*aws.processing}
