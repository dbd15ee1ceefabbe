"""The client of ModelArts: its real SDK against a strict double of the service."""

import logging
from typing import Any

import pytest

from adapt.errors import JobError
from adapt.platforms.modelarts import connect, request
from adapt.platforms.modelarts.client import ModelArtsClient
from adapt.platforms.modelarts.job_status import status_of
from tests.platforms import modelarts_double
from tests.platforms.modelarts_double import ModelArtsDouble
from tests.platforms.modelarts_jobs import KEYS, body_of, connected, submitted
from tests.platforms.modelarts_samples import LARGE, job_of, profile_of, submission_of

pytestmark = pytest.mark.usefixtures("no_proxy")


def test_a_job_goes_from_creating_to_completed(
    modelarts_client: ModelArtsClient, modelarts: ModelArtsDouble
) -> None:
    modelarts.phases = ["Creating", "Creating", "Pending", "Running", "Completed"]
    job = modelarts_client.submit(body_of())
    states = [modelarts_client.status(job) for _ in range(4)]
    assert [one.state for one in states] == ["waiting", "waiting", "running", "done"]
    assert [one.detail for one in states] == ["Creating", "Pending", "Running", "Completed"]
    assert states[-1].exit_code == 0 and states[0].job == job


def test_every_call_is_signed_by_the_keys_of_the_environment(modelarts: ModelArtsDouble) -> None:
    """The modelarts verifies each signature; here that it can say no."""
    connected(modelarts).api.flavors()
    connected(modelarts, {"HUAWEICLOUD_SDK_SECURITY_TOKEN": modelarts_double.TOKEN}).api.flavors()
    wrong = connected(modelarts, {"HUAWEICLOUD_SDK_SK": "another"})
    with pytest.raises(JobError, match="verify aksk signature fail"):
        wrong.api.flavors()
    assert len(modelarts.requests) == 3


def test_all_that_a_profile_can_say_is_taken(modelarts: ModelArtsDouble) -> None:
    secrets = {name: f"value of {name}" for name in LARGE["secrets"]}
    profile = profile_of(LARGE, endpoint=modelarts.url)
    client = connect(profile, KEYS | secrets)
    asked = request(submission_of(job_of("/mnt/runs")), profile)
    body = modelarts.jobs[client.submit(asked)].body
    variables = body["algorithm"]["environments"]
    assert variables["OBS_SECRET_KEY"] == "value of OBS_SECRET_KEY"
    assert body["spec"] == asked["spec"] and body["metadata"] == asked["metadata"]
    assert asked["algorithm"]["environments"]["OBS_SECRET_KEY"] == {
        "from_environment": "OBS_SECRET_KEY"
    }


def test_secrets_are_filled_in_with_a_warning(
    modelarts: ModelArtsDouble, caplog: pytest.LogCaptureFixture
) -> None:
    client = connected(modelarts, {"MLFLOW_TRACKING_PASSWORD": "swordfish"})
    with caplog.at_level(logging.WARNING):
        client.submit(body_of(secrets=["MLFLOW_TRACKING_PASSWORD"]))
    assert "secrets: ModelArts shows MLFLOW_TRACKING_PASSWORD to every user" in caplog.text
    assert "swordfish" not in caplog.text
    with pytest.raises(
        JobError, match=r"secrets: expected variable OTHER, got none\. Fix: export OTHER="
    ):
        client.submit(body_of(secrets=["OTHER"]))


def test_what_the_double_does_not_know_it_refuses(
    modelarts_client: ModelArtsClient, modelarts: ModelArtsDouble
) -> None:
    """The modelarts is no pushover: a field too many, a wrong type, a secret not filled in."""
    body = body_of()
    for wrong, said in (
        ({**body, "more": 1}, "body: unknown field more"),
        ({**body, "spec": {"resource": {"node_count": "1"}}}, "node_count: expected int"),
        (body_of(secrets=["A"]), "environments.A: expected str, got"),
    ):
        with pytest.raises(JobError, match=said):
            modelarts_client.api.create(wrong)
    assert modelarts.jobs == {}


def test_jobs_are_ours_the_newest_first(
    modelarts_client: ModelArtsClient, modelarts: ModelArtsDouble
) -> None:
    for number in range(60):
        body = body_of(f"tiny-{number}")
        body["algorithm"]["outputs"] = []
        modelarts_client.api.create(body)
    body = body_of()
    body["metadata"]["name"] = "somebody-elses"
    modelarts_client.api.create(body)
    found = list(modelarts_client.jobs())
    assert len(found) == 60 and found[0].detail == "segadapt-tiny-59: Pending"
    assert [one.job for one in found] == list(reversed(list(modelarts.jobs)[:60]))
    assert [path.rpartition("/")[2] for _, path in modelarts.requests[-2:]] == [
        "training-job-searches",
        "training-job-searches",
    ]


