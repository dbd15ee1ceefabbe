"""SageMaker's client, as boto3 sends it, against the strict double: jobs, logs, checks, errors."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import yaml
from botocore.loaders import JSONFileLoader

from adapt.errors import JobError
from adapt.platforms import PLATFORMS, load_profile
from adapt.platforms.platform import Finding, Submission
from adapt.platforms.sagemaker import client as module
from adapt.platforms.sagemaker.client import SageMakerClient, status_of
from adapt.spec.job_spec import parse_spec
from storage.errors import StoreUnavailable
from tests.commands import ROOT, call
from tests.conftest import tiny_values
from tests.platforms.aws_server import KEY
from tests.platforms.sagemaker_double import RUNS, Double, aws_double

ROW = PLATFORMS["sagemaker"]
KEYS = {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": "secret"}
SERVICES = ("sagemaker", "logs", "sts", "ecr", "s3", "service-quotas")


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[Double]:
    monkeypatch.setattr(module, "POLL_S", 0.01)
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", no_delay)
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with aws_double() as double:
        yield double


@pytest.fixture(scope="module", autouse=True)
def models_read_once() -> Iterator[None]:
    """botocore reads its large models anew for each session."""
    read = cache(JSONFileLoader().load_file)
    with patch.object(JSONFileLoader, "load_file", lambda _self, path: read(path)):
        yield


def no_delay(*_: object) -> float:
    return 0.0


def profile(url: str, *overrides: str) -> Any:
    addresses = [f"endpoint_urls.{service}={url}" for service in SERVICES]
    return load_profile(ROOT / "job_specs/platforms/sagemaker.yaml", [*addresses, *overrides])


def client(aws: Double, *overrides: str, keys: dict[str, str] = KEYS) -> SageMakerClient:
    connected = ROW.connect(profile(aws.url, *overrides), keys)
    assert isinstance(connected, SageMakerClient)
    return connected


def request(aws: Double, name: str = "tiny-1", *overrides: str) -> dict[str, Any]:
    spec = parse_spec(tiny_values("s3://data/tiny", "s3://data/runs"), "tiny")
    return ROW.request(Submission(name, spec), profile(aws.url, *overrides))


def test_a_job_goes_through_its_states(aws: Double) -> None:
    connected = client(aws)
    assert connected.submit(request(aws)) == "tiny-1"
    seen = [connected.status("tiny-1") for _ in RUNS]
    assert [status.state for status in seen] == ["waiting", "waiting", "running", "running", "done"]
    assert seen[0].detail == "Starting: Starting now" and seen[-1].exit_code == 0


def test_what_is_sent_is_the_request(aws: Double) -> None:
    asked = request(aws, "tiny-1", "channels.source={uri: s3://my-bucket/a}", "retries=3")
    client(aws).submit(asked)
    assert aws.calls[0].given == asked


def test_two_nodes_are_taken(aws: Double) -> None:
    more = load_profile(
        ROOT / "job_specs/platforms/sagemaker_two_nodes.yaml",
        ["region=us-east-1", f"image={profile(aws.url).image}"],
    )
    spec = parse_spec(tiny_values("s3://data/tiny", "s3://data/runs"), "tiny")
    client(aws).submit(ROW.request(Submission("tiny-2", spec), more))
    assert aws.jobs["tiny-2"]["ResourceConfig"]["InstanceCount"] == 2


def test_the_double_refuses_what_the_service_would(aws: Double) -> None:
    asked = request(aws)
    asked["Environment"]["LONG"] = "x" * 513
    with pytest.raises(JobError, match=r"tiny-1: AWS refuses it \[Valid.*LONG: 513 is above 512"):
        client(aws).submit(asked)
    asked = request(aws)
    del asked["StoppingCondition"]["MaxWaitTimeInSeconds"]
    with pytest.raises(JobError, match="MaxWaitTimeInSeconds below"):
        client(aws).submit(asked)


def test_a_stop_is_asked_and_ends_as_stopped(aws: Double) -> None:
    connected = client(aws)
    connected.submit(request(aws))
    connected.stop("tiny-1")
    assert [connected.status("tiny-1").state for _ in range(2)] == ["running", "stopped"]


def test_a_job_that_ends_or_has_ended_is_left_as_it_is(aws: Double) -> None:
    connected = started(aws)
    connected.stop("tiny-1")
    connected.stop("tiny-1")  # is stopping
    connected.stop("tiny-1")  # has ended
    assert connected.status("tiny-1").state == "stopped"
    assert aws.actions().count("StopTrainingJob") == 3


def test_a_stop_that_aws_refuses_of_a_job_that_runs_is_told(aws: Double) -> None:
    connected = started(aws)
    aws.fails("StopTrainingJob", "AccessDeniedException", "not authorized")
    with pytest.raises(JobError, match="tiny-1: the credentials may not do this"):
        connected.stop("tiny-1")


def test_jobs_are_those_with_our_tag_the_newest_first(aws: Double) -> None:
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
    status = status_of({**answer, "FailureReason": reason} if reason else answer)
    assert (status.state, status.exit_code) == (state, code)
    assert status.detail == " ".join(f"{second}: {reason}".split()).removesuffix(":")


@pytest.mark.parametrize(
    ("second", "key"),
    [("MaxRuntimeExceeded", "max_hours"), ("MaxWaitTimeExceeded", "max_wait_hours")],
)
def test_a_limit_that_was_set_is_not_passed_by_restarts(second: str, key: str) -> None:
    """`submit --restart` submits again what is `interrupted`."""
    facts = {"TrainingJobName": "j", "TrainingJobStatus": "Stopped", "SecondaryStatus": second}
    status = status_of({**facts, "SecondaryStatusTransitions": [{"StatusMessage": "over"}]})
    assert status.state == "stopped"
    assert status.detail == f"{second}: {key} is over; submit it again to go on"


def test_a_long_reason_is_shortened() -> None:
    facts = {"TrainingJobName": "j", "TrainingJobStatus": "Failed", "SecondaryStatus": "Failed"}
    assert len(status_of({**facts, "FailureReason": "x" * 1024}).detail) == 300


def started(aws: Double, *overrides: str) -> SageMakerClient:
    connected = client(aws)
    connected.submit(request(aws, "tiny-1", *overrides))
    aws.calls.clear()
    return connected


def test_lines_of_a_machine_come_as_they_are(aws: Double) -> None:
    connected = started(aws)
    assert list(connected.logs("tiny-1", follow=False)) == []  # no group yet
    aws.streams["tiny-1/algo-1-1"] = [(n, f"line {n}") for n in range(7)] + [(9, "two\nlines")]
    aws.streams["tiny-12/algo-1-1"] = [(1, "another job's")]
    lines = list(connected.logs("tiny-1", follow=False))
    assert lines == [*(f"line {n}" for n in range(7)), "two", "lines"]


def test_lines_of_several_machines_are_merged_by_time(aws: Double) -> None:
    connected = started(aws, "nodes=2")
    aws.streams["tiny-1/algo-1-1"] = [(1, "a"), (4, "d"), (5, "e")]
    aws.streams["tiny-1/algo-2-1"] = [(2, "b"), (3, "c")]
    lines = list(connected.logs("tiny-1", follow=False))
    assert lines == ["algo-1 | a", "algo-2 | b", "algo-2 | c", "algo-1 | d", "algo-1 | e"]


def test_followed_lines_come_once_also_after_a_restart_and_late(aws: Double) -> None:
    connected = started(aws)
    first = [(1, "start"), (2, "step 1")]
    aws.scripts["tiny-1"] = [
        ("InProgress", "Training"),
        ("InProgress", "Interrupted"),
        *[("InProgress", "Training")] * 3,
        ("Completed", "Completed"),
    ]
    again = [(5, "resumed"), (6, "step 2")]
    aws.later = [
        {},
        {"tiny-1/algo-1-100": first},
        {"tiny-1/algo-1-100": first, "tiny-1/algo-1-200": again},
        *[{}] * 3,  # quiet for two looks while it runs, and at its end
        {"tiny-1/algo-1-200": [*again, (7, "done, said late")]},
    ]
    lines = list(connected.logs("tiny-1", follow=True))
    assert lines == ["start", "step 1", "resumed", "step 2", "done, said late"]


@pytest.mark.parametrize("action", ["DescribeTrainingJob", "DescribeLogStreams", "GetLogEvents"])
def test_an_outage_ends_no_following(
    action: str, aws: Double, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("adapt.platforms.platform.AGAIN_S", 0.01)
    connected = started(aws, "nodes=2")
    aws.streams["tiny-1/algo-1-1"] = [(1, "a"), (3, "c"), (5, "e")]
    aws.streams["tiny-1/algo-2-1"] = [(2, "b"), (4, "d")]
    lines = connected.logs("tiny-1", follow=True)
    if action == "DescribeTrainingJob":
        aws.fails(action, "Odd", "", 500, times=9)  # boto3 itself asks four times
    assert next(lines) == "algo-1 | a"
    if action == "DescribeLogStreams":
        aws.streams["tiny-1/algo-1-2"] = [(6, "f")]
    aws.fails(action, "Odd", "", 500, times=9)
    told = [line.partition(" | ")[2] for line in lines]
    assert told == ["b", "c", "d", "e", *("f" if action == "DescribeLogStreams" else "")]
    assert "it is asked again for 10 minutes" in caplog.text
    aws.fails(action, "Odd", "", 500, times=4)
    with pytest.raises(StoreUnavailable):
        list(connected.logs("tiny-1", follow=False))


def test_a_name_in_use_is_named(aws: Double) -> None:
    connected = client(aws)
    connected.submit(request(aws))
    with pytest.raises(JobError, match=r"tiny-1: there is a job of this name already; submit ag"):
        connected.submit(request(aws))


def test_a_job_that_arrived_though_the_answer_was_lost_is_submitted_once(aws: Double) -> None:
    aws.broken.add("CreateTrainingJob")
    assert client(aws).submit(request(aws)) == "tiny-1"
    assert aws.actions() == ["CreateTrainingJob"] * 2 and list(aws.jobs) == ["tiny-1"]


ROLE = "arn:aws:iam::111122223333:role/segadapt"


@pytest.mark.parametrize(
    ("code", "message", "cure"),
    [
        ("ExpiredTokenException", "expired", r"the temporary credentials have expired; get new"),
        ("UnrecognizedClientException", "invalid", r"AWS does not know these credentials; check"),
        (
            "InvalidSignatureException",
            "Signature expired: x",
            r"the clock of this machine is wrong",
        ),
        ("AccessDeniedException", "not authorized", r"the credentials may not do this; docs/pl"),
        ("AccessDeniedException", f"iam:PassRole on {ROLE}", r"they need iam:PassRole on role_arn"),
        ("ResourceLimitExceeded", "limit is 0 Instances", r"the account's quota is used up; ask"),
        (
            "ValidationException",
            f"Could not assume role {ROLE}. Please ensure that the role exists",
            r"role_arn: SageMaker may not take on the role; let its trust policy name sagemaker",
        ),
        (
            "ValidationException",
            'No S3 objects found under S3 URL "s3://b/x" given in input data source',
            r"channels: there is nothing at this URI that role_arn may list",
        ),
        ("ValidationException", "Requested image x not found", r"image: ECR has no such image"),
        ("ValidationException", "1 validation error", r"AWS refuses it \[ValidationExc.*1 valid"),
    ],
)
def test_what_aws_refuses_comes_with_its_cure(
    code: str, message: str, cure: str, aws: Double
) -> None:
    aws.fails("CreateTrainingJob", code, message)
    with pytest.raises(JobError, match=rf"^tiny-1: .*{cure}") as caught:
        client(aws).submit(request(aws))
    assert str(caught.value).endswith(f"[{code}: {message}]")


def test_keys_that_aws_does_not_know_are_named(aws: Double) -> None:
    wrong = {"AWS_ACCESS_KEY_ID": "AKIAOTHER", "AWS_SECRET_ACCESS_KEY": "x"}
    with pytest.raises(JobError, match="AWS does not know these credentials"):
        client(aws, keys=wrong).status("tiny-1")


def test_a_job_that_is_not_there_is_named(aws: Double) -> None:
    for ask in (
        client(aws).status,
        client(aws).stop,
        lambda job: next(client(aws).logs(job, True)),
    ):
        with pytest.raises(JobError, match=r"tiny-9: there is no such job in this account and reg"):
            ask("tiny-9")


@pytest.mark.parametrize(("code", "status"), [("ThrottlingException", 400), ("Odd", 500)])
def test_a_busy_service_is_asked_again_and_then_given_up(
    code: str, status: int, aws: Double
) -> None:
    connected = started(aws)
    aws.fails("DescribeTrainingJob", code, "Rate exceeded", status, times=3)
    assert connected.status("tiny-1").state == "waiting"
    aws.fails("DescribeTrainingJob", code, "Rate exceeded", status, times=4)
    with pytest.raises(StoreUnavailable, match=r"tiny-1: AWS asks to slow down; try again in a mi"):
        connected.status("tiny-1")


def test_a_service_that_does_not_answer_is_unavailable(aws: Double, absent_uri: str) -> None:
    connected = client(aws, f"endpoint_urls.sagemaker={absent_uri}")
    cure = r"tiny-1: AWS \(sagemaker\) does not answer; check the network, the profile's region"
    with pytest.raises(StoreUnavailable, match=cure):
        connected.status("tiny-1")


def test_without_credentials_the_variables_are_named(
    aws: Double, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    without_keys(monkeypatch, tmp_path)
    with pytest.raises(JobError, match=r"tiny-1: there are no credentials for AWS; set AWS_PROF"):
        client(aws, keys={}).status("tiny-1")


def test_a_profile_that_is_not_there_is_named(
    aws: Double, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    without_keys(monkeypatch, tmp_path)
    monkeypatch.setenv("AWS_PROFILE", "mine")
    with pytest.raises(JobError, match=r"AWS_PROFILE: .*mine.* see ~/.aws/config"):
        client(aws, keys={}).status("tiny-1")


def test_an_expired_login_is_named(
    aws: Double, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    without_keys(monkeypatch, tmp_path)
    (tmp_path / "config").write_text(
        "[profile mine]\nsso_session = s\nsso_account_id = 111122223333\nsso_role_name = r\n"
        "[sso-session s]\nsso_region = us-east-1\nsso_start_url = https://example.invalid\n"
    )
    monkeypatch.setenv("AWS_PROFILE", "mine")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(JobError, match=r"tiny-1: the temporary credentials have expired; get new"):
        client(aws, keys={}).status("tiny-1")


def test_what_boto3_itself_refuses_is_passed_on(aws: Double) -> None:
    with pytest.raises(JobError, match=r"AWS \(sagemaker\) cannot be asked: Parameter validation"):
        client(aws).status("")


def without_keys(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """As on a machine that knows no credentials at all."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(folder / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(folder / "credentials"))


