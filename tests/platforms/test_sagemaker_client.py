"""SageMaker's client, as boto3 sends it, against the strict double: jobs and commands."""

from pathlib import Path

import pytest
import yaml

from adapt.errors import JobError
from adapt.platforms import load_profile
from adapt.platforms.platform import Submission
from adapt.platforms.sagemaker.job_kinds import training_status
from adapt.spec.loading import parse_spec
from tests.commands import ROOT, call
from tests.conftest import tiny_values
from tests.platforms.sagemaker_double import RUNS, SageMakerDouble
from tests.platforms.sagemaker_jobs import KEYS, ROW, SERVICES, client, profile, request, started


def test_a_job_goes_through_its_states(aws: SageMakerDouble) -> None:
    connected = client(aws)
    assert connected.submit(request(aws)) == "tiny-1"
    seen = [connected.status("tiny-1") for _ in RUNS]
    assert [status.state for status in seen] == ["waiting", "waiting", "running", "running", "done"]
    assert seen[0].detail == "Starting: Starting now" and seen[-1].exit_code == 0


def test_what_is_sent_is_the_request(aws: SageMakerDouble) -> None:
    asked = request(aws, "tiny-1", "channels.source={uri: s3://my-bucket/a}", "retries=3")
    client(aws).submit(asked)
    assert aws.calls[0].given == asked


def test_two_nodes_are_taken(aws: SageMakerDouble) -> None:
    more = load_profile(
        ROOT / "job_specs/platforms/sagemaker_two_nodes.yaml",
        ["region=us-east-1", f"image={profile(aws.url).image}"],
    )
    spec = parse_spec(tiny_values("s3://data/tiny", "s3://data/runs"), "tiny")
    client(aws).submit(ROW.request(Submission("tiny-2", spec), more))
    assert aws.jobs["tiny-2"]["ResourceConfig"]["InstanceCount"] == 2


def test_the_double_refuses_what_the_service_would(aws: SageMakerDouble) -> None:
    asked = request(aws)
    asked["Environment"]["LONG"] = "x" * 513
    with pytest.raises(
        JobError, match=r"tiny-1: AWS refuses the request \[Valid.*LONG: 513 is above 512"
    ):
        client(aws).submit(asked)
    asked = request(aws)
    del asked["StoppingCondition"]["MaxWaitTimeInSeconds"]
    with pytest.raises(JobError, match="MaxWaitTimeInSeconds below"):
        client(aws).submit(asked)


def test_a_stop_is_asked_and_ends_as_stopped(aws: SageMakerDouble) -> None:
    connected = client(aws)
    connected.submit(request(aws))
    connected.stop("tiny-1")
    assert [connected.status("tiny-1").state for _ in range(2)] == ["running", "stopped"]


def test_a_job_that_ends_or_has_ended_is_left_as_it_is(aws: SageMakerDouble) -> None:
    connected = started(aws)
    connected.stop("tiny-1")
    connected.stop("tiny-1")  # is stopping
    connected.stop("tiny-1")  # has ended
    assert connected.status("tiny-1").state == "stopped"
    assert aws.actions().count("StopTrainingJob") == 3


def test_a_stop_that_aws_refuses_of_a_job_that_runs_is_told(aws: SageMakerDouble) -> None:
    connected = started(aws)
    aws.fails("StopTrainingJob", "AccessDeniedException", "not authorized")
    with pytest.raises(JobError, match="tiny-1: the credentials may not do this"):
        connected.stop("tiny-1")


def test_jobs_are_those_with_our_tag_the_newest_first(aws: SageMakerDouble) -> None:
    connected = client(aws)
    for name in ("a", "b", "c"):
        connected.submit(request(aws, name))
    aws.jobs["other"] = {**aws.jobs["a"], "Tags": [{"Key": "segadapt", "Value": "no"}]}
    aws.scripts["b"] = [("Completed", "Completed")]
    assert [(j.job, j.state) for j in connected.jobs()] == [
        ("c", "waiting"),
        ("b", "done"),
        ("a", "waiting"),
    ]


