"""The client of ModelArts: its real SDK against a strict double of the API."""

import logging
import socket
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from adapt.errors import JobError
from adapt.platforms.modelarts import connect, request
from adapt.platforms.modelarts.api import Api, endpoint_of
from adapt.platforms.modelarts.client import ModelArtsClient
from adapt.platforms.modelarts.logs import TaskLog
from adapt.platforms.modelarts.status import status_of
from adapt.platforms.platform import Finding, Request
from storage.errors import StoreUnavailable
from tests.platforms import modelarts_double
from tests.platforms.modelarts_double import ModelArtsDouble
from tests.platforms.modelarts_samples import LARGE, job_of, profile_of, submission_of

KEYS = {
    "HUAWEICLOUD_SDK_AK": modelarts_double.ACCESS_KEY,
    "HUAWEICLOUD_SDK_SK": modelarts_double.SECRET_KEY,
    "HUAWEICLOUD_SDK_PROJECT_ID": modelarts_double.PROJECT,
}


@pytest.fixture(autouse=True)
def direct(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loopback is reached without the proxy that the environment may name."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def double() -> Iterator[ModelArtsDouble]:
    with modelarts_double.modelarts_double() as server:
        yield server


@pytest.fixture
def client(double: ModelArtsDouble) -> ModelArtsClient:
    return connected(double)


def connected(
    double: ModelArtsDouble, environment: dict[str, str] | None = None, **changes: Any
) -> ModelArtsClient:
    """A client of the double that waits for nothing."""
    profile = profile_of(**{"endpoint": double.url, **changes})
    made = connect(profile, KEYS | (environment or {}))
    made.poll_s = made.api.pause_s = 0.001
    return made


def body_of(name: str = "tiny-1", **changes: Any) -> Request:
    return request(submission_of(name=name), profile_of(**changes))


def submitted(client: ModelArtsClient, double: ModelArtsDouble, *phases: str) -> str:
    """A job whose next looks show these phases."""
    job = client.submit(body_of())
    double.jobs[job].phases = list(phases)
    return job


def test_a_job_goes_from_creating_to_completed(
    client: ModelArtsClient, double: ModelArtsDouble
) -> None:
    double.phases = ["Creating", "Creating", "Pending", "Running", "Completed"]
    job = client.submit(body_of())
    states = [client.status(job) for _ in range(4)]
    assert [one.state for one in states] == ["waiting", "waiting", "running", "done"]
    assert [one.detail for one in states] == ["Creating", "Pending", "Running", "Completed"]
    assert states[-1].exit_code == 0 and states[0].job == job


def test_every_call_is_signed_by_the_keys_of_the_environment(double: ModelArtsDouble) -> None:
    """The double verifies each signature; here that it can say no."""
    connected(double).api.flavors()
    connected(double, {"HUAWEICLOUD_SDK_SECURITY_TOKEN": modelarts_double.TOKEN}).api.flavors()
    wrong = connected(double, {"HUAWEICLOUD_SDK_SK": "another"})
    with pytest.raises(JobError, match="verify aksk signature fail"):
        wrong.api.flavors()
    assert len(double.requests) == 3


def test_all_that_a_profile_can_say_is_taken(double: ModelArtsDouble) -> None:
    secrets = {name: f"value of {name}" for name in LARGE["secrets"]}
    profile = profile_of(LARGE, endpoint=double.url)
    client = connect(profile, KEYS | secrets)
    asked = request(submission_of(job_of("/mnt/runs")), profile)
    body = double.jobs[client.submit(asked)].body
    variables = body["algorithm"]["environments"]
    assert variables["OBS_SECRET_KEY"] == "value of OBS_SECRET_KEY"
    assert body["spec"] == asked["spec"] and body["metadata"] == asked["metadata"]
    assert asked["algorithm"]["environments"]["OBS_SECRET_KEY"] == {
        "from_environment": "OBS_SECRET_KEY"
    }


def test_secrets_are_filled_in_with_a_warning(
    double: ModelArtsDouble, caplog: pytest.LogCaptureFixture
) -> None:
    client = connected(double, {"MLFLOW_TRACKING_PASSWORD": "swordfish"})
    with caplog.at_level(logging.WARNING):
        client.submit(body_of(secrets=["MLFLOW_TRACKING_PASSWORD"]))
    assert "secrets: ModelArts keeps MLFLOW_TRACKING_PASSWORD readable for everyone" in caplog.text
    assert "swordfish" not in caplog.text
    with pytest.raises(JobError, match="secrets: expected variable OTHER, got none; export it"):
        client.submit(body_of(secrets=["OTHER"]))


def test_what_the_double_does_not_know_it_refuses(
    client: ModelArtsClient, double: ModelArtsDouble
) -> None:
    """The double is no pushover: a field too many, a wrong type, a secret not filled in."""
    body = body_of()
    for wrong, said in (
        ({**body, "more": 1}, "body: unknown field more"),
        ({**body, "spec": {"resource": {"node_count": "1"}}}, "node_count: expected int"),
        (body_of(secrets=["A"]), "environments.A: expected str, got"),
    ):
        with pytest.raises(JobError, match=said):
            client.api.create(wrong)
    assert double.jobs == {}


def test_jobs_are_ours_the_newest_first(client: ModelArtsClient, double: ModelArtsDouble) -> None:
    for number in range(60):
        body = body_of(f"tiny-{number}")
        body["algorithm"]["outputs"] = []
        client.api.create(body)
    body = body_of()
    body["metadata"]["name"] = "somebody-elses"
    client.api.create(body)
    found = list(client.jobs())
    assert len(found) == 60 and found[0].detail == "segadapt-tiny-59: Pending"
    assert [one.job for one in found] == list(reversed(list(double.jobs)[:60]))
    assert [path.rpartition("/")[2] for _, path in double.requests[-2:]] == [
        "training-job-searches",
        "training-job-searches",
    ]


def test_a_job_is_stopped_once(client: ModelArtsClient, double: ModelArtsDouble) -> None:
    job = submitted(client, double, "Running")
    client.stop(job)
    client.stop(job)  # is terminating
    client.stop(job)  # has ended
    status = client.status(job)
    assert (status.state, status.detail) == ("stopped", "Terminated")
    assert sum(path.endswith("/actions") for _, path in double.requests) == 1


def test_a_job_that_is_not_there_is_named(client: ModelArtsClient) -> None:
    for ask in (client.status, client.stop, lambda job: list(client.logs(job, True))):
        with pytest.raises(JobError, match="no-job: there is no such training job in this project"):
            ask("no-job")


@pytest.mark.parametrize(
    ("codes", "state", "exit_code", "said"),
    [
        ([137], "failed", 137, "Failed, worker-0 ended with 137, out of memory: a smaller batch"),
        ([0, 247], "failed", 247, "Failed, worker-1 ended with 247, out of memory: a smaller"),
        ([139], "failed", 139, "Failed, worker-0 ended with 139, a crash in a library"),
        ([143], "failed", 143, "stopped before it could save"),
        ([75, 1], "failed", 1, "Failed, worker-1 ended with 1, a bug in SegAdapt, see the log"),
        ([2], "failed", 2, "the job spec is wrong"),
        ([3], "failed", 3, "a store failed"),
        ([4], "failed", 4, "the data is not what it should be"),
        ([75, 75], "interrupted", 75, "worker-0 ended with 75, interrupted and saved; submitted"),
        ([0], "failed", None, "Failed"),
    ],
)
def test_a_failure_is_told_in_words(
    double: ModelArtsDouble, codes: list[int], state: str, exit_code: int | None, said: str
) -> None:
    double.exit_codes = codes
    client = connected(double)
    status = client.status(submitted(client, double, "Failed"))
    assert (status.state, status.exit_code) == (state, exit_code)
    assert said in status.detail


def test_phases_that_are_rare() -> None:
    def seen(**status: Any) -> tuple[str, str]:
        found = status_of("job", {"status": status})
        return found.state, found.detail

    assert seen(phase="Terminating") == ("running", "Terminating")
    assert seen(phase="Sleeping") == ("unknown", "Sleeping")
    assert seen() == ("unknown", "Unknown")
    lost = "Abnormal, ModelArts lost sight of it; its page shows the events"
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
    assert found.detail.startswith(f"{phase}, max_hours is over; submit it again to go on") is over


def test_an_outage_ends_no_following(
    client: ModelArtsClient,
    double: ModelArtsDouble,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("adapt.platforms.platform.AGAIN_S", 0.001)
    job, outage = submitted(client, double, "Running"), [(503, "<html>out</html>")] * 12
    double.jobs[job].logs["worker-0"] = b"step 1\n"
    double.failures = list(outage)  # the API itself asks five times
    lines = client.logs(job, follow=True)
    assert next(lines) == "step 1"
    double.jobs[job].logs["worker-0"] += b"step 2\n"
    double.failures = list(outage)
    assert next(lines) == "step 2"
    double.jobs[job].logs["worker-0"] += b"step 3\n"
    double.jobs[job].phases = ["Completed"]
    ended = double.jobs[job].look()
    double.failures = [(200, ended), *outage]  # while the log is asked for
    assert list(lines) == ["step 3"]
    assert "it is asked again for 10 minutes" in caplog.text
    double.failures = list(outage)
    with pytest.raises(StoreUnavailable, match="is out of order; try again later"):
        list(client.logs(job, follow=False))


def test_logs_so_far(client: ModelArtsClient, double: ModelArtsDouble) -> None:
    job = submitted(client, double, "Pending", "Running")
    assert list(client.logs(job, follow=False)) == []
    assert list(client.logs(job, follow=False)) == []  # runs, and has written nothing
    double.jobs[job].logs["worker-0"] = "eins\r\nzwei ä\nhal".encode()
    assert list(client.logs(job, follow=False)) == ["eins", "zwei ä", "hal"]


def test_a_followed_log_comes_once_and_to_its_end(
    client: ModelArtsClient, double: ModelArtsDouble
) -> None:
    double.exit_codes = [0, 0]
    job = submitted(client, double, "Pending", "Running")
    found, logs = double.jobs[job], double.jobs[job].logs
    logs["worker-0"] = b"step 1\nst"
    lines = client.logs(job, follow=True)
    assert next(lines) == "worker-0 | step 1"
    logs["worker-0"] += b"ep 2\n"
    assert next(lines) == "worker-0 | step 2"
    logs["worker-1"] = b"step 2\n"
    assert next(lines) == "worker-1 | step 2"
    logs["worker-0"] += b"\nthe e"
    logs["worker-1"] += b"done"
    assert next(lines) == "worker-0 | "
    logs["worker-0"] += b"nd"
    found.phases = ["Completed"]
    assert list(lines) == ["worker-0 | the end", "worker-1 | done"]


def test_lines_that_modelarts_no_longer_shows_are_counted(
    client: ModelArtsClient, double: ModelArtsDouble
) -> None:
    job = submitted(client, double, "Completed")
    double.shown_bytes = 10
    double.jobs[job].logs["worker-0"] = b"0123456789\nabcde\nfgh\n"
    gone = "[11 bytes before this are no longer shown; log_uri keeps them]"
    assert list(client.logs(job, follow=False)) == [gone, "abcde", "fgh"]


def test_the_log_of_a_restarted_node_begins_anew() -> None:
    log = TaskLog()
    assert log.lines({"content": "a\nb\n", "full_size": 4}, ended=False) == ["a", "b"]
    assert log.lines({"content": "a\nb\n", "full_size": 4}, ended=False) == []
    assert log.lines({"content": "c\n", "full_size": 2}, ended=False) == ["c"]
    assert log.lines({"content": None, "full_size": 2}, ended=True) == []
    assert log.lines({"content": "c\nd\n"}, ended=True) == ["d"]


def test_nodes_are_told_in_the_order_of_their_numbers(double: ModelArtsDouble) -> None:
    double.exit_codes = [0] * 11
    client = connected(double)
    job = submitted(client, double, "Completed")
    double.jobs[job].logs = dict.fromkeys(double.jobs[job].logs, b"x\n")
    assert [line.split()[0] for line in client.logs(job, follow=False)][-2:] == [
        "worker-9",
        "worker-10",
    ]


REFUSED = [
    (401, "APIGW.0301", "Incorrect IAM authentication information: verify aksk signature fail",
     "HUAWEICLOUD_SDK_AK, HUAWEICLOUD_SDK_SK: expected keys of an account in good standing"),
    (403, "APIGW.0301", "Incorrect IAM authentication information: aksk signature fail",
     "HUAWEICLOUD_SDK_AK, HUAWEICLOUD_SDK_SK: expected keys of an account in good standing"),
    (401, "APIGW.0301", "Incorrect IAM authentication information: token expires, expires_at: x",
     "HUAWEICLOUD_SDK_SECURITY_TOKEN: the temporary keys have expired or are incomplete"),
    (401, "APIGW.0301", "Incorrect IAM authentication information: decrypt token fail",
     "HUAWEICLOUD_SDK_SECURITY_TOKEN: the temporary keys have expired or are incomplete"),
    (401, "APIGW.0307", "The token must be updated.",
     "HUAWEICLOUD_SDK_SECURITY_TOKEN: the temporary keys have expired or are incomplete"),
    (403, "ModelArts.0002", "No permission", "HUAWEICLOUD_SDK_AK: expected a user who may train"),
    (404, "APIGW.0101", "The API does not exist or has not been published in the environment.",
     "has no training jobs of version 2; expected ModelArts of region 'cn-north-4'"),
    (400, "ModelArts.2763", "Invalid flavor x.", "flavor_id: not one of this region or pool"),
    (400, "ModelArts.0116", "The expected nodes exceeds the limit.",
     "a quota of the account is used up"),
    (400, "ModelArts.2763", "Training job quota exceeded", "a quota of the account is used up"),
    (400, "ModelArts.0103", "Repeated.", "a job has that name already; submit again"),
    (400, "ModelArts.2763", "The training job name already exists.", "a job has that name already"),
    (400, "ModelArts.2763", "Training output path is used by another job.",
     "outputs: another job writes to that folder; wait for it, stop it, or name another"),
    (400, "ModelArts.2763", "The resource pool p does not exist.", "pool_id: not a pool of this"),
    (400, "ModelArts.2763", "Image a/b:1 not found", "image: not in SWR of this region, or the"),
    (400, "ModelArts.2763", "Failed to get agency", "ModelArts has no agency of yours yet"),
    (400, "ModelArts.2763", "The OBS path is not accessible", "a folder in OBS is not there, is"),
    (400, "ModelArts.0104", "Invalid workspace ID.", "workspace_id: not a workspace that you may"),
    (400, "ModelArts.9", "So be it.", "ModelArts refuses the request (ModelArts.9: So be it.)"),
]  # fmt: skip


@pytest.mark.parametrize(("status", "code", "message", "said"), REFUSED)
def test_a_refusal_is_explained(
    double: ModelArtsDouble, status: int, code: str, message: str, said: str
) -> None:
    double.failures = [(status, {"error_code": code, "error_msg": message})]
    with pytest.raises(JobError) as caught:
        connected(double).submit(body_of())
    assert said in str(caught.value) and f"{code}: {message}" in str(caught.value)


def test_refusals_of_the_doubles_own(client: ModelArtsClient, double: ModelArtsDouble) -> None:
    """The same messages, from what really is wrong."""
    client.submit(body_of())
    for body, said in (
        (body_of(), "a job has that name already"),
        (body_of("other"), "outputs: another job writes to that folder"),
        (body_of("other", outputs={"model": "obs://towns/m"}, flavor_id="p9",
                 volumes=[{"kind": "obs", "source": "/towns", "path": "/mnt"}],
                 secrets=["OBS_ACCESS_KEY", "OBS_SECRET_KEY"]), "secrets: expected variable"),
    ):  # fmt: skip
        with pytest.raises(JobError, match=said):
            client.submit(body)
    free = {"outputs": {"checkpoints": "obs://towns/other"}}
    with pytest.raises(JobError, match="flavor_id: not one of this region or pool"):
        client.submit(body_of("other", **free, flavor_id="modelarts.p9"))
    cpus = {"flavor_id": None, "gpus": 0, "pool_id": "pool-x"}
    with pytest.raises(JobError, match="pool_id: not a pool of this project and region"):
        client.submit(body_of("other", **free, **cpus))


def test_throttled_calls_are_repeated(client: ModelArtsClient, double: ModelArtsDouble) -> None:
    busy = (429, {"error_code": "APIGW.0308", "error_msg": "The throttling threshold is reached"})
    double.failures = [busy] * 4
    job = client.submit(body_of())
    double.failures = [busy] * 4
    assert client.status(job).job == job
    double.failures = [busy] * 5
    with pytest.raises(StoreUnavailable, match="is asked too often; try again in a minute"):
        client.status(job)
    assert not double.failures


def test_an_outage_is_waited_out_by_what_only_reads(
    client: ModelArtsClient, double: ModelArtsDouble
) -> None:
    job = client.submit(body_of())
    out = (503, "<html>Service Unavailable</html>")
    double.failures = [out] * 4
    assert client.status(job).state == "waiting"
    double.failures = [out]
    with pytest.raises(
        StoreUnavailable,
        match=r"is out of order; try again later \(503: <html>.*job segadapt-tiny-1 was created",
    ):
        client.submit(body_of())
    assert not double.failures and len(double.jobs) == 1


def test_an_answer_that_is_no_json_is_told(
    client: ModelArtsClient, double: ModelArtsDouble
) -> None:
    double.failures = [(200, "<html>welcome</html>")] * 5
    with pytest.raises(StoreUnavailable, match="answers what is no JSON; is there a proxy between"):
        client.status("job")


def test_nobody_answers(client: ModelArtsClient, absent_uri: str) -> None:
    there = connect(profile_of(endpoint=absent_uri), KEYS)
    there.api.pause_s = 0.001
    with pytest.raises(StoreUnavailable, match=f"{absent_uri} does not answer; try again later"):
        there.status("job")


def test_an_answer_that_does_not_come(double: ModelArtsDouble) -> None:
    double.delay_s = 0.3
    api = Api(profile_of(endpoint=double.url), KEYS, timeouts_s=(1.0, 0.05))
    with pytest.raises(StoreUnavailable, match=r"does not answer; try again later .*timed out"):
        api.create(body_of())


def test_a_region_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    monkeypatch.setenv("NO_PROXY", "*")
    client = connect(profile_of(region="cn-north-77"), KEYS)
    with pytest.raises(JobError, match=r"region: there is no host https://modelarts.cn-north-77."):
        client.status("job")


def test_an_endpoint_without_tls(double: ModelArtsDouble) -> None:
    client = connected(double, endpoint=double.url.replace("http:", "https:"))
    with pytest.raises(JobError, match="shows no certificate that this machine trusts"):
        client.status("job")


def test_the_endpoint_is_that_of_the_region() -> None:
    """The SDK's own table has another domain for ap-southeast-1."""
    assert endpoint_of(profile_of(region="ap-southeast-1")) == (
        "https://modelarts.ap-southeast-1.myhuaweicloud.com"
    )
    assert endpoint_of(profile_of(region="eu-west-101")) == (
        "https://modelarts.eu-west-101.myhuaweicloud.eu"
    )
    assert endpoint_of(profile_of(endpoint="http://other:1")) == "http://other:1"


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ("HUAWEICLOUD_SDK_AK", "access_key_env: expected variable HUAWEICLOUD_SDK_AK, got none"),
        ("HUAWEICLOUD_SDK_SK", "secret_key_env: expected variable HUAWEICLOUD_SDK_SK, got none"),
        ("HUAWEICLOUD_SDK_PROJECT_ID", "project_id_env: expected variable HUAWEICLOUD_SDK_PROJECT"),
    ],
)
def test_a_missing_variable_is_named(missing: str, said: str) -> None:
    keys = {name: value for name, value in KEYS.items() if name != missing}
    with pytest.raises(JobError, match=said):
        connect(profile_of(project_id=None), keys)