def check(aws: Double, *overrides: str) -> dict[str, Finding]:
    asked = request(aws, "tiny-1", *overrides)
    return {one.what: one for one in client(aws, *overrides).check(asked)}


def test_a_check_names_credentials_role_image_bucket_and_quota(aws: Double) -> None:
    found = check(aws)
    assert all(one.ok for one in found.values())
    assert {what: one.found for what, one in found.items()} == {
        "credentials": "account 111122223333 as arn:aws:iam::111122223333:user/me",
        "role": ROLE,
        "image": "6.5 GB, sha256:aaaaaaaaaaaa",
        "bucket my-bucket": "in us-east-1",
        "quota": "2 of 'ml.g5.2xlarge for spot training job usage'",
    }


def test_a_check_asks_for_every_bucket_that_sagemaker_uses(aws: Double) -> None:
    aws.buckets["data"] = "us-east-1"
    uris = ("checkpoint_uri=s3://data/c", "channels.source={uri: s3://my-bucket/a}")
    assert {"bucket my-bucket", "bucket data"} <= check(aws, *uris).keys()


def test_a_check_ends_where_credentials_fail(aws: Double) -> None:
    aws.fails("GetCallerIdentity", "ExpiredToken", "The security token is expired", 403)
    (only,) = check(aws).values()
    assert not only.ok and only.cure.startswith("the temporary credentials have expired")
    assert only.found == "ExpiredToken: The security token is expired" and only.exit_code == 2