@pytest.mark.parametrize(
    ("first", "second", "reason", "state", "code"),
    [
        ("InProgress", "Interrupted", "", "waiting", None),
        ("InProgress", "Restarting", "", "waiting", None),
        ("InProgress", "Training", "", "running", None),
        ("Stopped", "Stopped", "", "stopped", None),
        ("Failed", "Failed", "AlgorithmError: JobError: x\ny, exit code: 2", "failed", 2),
        ("Failed", "Failed", "AlgorithmError: Exit Code: 139", "failed", 139),
        ("Failed", "Failed", "AlgorithmError: , exit code: 75", "interrupted", 75),
        ("Failed", "Failed", "InternalServerError: We encountered", "interrupted", None),
        ("Failed", "Failed", "CapacityError: Unable to provision", "interrupted", None),
        ("Failed", "Failed", "ClientError: no objects", "failed", None),
        ("Completed", "Completed", "", "done", 0),
        ("Deleting", "Completed", "", "unknown", None),
    ],
)
def test_states_are_told_in_our_words(
    first: str, second: str, reason: str, state: str, code: int | None
) -> None:
    answer = {"TrainingJobName": "j", "TrainingJobStatus": first, "SecondaryStatus": second}
    status = training_status({**answer, "FailureReason": reason} if reason else answer)
    assert (status.state, status.exit_code) == (state, code)
    assert status.detail == " ".join(f"{second}: {reason}".split()).removesuffix(":")


@pytest.mark.parametrize(
    ("second", "key"),
    [("MaxRuntimeExceeded", "max_hours"), ("MaxWaitTimeExceeded", "max_wait_hours")],
)
def test_a_limit_that_was_set_is_not_passed_by_restarts(second: str, key: str) -> None:
    """`submit --restart` submits again what is `interrupted`."""
    facts = {"TrainingJobName": "j", "TrainingJobStatus": "Stopped", "SecondaryStatus": second}
    status = training_status({**facts, "SecondaryStatusTransitions": [{"StatusMessage": "over"}]})
    assert status.state == "stopped"
    assert status.detail == f"{second}: {key} is over. Fix: submit it again to resume"


def test_a_long_reason_is_shortened() -> None:
    facts = {"TrainingJobName": "j", "TrainingJobStatus": "Failed", "SecondaryStatus": "Failed"}
    assert len(training_status({**facts, "FailureReason": "x" * 1024}).detail) == 300


def write_files(aws: SageMakerDouble, folder: Path) -> None:
    """`tiny.yaml`, a job on S3, and `profile.yaml`, the shipped one against the double."""
    shipped = yaml.safe_load((ROOT / "job_specs/platforms/sagemaker.yaml").read_text())
    addresses = {"endpoint_urls": dict.fromkeys(SERVICES, aws.url)}
    values = tiny_values("s3://my-bucket/tiny", "s3://my-bucket/runs")
    (folder / "profile.yaml").write_text(yaml.safe_dump({**shipped, **addresses}))
    (folder / "tiny.yaml").write_text(yaml.safe_dump(values))


def test_the_commands_take_a_job_from_its_spec_to_its_end(
    aws: SageMakerDouble, tmp_path: Path
) -> None:
    write_files(aws, tmp_path)
    here = {**KEYS, "XDG_STATE_HOME": str(tmp_path)}
    to = ("--to", "profile.yaml")
    ended = call("submit", "tiny.yaml", *to, "--yes", "--follow", folder=tmp_path, environment=here)
    assert ended.code == 0, ended.err
    (name,) = aws.jobs
    assert call("status", name, folder=tmp_path, environment=here).out.startswith(f"{name} done")
    assert name in call("jobs", *to, "--json", folder=tmp_path, environment=here).out
    aws.streams[f"{name}/algo-1-1"] = [(1, "step 1")]
    assert call("logs", name, folder=tmp_path, environment=here).out == "step 1\n"
    again = call("stop", name, folder=tmp_path, environment=here)
    assert again.code == 0, again.err


def test_what_aws_refuses_ends_the_command_with_2(aws: SageMakerDouble, tmp_path: Path) -> None:
    write_files(aws, tmp_path)
    aws.fails("CreateTrainingJob", "ExpiredTokenException", "The security token is expired")
    ended = call(
        "submit", "tiny.yaml", "--to", "profile.yaml", "--yes", folder=tmp_path, environment=KEYS
    )
    assert ended.code == 2 and "the temporary credentials have expired" in ended.err