def test_a_missing_sdk_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huaweicloudsdkmodelarts", None)
    with pytest.raises(JobError, match=r"pip install -r requirements-submit\.txt"):
        connect(profile_of(), KEYS)


def found_by(client: ModelArtsClient, **changes: Any) -> dict[str, Finding]:
    return {one.what: one for one in client.check(body_of(**changes))}


def test_check_finds_all_in_order(double: ModelArtsDouble) -> None:
    found = found_by(connected(double))
    assert [*found] == ["ModelArts", "machine", "image", "name", "outputs"]
    assert all(one.ok for one in found.values())
    assert found["machine"].found == "modelarts.p3.large.public x 1, 1 GPUs each"


@pytest.mark.parametrize(
    ("changes", "found", "cure"),
    [
        ({"flavor_id": "p9"}, "there is no flavor p9 for training",
         "flavor_id: one of modelarts.p3.8xlarge.public, modelarts.p3.large.public, "),
        ({"gpus": 2}, "modelarts.p3.large.public has 1 GPUs", "gpus: 1"),
        ({"nodes": 5, "outputs": {}, "flavor_id": "modelarts.p3.large.public"},
         "modelarts.p3.large.public allows 4 nodes", "nodes: 4"),
        ({"flavor_id": None, "gpus": 0, "pool_id": "pool-x"}, "pool pool-x is not there",
         "correct pool_id"),
    ],
)  # fmt: skip
def test_check_says_what_is_wrong_with_the_machine(
    double: ModelArtsDouble, changes: dict[str, Any], found: str, cure: str
) -> None:
    machine = next(
        one for one in connected(double, **changes).check(body_of()) if one.what == "machine"
    )
    assert (machine.ok, machine.found) == (False, found)
    assert cure in machine.cure


