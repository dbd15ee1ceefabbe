"""The client of a cluster against a strict double of its API server: submit, stop, jobs."""

import pytest

from adapt.errors import JobError
from adapt.platforms.platform import JobStatus
from storage.errors import StoreUnavailable
from tests.platforms.kubernetes_double import Cluster, ServerAnswer
from tests.platforms.kubernetes_jobs import (
    EACH_KIND,
    JOBS,
    Connect,
    asked,
    conditions,
    fail,
    pod_labels,
)
from tests.platforms.test_kubernetes_manifests import job


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
    cluster.refusals.append((where, ServerAnswer(403, "Forbidden", "policy says no")))
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
    with pytest.raises(StoreUnavailable, match="the API server is unreachable"):
        at().submit(asked())
    assert [one["kind"] for one in cluster.sent][-1] == ("Job" if "jobs" in where else "ConfigMap")
    assert left_in(cluster) == []


def test_what_was_never_made_does_not_hide_why(cluster: Cluster, at: Connect) -> None:
    cluster.refusals.append(("POST .*/jobs", ServerAnswer(503, "ServiceUnavailable", "later")))
    with pytest.raises(StoreUnavailable, match="answers 503: later"):
        at().submit(asked())
    assert left_in(cluster) == []


@pytest.mark.slow
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


@pytest.mark.slow
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
