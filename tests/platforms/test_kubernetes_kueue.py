"""Jobs in a queue of Kueue: created suspended, told why they wait, stopped for good."""

from typing import Any

import pytest

from adapt.errors import JobError
from adapt.platforms import PLATFORMS
from tests.platforms.kubernetes_double import Cluster
from tests.platforms.kubernetes_jobs import JOBS, Connect, asked, conditions, pod_labels
from tests.platforms.kubernetes_schemas import VERSIONS, faults
from tests.platforms.predict_samples import SET
from tests.platforms.test_kubernetes_manifests import profile

KUEUE = {"queue": "gpus", "priority": "high"}
KINDS = ["indexed_job", "jobset", "trainjob", "pytorchjob"]
KUEUE_API = "kueue.x-k8s.io/v1beta1"


def suspended(kind: str, cluster: Cluster) -> Any:
    spec = cluster.job(*JOBS[kind], "tiny-1")["spec"]
    return (spec["runPolicy"] if kind == "pytorchjob" else spec).get("suspend")


def queue(cluster: Cluster, kind: str, message: str) -> Any:
    """What Kueue does with a job that it sees."""
    job = cluster.job(*JOBS[kind], "tiny-1")
    conditions(job, "Suspended", "JobSuspended", "Job suspended")
    condition = {"type": "QuotaReserved", "status": "False", "reason": "Pending"}
    workload = {
        "apiVersion": KUEUE_API,
        "kind": "Workload",
        "metadata": {
            "name": "job-tiny-1-ab12c",
            "labels": {"kueue.x-k8s.io/job-uid": job["metadata"]["uid"]},
        },
        "spec": {"active": True, "queueName": "gpus"},
        "status": {"conditions": [{**condition, "message": message}]},
    }
    return cluster.put(KUEUE_API, "lab", "workloads", workload)


@pytest.mark.parametrize("kind", KINDS)
def test_a_job_is_created_suspended_in_its_queue(kind: str) -> None:
    wants: dict[str, Any] = {"kind": kind, "nodes": 2}
    wants |= {} if kind == "jobset" else {"max_hours": 5}
    job = asked(**wants, kueue=KUEUE)["items"][-1]
    labels = job["metadata"]["labels"]
    assert labels["kueue.x-k8s.io/queue-name"] == "gpus"
    assert labels["kueue.x-k8s.io/priority-class"] == "high"
    for version in (VERSIONS[0], VERSIONS[-1]):
        assert faults(job, version) == []
    plain = asked(**wants)["items"][-1]
    spec = job["spec"]["runPolicy"] if kind == "pytorchjob" else job["spec"]
    assert spec.pop("suspend") is True
    assert job["spec"] == plain["spec"], "nothing else changes"


def test_the_slices_of_a_set_wait_in_it_too() -> None:
    ((_, request),) = PLATFORMS["kubernetes"].predict(SET, profile(kueue=KUEUE)).items()
    (job,) = request["items"]
    assert job["spec"]["suspend"] is True and faults(job) == []
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpus"


@pytest.mark.parametrize("kind", KINDS)
def test_a_job_that_waits_is_told_why_and_is_stopped_by_its_workload(
    kind: str, cluster: Cluster, at: Connect
) -> None:
    """Kueue would start a job again that is only suspended."""
    client = at(kind=kind, kueue=KUEUE)
    client.submit(asked(kind=kind, kueue=KUEUE))
    assert suspended(kind, cluster) is True
    said = "couldn't assign flavors to pod set main: insufficient unused quota for nvidia.com/gpu"
    workload = queue(cluster, kind, said)
    status = client.status("tiny-1")
    assert (status.state, status.detail) == ("waiting", f"in Kueue's queue: {said}")
    client.stop("tiny-1")
    assert workload["spec"]["active"] is False
    assert client.status("tiny-1").state == "stopped"


def test_a_job_that_runs_stays_running_until_kueue_has_suspended_it(
    cluster: Cluster, at: Connect
) -> None:
    client = at(kueue=KUEUE)
    client.submit(asked(kueue=KUEUE))
    workload = queue(cluster, "indexed_job", "")
    job = cluster.job(*JOBS["indexed_job"], "tiny-1")
    job["spec"]["suspend"], job["status"] = False, {}
    cluster.add_pod("tiny-1-0", pod_labels("indexed_job"))
    client.stop("tiny-1")
    assert workload["spec"]["active"] is False and job["spec"]["suspend"] is False
    assert client.status("tiny-1").state == "running"


def test_a_job_that_kueue_has_not_seen_is_suspended(cluster: Cluster, at: Connect) -> None:
    client = at(kueue=KUEUE)
    client.submit(asked(kueue=KUEUE))
    client.stop("tiny-1")
    assert suspended("indexed_job", cluster) is True


def test_check_names_what_kueue_lacks(cluster: Cluster, at: Connect) -> None:
    def found() -> dict[str, tuple[bool, str]]:
        checked = at(kueue=KUEUE).check(asked(kueue=KUEUE))
        return {one.what: (one.ok, one.found) for one in checked}

    lacks = found()
    assert lacks["queue gpus"] == lacks["workload priority high"] == (False, "there is none")
    assert lacks["may patch workloads"] == (True, "yes")
    cluster.put(KUEUE_API, "lab", "localqueues", {"metadata": {"name": "gpus"}})
    cluster.put(KUEUE_API, "", "workloadpriorityclasses", {"metadata": {"name": "high"}})
    assert found()["queue gpus"] == found()["workload priority high"] == (True, "there")
    del cluster.resources[KUEUE_API]
    assert found()["queue gpus"] == (False, "there is none")


def test_volcano_has_queues_of_its_own() -> None:
    with pytest.raises(JobError, match="kueue: expected none with `kind: volcano`"):
        profile(kind="volcano", kueue=KUEUE)