def test_a_check_without_a_network_ends_with_3(aws: Double, absent_uri: str) -> None:
    (only,) = check(aws, f"endpoint_urls.sts={absent_uri}").values()
    assert not only.ok and only.exit_code == 3 and "does not answer" in only.cure


def test_a_role_of_another_account_is_found(aws: Double) -> None:
    found = check(aws, "role_arn=arn:aws:iam::999999999999:role/segadapt")["role"]
    assert not found.ok and "of account 999999999999" in found.found
    assert found.cure.startswith("role_arn: a role of another account cannot be handed over")


def test_a_missing_image_is_found(aws: Double) -> None:
    aws.images["segadapt"] = ["0.2.0"]
    found = check(aws)["image"]
    assert not found.ok and found.cure.startswith("ECR has no such tag 0.1.0 in it; push the im")
    aws.images.clear()
    found = check(aws)["image"]
    assert not found.ok and found.cure.startswith("ECR has no such repository; push the image")


def test_an_image_may_be_named_by_its_digest(aws: Double) -> None:
    digest = "sha256:" + "a" * 64
    assert check(aws, f"image={profile(aws.url).image.rpartition(':')[0]}@{digest}")["image"].ok


def test_who_may_not_look_at_the_image_is_told(aws: Double) -> None:
    aws.fails("DescribeImages", "AccessDeniedException", "not authorized")
    found = check(aws)["image"]
    assert not found.ok and found.cure.startswith("the credentials may not do this")