def test_a_job_is_stopped_once(
    modelarts_client: ModelArtsClient, modelarts: ModelArtsDouble
) -> None:
    job = submitted(modelarts_client, modelarts, "Running")
    modelarts_client.stop(job)
    modelarts_client.stop(job)  # is terminating
    modelarts_client.stop(job)  # has ended
    status = modelarts_client.status(job)
    assert (status.state, status.detail) == ("stopped", "Terminated")
    assert sum(path.endswith("/actions") for _, path in modelarts.requests) == 1


def test_a_job_that_ends_while_it_is_stopped_is_left_as_it_is(
    modelarts_client: ModelArtsClient, modelarts: ModelArtsDouble
) -> None:
    job = submitted(modelarts_client, modelarts, "Running", "Completed")
    modelarts.jobs[job].phases = ["Running", "Completed"]
    modelarts_client.stop(job)
    assert sum(path.endswith("/actions") for _, path in modelarts.requests) == 1
    modelarts.jobs[job].phases = ["Running"]
    running = (200, modelarts.jobs[job].look())
    no = (400, {"error_code": "ModelArts.2838", "error_msg": "WorkspacePolicyLimit"})
    modelarts.failures = [running, no, running]
    with pytest.raises(JobError, match="rights: this user may not do it"):
        modelarts_client.stop(job)


def test_a_job_that_is_not_there_is_named(modelarts_client: ModelArtsClient) -> None:
    for ask in (
        modelarts_client.status,
        modelarts_client.stop,
        lambda job: list(modelarts_client.logs(job, True)),
    ):
        with pytest.raises(
            JobError, match="JOB: expected a training job of this project and region, got 'no-job'"
        ):
            ask("no-job")


@pytest.mark.parametrize(
    ("codes", "state", "exit_code", "said"),
    [
        ([137], "failed", 137, "Failed, worker-0 ended with 137, out of memory. Fix: lower batch"),
        ([0, 247], "failed", 247, "Failed, worker-1 ended with 247, out of memory. Fix: lower"),
        ([139], "failed", 139, "Failed, worker-0 ended with 139, a crash in a library"),
        ([143], "failed", 143, "stopped before it could save"),
        ([75, 1], "failed", 1, "Failed, worker-1 ended with 1, a bug in SegAdapt, see the log"),
        ([2], "failed", 2, "the job spec is wrong"),
        ([3], "failed", 3, "a store failed"),
        ([4], "failed", 4, "the data is not what it should be"),
        ([75, 75], "interrupted", 75, "worker-0 ended with 75, interrupted and saved; submit it"),
        ([0], "failed", None, "Failed"),
    ],
)
def test_a_failure_is_told_in_words(
    modelarts: ModelArtsDouble, codes: list[int], state: str, exit_code: int | None, said: str
) -> None:
    modelarts.exit_codes = codes
    client = connected(modelarts)
    status = client.status(submitted(client, modelarts, "Failed"))
    assert (status.state, status.exit_code) == (state, exit_code)
    assert said in status.detail


def test_phases_that_are_rare() -> None:
    def seen(**status: Any) -> tuple[str, str]:
        found = status_of("job", {"status": status})
        return found.state, found.detail

    assert seen(phase="Terminating") == ("running", "Terminating")
    assert seen(phase="Sleeping") == ("unknown", "Sleeping")
    assert seen() == ("unknown", "Unknown")
    lost = "Abnormal, ModelArts lost contact with it; its page shows the events"
    assert seen(phase="Abnormal") == ("failed", lost)
    assert seen(phase="Running", running_records=[{}, {}]) == (
        "running",
        "Running, started 2 times",
    )
    task = {"task": "worker-0", "exit_code": 9, "message": "node lost"}
    failed = ("failed", "Failed, worker-0 ended with 9, node lost")
    assert seen(phase="Failed", task_statuses=[task]) == failed


HOUR_MS = 3_600_000


@pytest.mark.parametrize(
    ("phase", "code", "ran_ms", "hours", "state", "over"),
    [
        ("Terminated", 75, 2 * HOUR_MS - 20_000, 2, "stopped", True),
        ("Terminated", None, 2 * HOUR_MS, 2, "stopped", True),
        ("Failed", 75, 2 * HOUR_MS, 2, "stopped", True),
        ("Failed", 4, 2 * HOUR_MS, 2, "failed", False),
        ("Failed", 75, HOUR_MS, 2, "interrupted", False),
        ("Terminated", 75, HOUR_MS, 2, "stopped", False),
        ("Terminated", 75, 9 * HOUR_MS, None, "stopped", False),
        ("Completed", None, 2 * HOUR_MS, 2, "done", False),
    ],
)
def test_a_job_that_ran_for_max_hours_is_stopped_and_says_so(
    phase: str, code: int | None, ran_ms: int, hours: int | None, state: str, over: bool
) -> None:
    """`submit --restart` submits again what is `interrupted`."""
    tasks = [{"task": "worker-0", "exit_code": code}]
    spec = {"auto_stop": {"time_unit": "HOURS", "duration": hours}} if hours else {}
    status = {"phase": phase, "duration": ran_ms, "task_statuses": tasks}
    found = status_of("job", {"status": status, "spec": spec})
    assert found.state == state
    assert (
        found.detail.startswith(f"{phase}, max_hours is over. Fix: submit it again to resume")
        is over
    )
