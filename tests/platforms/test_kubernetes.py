"""The client of a cluster against a strict double of its API server."""

import base64
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from adapt.errors import JobError
from adapt.platforms import PLATFORMS, platform
from adapt.platforms.kubernetes import KubernetesClient, api, connect, logs
from adapt.platforms.kubernetes.kinds import KINDS
from adapt.platforms.platform import Finding, JobStatus, Submission
from storage.errors import StoreUnavailable
from tests.platforms.kubernetes_double import Answer, Cluster, serving, write_kubeconfig
from tests.platforms.test_kubernetes_manifests import job, profile

JOBS = {
    "indexed_job": ("batch/v1", "jobs"),
    "trainjob": ("trainer.kubeflow.org/v1alpha1", "trainjobs"),
    "pytorchjob": ("kubeflow.org/v1", "pytorchjobs"),
    "volcano": ("batch.volcano.sh/v1alpha1", "jobs"),
}
EACH_KIND = pytest.mark.parametrize("kind", JOBS)
Connect = Callable[..., KubernetesClient]


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


@pytest.fixture
def url(cluster: Cluster) -> Iterator[str]:
    with serving(cluster) as address:
        yield address


@pytest.fixture
def at(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Connect:
    """A client for a profile with these changes."""
    monkeypatch.setattr(logs, "POLL_S", 0.05)
    monkeypatch.setattr(platform, "AGAIN_S", 0.05)
    config = str(write_kubeconfig(tmp_path / "config", url))
    return lambda **changes: connect(profile(kubeconfig=config, **changes), {})


def asked(name: str = "tiny-1", **changes: Any) -> Any:
    return PLATFORMS["kubernetes"].request(Submission(name, job()), profile(**changes))


def pod_labels(kind: str, node: int = 0, name: str = "tiny-1") -> dict[str, str]:
    row = KINDS[kind]  # type: ignore[index]
    return {row.job_label: name, row.node_label: str(node)}


def conditions(thing: Any, word: str, reason: str = "", message: str = "") -> None:
    one = {"type": word, "status": "True", "reason": reason, "message": message}
    thing["status"] = {"conditions": [one]}


def fail(cluster: Cluster, kind: str, reason: str, message: str = "") -> None:
    thing = cluster.job(*JOBS[kind], "tiny-1")
    if kind == "volcano":
        thing["status"] = {"state": {"phase": "Failed", "message": message}}
    else:
        conditions(thing, "Failed", reason, message)


@EACH_KIND
def test_a_job_is_made_with_what_it_owns(kind: str, cluster: Cluster, at: Connect) -> None:
    client = at(kind=kind, nodes=2)
    assert client.submit(asked(kind=kind, nodes=2)) == "tiny-1"
    made = cluster.job(*JOBS[kind], "tiny-1")
    config = cluster.objects["v1", "lab", "configmaps"]["tiny-1"]
    (owner,) = config["metadata"]["ownerReferences"]
    assert owner["uid"] == made["metadata"]["uid"] and owner["kind"] == made["kind"]
    assert config["data"]["job.yaml"] == job().to_yaml()
    services = cluster.objects["v1", "lab", "services"]
    assert len(services) == (kind == "indexed_job")
    assert all(one["metadata"]["ownerReferences"] == [owner] for one in services.values())


@pytest.mark.parametrize("where", ["POST .*/services", "POST .*/jobs", "PATCH .*/configmaps"])
def test_what_was_made_is_taken_back_where_the_rest_is_refused(
    where: str, cluster: Cluster, at: Connect
) -> None:
    cluster.refusals.append((where, Answer(403, "Forbidden", "policy says no")))
    with pytest.raises(JobError, match="policy says no"):
        at(nodes=2).submit(asked(nodes=2))
    assert left_in(cluster) == []


def left_in(cluster: Cluster) -> list[str]:
    return [thing for (_, space, _), all_ in cluster.objects.items() if space for thing in all_]


@pytest.mark.parametrize("where", ["POST .*/configmaps", "POST .*/jobs"])
def test_what_was_made_without_an_answer_is_taken_back_too(
    where: str, cluster: Cluster, at: Connect
) -> None:
    """Its pods would wait for a ConfigMap that is gone, for ever."""
    cluster.hang_ups.append(where)
    with pytest.raises(StoreUnavailable, match="the API server does not answer"):
        at().submit(asked())
    assert [one["kind"] for one in cluster.sent][-1] == ("Job" if "jobs" in where else "ConfigMap")
    assert left_in(cluster) == []


def test_what_was_never_made_does_not_hide_why(cluster: Cluster, at: Connect) -> None:
    cluster.refusals.append(("POST .*/jobs", Answer(503, "ServiceUnavailable", "later")))
    with pytest.raises(StoreUnavailable, match="answers 503: later"):
        at().submit(asked())
    assert left_in(cluster) == []


@EACH_KIND
def test_a_job_waits_runs_and_is_done(kind: str, cluster: Cluster, at: Connect) -> None:
    client = at(kind=kind)
    client.submit(asked(kind=kind))
    assert client.status("tiny-1") == JobStatus("tiny-1", "waiting", *_volcano(kind, "Pending"))
    cluster.add_pod("tiny-1-a", pod_labels(kind))
    thing = cluster.job(*JOBS[kind], "tiny-1")
    if kind == "volcano":
        thing["status"] = {"state": {"phase": "Running"}}
    assert client.status("tiny-1") == JobStatus("tiny-1", "running", *_volcano(kind, "Running"))
    cluster.end_pod("tiny-1-a", 0)
    words = {"pytorchjob": "Succeeded", "volcano": "Completed"}
    conditions(thing, words.get(kind, "Complete"))
    if kind == "volcano":
        thing["status"] = {"state": {"phase": "Completed"}}
    assert client.status("tiny-1")[:2] == ("tiny-1", "done")
    assert client.status("tiny-1").exit_code == 0


def _volcano(kind: str, phase: str) -> tuple[str, ...]:
    return (phase,) if kind == "volcano" else ()


ENDS: list[tuple[int, dict[str, Any], str, str]] = [
    (2, {}, "failed", "exit code 2: Error: JobError: model.encoder: unknown"),
    (75, {}, "interrupted", "exit code 75"),
    (143, {}, "interrupted", "exit code 143"),
    (
        137,
        {},
        "failed",
        r"exit code 137: Error: killed by the system \(137\): out of memory, or not done within "
        "the grace$",
    ),
    (
        137,
        {"message": "Killed: rank 0 died"},
        "failed",
        "exit code 137: Error: Killed: rank 0 died$",
    ),
    (137, {"reason": "OOMKilled"}, "failed", "OOMKilled; raise memory_gb"),
    (
        137,
        {"conditions": [{"type": "DisruptionTarget", "status": "True", "message": "preempting"}]},
        "interrupted",
        "exit code 137: Error: preempting$",
    ),
]


@EACH_KIND
@pytest.mark.parametrize(("code", "more", "state", "said"), ENDS)
def test_a_failed_job_says_why(
    kind: str,
    code: int,
    more: dict[str, Any],
    state: str,
    said: str,
    cluster: Cluster,
    at: Connect,
) -> None:
    client = at(kind=kind)
    client.submit(asked(kind=kind))
    cluster.add_pod("tiny-1-a", pod_labels(kind))
    message = "JobError: model.encoder: unknown\nTraceback" if code == 2 else ""
    cluster.end_pod("tiny-1-a", code, **{"message": message, **more})
    fail(cluster, kind, "BackoffLimitExceeded")
    status = client.status("tiny-1")
    assert (status.state, status.exit_code) == (state, code)
    assert re.search(said, status.detail), status.detail


def test_the_first_failure_of_the_last_attempt_counts(cluster: Cluster, at: Connect) -> None:
    client = at(nodes=2)
    client.submit(asked(nodes=2))
    for name, node, code, message in (
        ("old", 0, 3, "StoreError: away"),
        ("lost", 0, 75, "RankLost"),
        ("guilty", 1, 4, "DataError: a shard is broken"),
    ):
        cluster.add_pod(name, pod_labels("indexed_job", node))
        cluster.end_pod(name, code, message)
    fail(cluster, "indexed_job", "PodFailurePolicy", "Container main failed")
    status = client.status("tiny-1")
    detail = "PodFailurePolicy, exit code 4: Error: DataError: a shard is broken"
    assert status == JobStatus("tiny-1", "failed", detail, 4)


def test_a_pod_that_was_evicted_for_its_disk_says_so(cluster: Cluster, at: Connect) -> None:
    client = at()
    client.submit(asked())
    pod = cluster.add_pod("tiny-1-a", pod_labels("indexed_job"))
    full = 'Usage of EmptyDir volume "scratch" exceeds the limit "100G".'
    pod["status"] = {"phase": "Failed", "reason": "Evicted", "message": full}
    fail(cluster, "indexed_job", "BackoffLimitExceeded")
    status = client.status("tiny-1")
    assert (status.state, status.exit_code) == ("failed", None)
    assert status.detail.endswith(f"Evicted: {full}; raise scratch_gb, or lower stream.cache_gb")


def test_a_failed_job_without_pods_has_its_condition(cluster: Cluster, at: Connect) -> None:
    client = at(kind="trainjob")
    client.submit(asked(kind="trainjob"))
    fail(cluster, "trainjob", "TrainingRuntimeNotSupported", "no such runtime")
    detail = "TrainingRuntimeNotSupported: no such runtime"
    assert client.status("tiny-1") == JobStatus("tiny-1", "failed", detail)


def test_a_deadline_stops_a_job(cluster: Cluster, at: Connect) -> None:
    client = at()
    client.submit(asked())
    fail(cluster, "indexed_job", "DeadlineExceeded", "Job was active longer than specified")
    status = client.status("tiny-1")
    assert status.state == "stopped" and status.exit_code is None
    assert status.detail.endswith("; max_hours is over; submit it again to go on")


def waiting(reason: str, message: str) -> dict[str, Any]:
    container = {"name": "main", "state": {"waiting": {"reason": reason, "message": message}}}
    return {"phase": "Pending", "containerStatuses": [container]}


UNSCHEDULABLE = {
    "phase": "Pending",
    "conditions": [
        {
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": "0/5 nodes are available: 5 Insufficient nvidia.com/gpu.",
        }
    ],
}
TROUBLES: list[tuple[dict[str, Any], str]] = [
    (
        waiting("ImagePullBackOff", 'Back-off pulling image "x"'),
        'ImagePullBackOff: Back-off pulling image "x"; is `image` right, and image_pull_secrets?',
    ),
    (
        waiting("CreateContainerConfigError", 'secret "keys" not found'),
        'CreateContainerConfigError: secret "keys" not found; is there such a `secret`?',
    ),
    (
        UNSCHEDULABLE,
        "Unschedulable: 0/5 nodes are available: 5 Insufficient nvidia.com/gpu.; no node has what",
    ),
    (waiting("ContainerCreating", ""), "FailedMount: claim is lost; are the claims of `volumes`"),
]


@pytest.mark.parametrize(("status", "said"), TROUBLES)
def test_a_job_that_does_not_start_says_why(
    status: dict[str, Any], said: str, cluster: Cluster, at: Connect
) -> None:
    client = at()
    client.submit(asked())
    cluster.add_pod("tiny-1-a", pod_labels("indexed_job"), **status)
    event(cluster, "one", "tiny-1-a", "FailedMount", "claim is lost")
    event(cluster, "two", "tiny-12", "FailedCreate", "of another job")
    found = client.status("tiny-1")
    assert found.state == "waiting" and found.detail.startswith(said)


def event(cluster: Cluster, name: str, about: str, reason: str, message: str) -> None:
    thing = {
        "metadata": {"name": name},
        "type": "Warning",
        "reason": reason,
        "message": message,
        "involvedObject": {"name": about},
        "lastTimestamp": "2026-11-27T10:00:00Z",
    }
    cluster.put("v1", "lab", "events", thing)


def test_a_job_without_pods_has_its_events_where_one_may_see_them(
    cluster: Cluster, at: Connect
) -> None:
    client = at()
    client.submit(asked())
    event(cluster, "one", "tiny-1", "FailedCreate", "exceeded quota: compute")
    said = "FailedCreate: exceeded quota: compute; the namespace's quota or policy refuses the pods"
    assert client.status("tiny-1").detail == said
    cluster.denied.add(("list", "events"))
    assert client.status("tiny-1") == JobStatus("tiny-1", "waiting", "")


@EACH_KIND
def test_a_stopped_job_saves_ends_and_stays_listed(
    kind: str, cluster: Cluster, at: Connect
) -> None:
    client = at(kind=kind)
    client.submit(asked(kind=kind))
    cluster.add_pod("tiny-1-a", pod_labels(kind))
    client.stop("tiny-1")
    thing = cluster.job(*JOBS[kind], "tiny-1")
    if kind == "volcano":
        (command,) = cluster.objects["bus.volcano.sh/v1alpha1", "lab", "commands"].values()
        assert command["action"] == "AbortJob"
        assert command["target"]["uid"] == thing["metadata"]["uid"]
        thing["status"] = {"state": {"phase": "Aborting"}}
    else:
        where = thing["spec"] if kind != "pytorchjob" else thing["spec"]["runPolicy"]
        assert where["suspend"] is True
        conditions(thing, "Suspended", "JobSuspended", "Job suspended")
    assert client.status("tiny-1")[1:3] == STOPPING
    cluster.end_pod("tiny-1-a", 75)
    if kind == "volcano":
        thing["status"] = {"state": {"phase": "Aborted"}}
    assert client.status("tiny-1").state == "stopped"
    fail(cluster, kind, "BackoffLimitExceeded")
    assert client.status("tiny-1").state == "stopped"


STOPPING = ("running", "stopping: the pods save and end")


@EACH_KIND
def test_a_job_that_is_stopped_before_its_pods_are_there_does_not_wait(
    kind: str, cluster: Cluster, at: Connect
) -> None:
    client = at(kind=kind)
    client.submit(asked(kind=kind))
    client.stop("tiny-1")
    assert client.status("tiny-1")[1:3] == STOPPING


def test_a_volcano_job_whose_pods_are_gone_is_still_stopping(cluster: Cluster, at: Connect) -> None:
    """Also where another asked for it."""
    client = at(kind="volcano")
    client.submit(asked(kind="volcano"))
    cluster.job(*JOBS["volcano"], "tiny-1")["status"] = {"state": {"phase": "Aborting"}}
    assert client.status("tiny-1")[1:3] == STOPPING
    client.stop("tiny-1")
    assert not cluster.objects["bus.volcano.sh/v1alpha1", "lab", "commands"]


@EACH_KIND
def test_a_second_stop_does_nothing(kind: str, cluster: Cluster, at: Connect) -> None:
    client = at(kind=kind)
    client.submit(asked(kind=kind))
    cluster.add_pod("tiny-1-a", pod_labels(kind))
    client.stop("tiny-1")
    commands = cluster.objects["bus.volcano.sh/v1alpha1", "lab", "commands"]
    asked_for = [*commands]
    client.stop("tiny-1")
    assert [*commands] == asked_for and client.status("tiny-1")[1:3] == STOPPING


def test_a_stop_that_volcano_refuses_is_told(cluster: Cluster, at: Connect) -> None:
    client = at(kind="volcano")
    client.submit(asked(kind="volcano"))
    cluster.denied.add(("create", "commands"))
    with pytest.raises(JobError, match="commands is forbidden"):
        client.stop("tiny-1")


def test_a_job_that_ended_is_not_stopped_any_more(cluster: Cluster, at: Connect) -> None:
    client = at()
    client.submit(asked())
    fail(cluster, "indexed_job", "PodFailurePolicy")
    client.stop("tiny-1")
    assert client.status("tiny-1").state == "failed"


def test_a_job_that_another_suspended_waits(cluster: Cluster, at: Connect) -> None:
    """As Kueue does until there is room."""
    client = at()
    client.submit(asked())
    conditions(cluster.job(*JOBS["indexed_job"], "tiny-1"), "Suspended", "JobSuspended", "queued")
    assert client.status("tiny-1") == JobStatus("tiny-1", "waiting", "JobSuspended: queued")


@EACH_KIND
def test_jobs_of_ours_are_listed_the_newest_first(kind: str, cluster: Cluster, at: Connect) -> None:
    client = at(kind=kind)
    for name in ("tiny-1", "tiny-2"):
        client.submit(asked(name, kind=kind))
    cluster.add_pod("p", pod_labels(kind, name="tiny-2"))
    version, resource = JOBS[kind]
    cluster.put(version, "lab", resource, {"metadata": {"name": "theirs"}})
    found = {status.job: status.state for status in client.jobs()}
    assert found == {"tiny-2": "running", "tiny-1": "waiting"} and [*found] == ["tiny-2", "tiny-1"]


def test_logs_of_all_nodes_are_read_in_order(cluster: Cluster, at: Connect) -> None:
    client = at(nodes=2)
    client.submit(asked(nodes=2))
    for node in (1, 0):
        cluster.add_pod(f"pod-{node}", pod_labels("indexed_job", node))
        cluster.logs[f"pod-{node}"].write(f"hello from {node}", "mIoU 0.5 \u2713")
    cluster.add_pod("late", pod_labels("indexed_job", 1), phase="Pending")
    assert [*client.logs("tiny-1", follow=False)] == [
        "[node 0] hello from 0",
        "[node 0] mIoU 0.5 ✓",
        "[node 1] hello from 1",
        "[node 1] mIoU 0.5 ✓",
    ]


def test_logs_of_one_node_have_no_prefix(cluster: Cluster, at: Connect) -> None:
    client = at(kind="pytorchjob")
    client.submit(asked(kind="pytorchjob"))
    cluster.add_pod(
        "m", pod_labels("pytorchjob") | {"training.kubeflow.org/replica-type": "master"}
    )
    cluster.logs["m"].write("one")
    assert [*client.logs("tiny-1", follow=False)] == ["one"]
    worker = pod_labels("pytorchjob") | {"training.kubeflow.org/replica-type": "worker"}
    cluster.add_pod("w", worker)
    cluster.logs["w"].write("two")
    assert [*client.logs("tiny-1", follow=False)] == ["[node 0] one", "[node 1] two"]


def test_logs_are_followed_over_broken_connections_and_new_pods_until_the_end(
    cluster: Cluster, at: Connect
) -> None:
    client = at()
    client.submit(asked())
    pod = cluster.add_pod("first", pod_labels("indexed_job"), phase="Pending")
    cluster.logs["first"].breaks = [2, 3]

    def live() -> None:
        pod["status"]["phase"] = "Running"
        for number in range(5):
            cluster.logs["first"].write(f"step {number}")
            time.sleep(0.05)
        cluster.unready += [503]
        cluster.end_pod("first", 75)
        cluster.add_pod("second", pod_labels("indexed_job"))
        cluster.logs["second"].write("going on")
        time.sleep(0.2)
        cluster.logs["second"].write("done")
        cluster.end_pod("second", 0)
        conditions(cluster.job(*JOBS["indexed_job"], "tiny-1"), "Complete")

    thread = threading.Thread(target=live)
    thread.start()
    lines = [*client.logs("tiny-1", follow=True)]
    thread.join()
    assert lines == [*(f"step {number}" for number in range(5)), "going on", "done"]
    assert cluster.logs["first"].breaks == []


def test_a_container_that_is_being_started_is_waited_for(cluster: Cluster, at: Connect) -> None:
    client = at()
    client.submit(asked())
    cluster.add_pod("first", pod_labels("indexed_job"))
    cluster.logs["first"].write("one")
    cluster.end_pod("first", 0)
    conditions(cluster.job(*JOBS["indexed_job"], "tiny-1"), "Complete")
    early = 'container "main" in pod "first" is waiting to start: ContainerCreating'
    cluster.refusals.append(("GET .*/log", Answer(400, "BadRequest", early)))
    timer = threading.Timer(0.3, cluster.refusals.clear)
    timer.start()
    assert [*client.logs("tiny-1", follow=True)] == ["one"]
    timer.join()


def test_a_log_that_breaks_off_while_it_is_read_is_no_whole_log(
    cluster: Cluster, at: Connect
) -> None:
    client = at()
    client.submit(asked())
    cluster.add_pod("first", pod_labels("indexed_job"))
    cluster.logs["first"].write("one", "two")
    cluster.logs["first"].breaks = [1]
    with pytest.raises(StoreUnavailable, match="the log broke off"):
        [*client.logs("tiny-1", follow=False)]


@pytest.mark.parametrize("late_head", [False, True])
def test_a_pod_that_is_silent_for_long_is_followed_on(
    late_head: bool, cluster: Cluster, at: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As nodes other than the first are between evaluations: no patience is used up."""
    client = at()
    client.submit(asked())
    cluster.add_pod("silent", pod_labels("indexed_job"))
    cluster.logs["silent"].late_head = late_head
    monkeypatch.setattr(api, "QUIET_S", 0.05)
    monkeypatch.setattr(platform, "PATIENCE_S", 0.0)

    def live() -> None:
        while sum("/log?" in path for _, path in cluster.asked) < 5:
            time.sleep(0.01)
        monkeypatch.setattr(api, "QUIET_S", 60.0)
        cluster.logs["silent"].write("at last")
        cluster.end_pod("silent", 0)
        conditions(cluster.job(*JOBS["indexed_job"], "tiny-1"), "Complete")

    thread = threading.Thread(target=live)
    thread.start()
    lines = [*client.logs("tiny-1", follow=True)]
    thread.join()
    assert lines == ["at last"]


def test_a_silent_answer_is_no_whole_log(
    cluster: Cluster, at: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = at()
    client.submit(asked())
    cluster.add_pod("silent", pod_labels("indexed_job"))
    cluster.logs["silent"].late_head = True
    monkeypatch.setattr(api, "QUIET_S", 0.05)
    with pytest.raises(StoreUnavailable, match=r"does not answer: .*[Rr]ead timed out"):
        [*client.logs("tiny-1", follow=False)]
    cluster.logs["silent"].ended = True


def test_a_log_that_stays_away_ends_the_following(
    cluster: Cluster, at: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = at()
    client.submit(asked())
    cluster.add_pod("first", pod_labels("indexed_job"))
    conditions(cluster.job(*JOBS["indexed_job"], "tiny-1"), "Complete")
    cluster.refusals.append(("GET .*/log", Answer(500, "InternalError", "no kubelet")))
    monkeypatch.setattr(platform, "PATIENCE_S", 0.2)
    with pytest.raises(StoreUnavailable, match="answers 500: no kubelet"):
        [*client.logs("tiny-1", follow=True)]


@pytest.mark.parametrize("follow", [False, True])
def test_a_log_that_may_not_be_read_is_told(follow: bool, cluster: Cluster, at: Connect) -> None:
    client = at()
    client.submit(asked())
    cluster.add_pod("first", pod_labels("indexed_job"))
    conditions(cluster.job(*JOBS["indexed_job"], "tiny-1"), "Complete")
    cluster.denied.add(("get", "pods/log"))
    with pytest.raises(JobError, match=r"pods/log is forbidden: .*ask for a role"):
        [*client.logs("tiny-1", follow=follow)]


def test_what_ends_a_reader_ends_the_following(
    cluster: Cluster, at: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here a server whose certificate is another's now."""
    client = at()
    client.submit(asked())
    cluster.add_pod("first", pod_labels("indexed_job"))
    conditions(cluster.job(*JOBS["indexed_job"], "tiny-1"), "Complete")

    def renewed(self: api.Api, *_: Any, **__: Any) -> Any:
        raise self._not_trusted(OSError("another certificate"))

    monkeypatch.setattr(api.Api, "stream", renewed)
    with pytest.raises(JobError, match="no secure connection: another certificate"):
        [*client.logs("tiny-1", follow=True)]


def test_following_ends_with_a_job_that_is_deleted(cluster: Cluster, at: Connect) -> None:
    client = at()
    client.submit(asked())
    cluster.add_pod("first", pod_labels("indexed_job"))
    cluster.logs["first"].write("one")
    lines = client.logs("tiny-1", follow=True)
    assert next(lines) == "one"
    cluster.logs["first"].ended = True
    del cluster.objects["v1", "lab", "pods"]["first"]
    del cluster.objects["batch/v1", "lab", "jobs"]["tiny-1"]
    assert [*lines] == []


def test_following_gives_up_on_a_server_that_stays_away(
    cluster: Cluster, at: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = at()
    client.submit(asked())
    monkeypatch.setattr(platform, "PATIENCE_S", 0.2)
    lines = client.logs("tiny-1", follow=True)
    cluster.refusals.append(("GET .*/pods", Answer(503, "ServiceUnavailable", "later")))
    with pytest.raises(StoreUnavailable, match="answers 503: later; try again"):
        next(lines)


REFUSALS: list[tuple[Answer, str]] = [
    (Answer(401, "Unauthorized", "Unauthorized"), "credentials are not taken.*log in again"),
    (
        Answer(403, "Forbidden", 'jobs.batch is forbidden: User "ann" cannot create'),
        'jobs.batch is forbidden: User "ann" cannot create; ask for a role',
    ),
    (
        Answer(403, "Forbidden", 'jobs "a" is forbidden: exceeded quota: gpus, requested: 8'),
        "quota: .*exceeded quota: gpus, requested: 8; end other jobs, ask for more, or lower",
    ),
    (
        Answer(403, "Forbidden", 'admission webhook "w" denied the request: no label'),
        'the cluster\'s policy refuses: admission webhook "w" denied the request: no label',
    ),
    (
        Answer(404, "NotFound", "the server could not find the requested resource"),
        "kind: no matches for this kind in the cluster.*choose `kind: indexed_job`",
    ),
    (
        Answer(409, "AlreadyExists", 'jobs "a" already exists'),
        'name: jobs "a" already exists; submit again, under another name',
    ),
    (
        Answer(400, "BadRequest", 'strict decoding error: unknown field "spec.x"'),
        'does not know a field: .*unknown field "spec.x"; what is installed there is too old',
    ),
    (Answer(400, "BadRequest", "no JSON"), "the API server refuses: no JSON"),
    (Answer(413, "TooLarge", "too large"), "the API server refuses: too large"),
    (
        Answer(
            422,
            "Invalid",
            "Job is invalid",
            causes=[
                {"field": "metadata.name", "message": "must be no more than 63 characters"},
                {"field": "spec.parallelism", "message": "Invalid value"},
            ],
        ),
        "refuses:\nmetadata.name: must be no more than 63 characters\nspec.parallelism: Invalid",
    ),
    (Answer(422, "Invalid", "Job is invalid"), "the API server refuses:\nJob is invalid"),
]


@pytest.mark.parametrize(("refusal", "said"), REFUSALS, ids=[said[:30] for _, said in REFUSALS])
def test_what_a_server_refuses_has_a_cure(
    refusal: Answer, said: str, cluster: Cluster, at: Connect
) -> None:
    cluster.refusals.append(("POST .*/jobs", refusal))
    with pytest.raises(JobError, match=said):
        at().submit(asked())


def test_the_double_itself_refuses_in_these_words(
    cluster: Cluster, at: Connect, url: str, tmp_path: Path
) -> None:
    with pytest.raises(JobError, match=r'namespace: namespaces "none" not found; make it .kubectl'):
        at(namespace="none").submit(asked(namespace="none"))
    client = at()
    client.submit(asked())
    with pytest.raises(JobError, match=r'name: configmaps "tiny-1" already exists'):
        client.submit(asked())
    cluster.denied.add(("create", "configmaps"))
    with pytest.raises(JobError, match=r"configmaps is forbidden: User .*; ask for a role"):
        client.submit(asked("tiny-2"))
    cluster.denied.clear()
    wrong = asked("tiny-2")
    wrong["items"][-1]["spec"]["nodess"] = 1
    with pytest.raises(JobError, match=r'unknown field "spec.nodess"; what is installed there'):
        client.submit(wrong)
    long = asked("tiny-2")
    long["items"][-1]["metadata"]["name"] = "a" * 64
    with pytest.raises(JobError, match=r"metadata.name: Invalid value: .* no more than 63"):
        client.submit(long)
    del cluster.resources["kubeflow.org/v1"]
    with pytest.raises(JobError, match="kind: no matches for this kind"):
        at(kind="pytorchjob").submit(asked("tiny-2", kind="pytorchjob"))
    expired = str(write_kubeconfig(tmp_path / "expired", url, token="old"))
    with pytest.raises(JobError, match=r"http://127.*credentials are not taken \(Unauthorized\)"):
        connect(profile(kubeconfig=expired), {}).status("tiny-1")


def test_a_job_that_is_not_there_is_named(at: Connect) -> None:
    with pytest.raises(JobError, match=r'jobs.batch "tiny-9" not found; it may have ended and'):
        at().status("tiny-9")
    with pytest.raises(JobError, match=r"'../secrets' is no job of this cluster"):
        at().status("../secrets")


def test_no_kubeconfig_and_a_wrong_context_are_named(url: str, tmp_path: Path) -> None:
    missing = str(tmp_path / "nothing")
    with pytest.raises(JobError, match=r"kubeconfig: .*nothing: .*fetch it from your provider"):
        connect(profile(), {"KUBECONFIG": missing})
    config = str(write_kubeconfig(tmp_path / "config", url))
    with pytest.raises(JobError, match=r"kubeconfig: .*config: .*context.*kubectl config get-cont"):
        connect(profile(kubeconfig=config, context="prod"), {})
    (tmp_path / "broken").write_text("{")
    with pytest.raises(JobError, match=r"kubeconfig: .*broken"):
        connect(profile(kubeconfig=str(tmp_path / "broken")), {})


def not_base64(values: dict[str, Any]) -> None:
    values["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:1"
    values["clusters"][0]["cluster"]["certificate-authority-data"] = "LS0tL"  # cut off


def binary(values: dict[str, Any]) -> None:
    not_base64(values)
    text = base64.b64encode(b"{}").decode()
    values["clusters"][0]["cluster"]["certificate-authority-data"] = text
    values["users"][0]["user"] = {"client-certificate-data": ["no text"], "client-key-data": text}


SHAPES: list[tuple[Callable[[Any], Any], str]] = [
    (not_base64, "Error: Invalid base64-encoded string"),
    (binary, "TypeError: "),
    (lambda values: [values], "TypeError: "),
    (lambda values: values["users"].append({"user": {}}), "KeyError: 'name'"),
    (lambda values: values["contexts"].insert(0, {"name": "lab"}), "context"),
    (lambda values: values["clusters"][0]["cluster"].update(server=5), "AttributeError: "),
    (lambda values: "text", "TypeError: "),
    (lambda values: values.update({"current-context": 5}), "5"),
]


@pytest.mark.parametrize(("change", "said"), SHAPES)
def test_a_kubeconfig_of_another_shape_is_refused(
    change: Callable[[Any], Any], said: str, url: str, tmp_path: Path
) -> None:
    config = write_kubeconfig(tmp_path / "config", url)
    values = yaml.safe_load(config.read_text())
    config.write_text(yaml.safe_dump(change(values) or values))
    said = f"kubeconfig: .*config: .*{re.escape(said)}.*; fetch it from your provider"
    with pytest.raises(JobError, match=said):
        connect(profile(kubeconfig=str(config)), {})


def test_in_a_pod_its_own_account_is_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whose files are not here: the message is theirs."""
    inside = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBECONFIG": str(tmp_path / "nothing")}
    with pytest.raises(JobError, match=r"kubeconfig: .*[Ss]ervice"):
        connect(profile(), inside)


def test_a_server_that_is_away_or_not_trusted_is_named(
    absent_uri: str, url: str, tmp_path: Path
) -> None:
    config = str(write_kubeconfig(tmp_path / "config", absent_uri))
    with pytest.raises(StoreUnavailable, match=r"the API server does not answer: .*a VPN or a pro"):
        connect(profile(kubeconfig=config), {}).status("tiny-1")
    config = str(write_kubeconfig(tmp_path / "tls", url.replace("http:", "https:")))
    with pytest.raises(JobError, match=r"no secure connection: .*fetch the kubeconfig anew"):
        connect(profile(kubeconfig=config), {}).status("tiny-1")


def test_a_server_with_trouble_is_asked_again_later(cluster: Cluster, at: Connect) -> None:
    client = at()
    cluster.unready += [429]
    with pytest.raises(StoreUnavailable, match="answers 429: not ready; try again"):
        client.status("tiny-1")
    cluster.unready += [b'{"half": ']
    with pytest.raises(StoreUnavailable, match="/jobs/tiny-1: the answer broke off"):
        client.status("tiny-1")


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kubernetes", None)
    with pytest.raises(JobError, match=r"platform kubernetes: .*requirements-submit.txt"):
        connect(profile(), {})


FULL = {
    "secret": "keys",
    "image_pull_secrets": ["login"],
    "service_account": "trainer",
    "priority_class": "low",
    "volumes": [{"mount_path": "/data", "claim": "town"}],
    "node_selector": {"pool": "gpu"},
    "nodes": 2,
}


def furnish(cluster: Cluster) -> None:
    for resource, name in (
        ("secrets", "keys"),
        ("secrets", "login"),
        ("serviceaccounts", "trainer"),
        ("persistentvolumeclaims", "town"),
    ):
        cluster.put("v1", "lab", resource, {"metadata": {"name": name}})
    low = {"metadata": {"name": "low"}}
    cluster.put("scheduling.k8s.io/v1", "", "priorityclasses", low)


def check(client: KubernetesClient, **changes: Any) -> dict[str, Finding]:
    return {finding.what: finding for finding in client.check(asked(**changes))}


def test_check_is_green_where_all_is_there_and_makes_nothing(cluster: Cluster, at: Connect) -> None:
    furnish(cluster)
    found = check(at(**FULL), **FULL)
    assert all(finding.ok for finding in found.values()), found
    assert {"kind Job", "namespace lab", "may get pods/log", "secret login", "claim town"} <= {
        *found
    }
    assert found["1 x nvidia.com/gpu a node"].found == "1 of 1 nodes"
    assert [what for what in found if what.startswith("dry run")] == [
        "dry run of ConfigMap",
        "dry run of Service",
        "dry run of Job",
    ]
    assert not cluster.objects["batch/v1", "lab", "jobs"]


def test_check_of_other_kinds_looks_for_what_they_need(cluster: Cluster, at: Connect) -> None:
    found = check(at(kind="trainjob"), kind="trainjob")
    assert not found["runtime torch-distributed"].ok
    assert "kubectl get clustertrainingruntimes" in found["runtime torch-distributed"].cure
    runtime = {"metadata": {"name": "torch-distributed"}}
    group = "trainer.kubeflow.org/v1alpha1"
    cluster.put(group, "", "clustertrainingruntimes", runtime)
    assert check(at(kind="trainjob"), kind="trainjob")["runtime torch-distributed"].ok
    cluster.put(group, "lab", "trainingruntimes", {"metadata": {"name": "own"}})
    own = {"kind": "trainjob", "runtime": "own", "runtime_kind": "TrainingRuntime"}
    assert check(at(**own), **own)["runtime own"].ok
    found = check(at(kind="volcano"), kind="volcano")
    assert not found["queue default"].ok and found["may create commands"].ok
    del cluster.resources["kubeflow.org/v1"]
    missing = check(at(kind="pytorchjob"), kind="pytorchjob")["kind PyTorchJob"]
    assert not missing.ok and missing.found == "no matches for kubeflow.org/v1 PyTorchJob"
    assert "it needs Kubeflow's training operator 1.7 or later" in missing.cure


def test_check_names_what_is_missing_and_its_cure(cluster: Cluster, at: Connect) -> None:
    cluster.denied |= {("create", "jobs"), ("patch", "services")}
    wants = FULL | {"gpus": 16}
    found = check(at(**wants), **wants)
    red = {what: finding.cure for what, finding in found.items() if not finding.ok}
    assert red["secret keys"].startswith("kubectl -n lab create secret")
    assert red["service account trainer"] == "make it, or name another `service_account`"
    assert red["claim town"] == "make the claim, or name another in `volumes`"
    assert red["priority class low"] == "kubectl get priorityclasses lists them"
    assert red["may create jobs"] == "ask for a role in namespace lab that may"
    assert (
        "may patch services" in red
        and "is the device plugin installed" in red["16 x nvidia.com/gpu a node"]
    )
    assert "jobs is forbidden" in found["dry run of Job"].found
    assert {finding.exit_code for finding in found.values()} == {2}


def test_check_says_that_a_namespace_is_missing(cluster: Cluster, at: Connect) -> None:
    found = check(at(namespace="none"), namespace="none")
    assert found["namespace none"].cure.startswith("kubectl create namespace none")


def test_check_takes_nothing_amiss_that_may_not_be_seen(cluster: Cluster, at: Connect) -> None:
    furnish(cluster)
    cluster.denied |= {("get", "secrets"), ("list", "nodes"), ("get", "namespaces")}
    found = check(at(**FULL), **FULL)
    assert all(finding.ok for finding in found.values())
    hidden = [what for what, one in found.items() if one.found.startswith("not visible")]
    assert hidden == ["namespace lab", "secret keys", "secret login", "1 x nvidia.com/gpu a node"]


def test_check_of_a_server_that_is_away_ends_with_storages_exit_code(
    absent_uri: str, url: str, tmp_path: Path
) -> None:
    config = str(write_kubeconfig(tmp_path / "config", absent_uri))
    (finding,) = connect(profile(kubeconfig=config), {}).check(asked())
    assert not finding.ok and finding.exit_code == 3 and "does not answer" in finding.found
    expired = str(write_kubeconfig(tmp_path / "expired", url, token="old"))
    (finding,) = connect(profile(kubeconfig=expired), {}).check(asked())
    assert not finding.ok and finding.exit_code == 2 and "log in again" in finding.found