def test_a_bucket_that_is_absent_or_elsewhere_is_found(aws: Double) -> None:
    aws.buckets["my-bucket"] = "eu-west-1"
    found = check(aws)["bucket my-bucket"]
    assert not found.ok and found.found == "eu-west-1"
    assert found.cure.startswith("expected a bucket in the job's region, us-east-1")
    aws.buckets.clear()
    found = check(aws)["bucket my-bucket"]
    assert not found.ok and found.cure.startswith("there is no such bucket; mend the URI or make")


def test_a_bucket_that_only_the_role_may_read_is_fine(aws: Double) -> None:
    aws.forbidden.add("my-bucket")
    found = check(aws)["bucket my-bucket"]
    assert found.ok and "these credentials may not look inside, role_arn has to" in found.found


def test_a_quota_that_is_too_small_is_found(aws: Double) -> None:
    found = check(aws, "nodes=3")["quota"]
    assert not found.ok and found.found == "2"
    assert found.cure.startswith("expected 3 or more; ask for more of 'ml.g5.2xlarge for spot tr")


def test_a_quota_that_nobody_tells_is_no_failure(aws: Double) -> None:
    aws.fails("ListServiceQuotas", "AccessDeniedException", "not authorized")
    found = check(aws)["quota"]
    assert found.ok and found.found.startswith("not known: quota: the credentials may not do")
    aws.quotas = {"other": 1.0}
    assert check(aws)["quota"].found.startswith("not known: AWS names no quota 'ml.g5.2xl")


def write_files(aws: Double, folder: Path) -> None:
    """`tiny.yaml`, a job on S3, and `profile.yaml`, the shipped one against the double."""
    shipped = yaml.safe_load((ROOT / "job_specs/platforms/sagemaker.yaml").read_text())
    addresses = {"endpoint_urls": dict.fromkeys(SERVICES, aws.url)}
    values = tiny_values("s3://my-bucket/tiny", "s3://my-bucket/runs")
    (folder / "profile.yaml").write_text(yaml.safe_dump({**shipped, **addresses}))
    (folder / "tiny.yaml").write_text(yaml.safe_dump(values))


def test_the_commands_take_a_job_from_its_spec_to_its_end(aws: Double, tmp_path: Path) -> None:
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


def test_what_aws_refuses_ends_the_command_with_2(aws: Double, tmp_path: Path) -> None:
    write_files(aws, tmp_path)
    aws.fails("CreateTrainingJob", "ExpiredTokenException", "The security token is expired")
    ended = call(
        "submit", "tiny.yaml", "--to", "profile.yaml", "--yes", folder=tmp_path, environment=KEYS
    )
    assert ended.code == 2 and "the temporary credentials have expired" in ended.err