def test_check_knows_a_pool(double: ModelArtsDouble) -> None:
    cpus = connected(double, flavor_id=None, gpus=0, pool_id=modelarts_double.POOL)
    assert found_by(cpus)["machine"].found == "pool pool-1a2b3c is there"


def test_check_finds_a_taken_name_and_a_folder_in_use(
    client: ModelArtsClient, double: ModelArtsDouble
) -> None:
    job = submitted(client, double, "Running")
    found = found_by(client)
    assert not found["name"].ok and found["name"].found == "segadapt-tiny-1 is taken"
    assert found["outputs"].found == "job segadapt-tiny-1 writes to /towns/runs/tiny/"
    assert f"stop it ({job})" in found["outputs"].cure
    double.jobs[job].phases = ["Failed"]
    assert found_by(client)["outputs"].ok


def test_jobs_whose_outputs_are_not_in_obs_disturb_no_check(
    client: ModelArtsClient, double: ModelArtsDouble
) -> None:
    job = submitted(client, double, "Running")
    for others in ([{"name": "a"}], [{"remote": None}], [{"remote": {"obs": None}}], None):
        double.jobs[job].body["algorithm"]["outputs"] = others
        assert found_by(client)["outputs"].ok


def test_check_says_what_secrets_mean_and_which_are_missing(double: ModelArtsDouble) -> None:
    client = connected(double, {"A": "x"})
    secrets = [one for one in client.check(body_of(secrets=["A", "B"])) if one.what == "secrets"]
    assert [one.ok for one in secrets] == [False, True]
    assert (secrets[0].found, secrets[0].cure) == ("variable B is not set", "export B")
    assert "readable for everyone who may see the job" in secrets[1].found


def test_check_ends_where_the_keys_are_wrong_or_nobody_answers(
    double: ModelArtsDouble, absent_uri: str
) -> None:
    wrong = [*connected(double, {"HUAWEICLOUD_SDK_SK": "x"}).check(body_of())]
    away = connect(profile_of(endpoint=absent_uri), KEYS)
    away.api.pause_s = 0.001
    found = [*wrong, *away.check(body_of())]
    assert [(one.what, one.ok, one.exit_code) for one in found] == [
        ("ModelArts", False, 2),
        ("ModelArts", False, 3),
    ]
