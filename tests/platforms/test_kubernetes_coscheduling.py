"""Gangs by the scheduler plugin Coscheduling: the group, its pods, and what the cluster lacks."""

from typing import Any

import pytest

from adapt.errors import JobError
from adapt.platforms import PLATFORMS
from tests.platforms.kubernetes_double import Cluster
from tests.platforms.kubernetes_jobs import JOBS, Connect, asked
from tests.platforms.kubernetes_schemas import VERSIONS, faults, pod_templates
from tests.platforms.predict_samples import SET
from tests.platforms.test_kubernetes_manifests import profile

API = "scheduling.x-k8s.io/v1alpha1"
GANG: dict[str, Any] = {"coscheduling": {"wait_s": 60}, "nodes": 3}
KINDS = ["indexed_job", "jobset", "pytorchjob"]


@pytest.mark.parametrize("kind", KINDS)
def test_all_pods_of_a_job_are_in_its_group(kind: str) -> None:
    items = asked(kind=kind, **GANG)["items"]
    (group,) = [one for one in items if one["kind"] == "PodGroup"]
    assert group["apiVersion"] == API and items.index(group) < len(items) - 1
    assert group["spec"] == {"minMember": 3, "scheduleTimeoutSeconds": 60}
    for version in (VERSIONS[0], VERSIONS[-1]):
        assert [faults(one, version) for one in items] == [[]] * len(items)
    for pod in pod_templates(items[-1]):
        assert pod["metadata"]["labels"]["scheduling.x-k8s.io/pod-group"] == "tiny-1"
        assert group["metadata"]["name"] == "tiny-1"
        assert pod["spec"]["schedulerName"] == "scheduler-plugins-scheduler"
    plain = next(pod_templates(asked(kind=kind, nodes=3)["items"][-1]))
    assert "schedulerName" not in plain["spec"]
    assert "scheduling.x-k8s.io/pod-group" not in plain["metadata"]["labels"]


def test_its_scheduler_may_be_the_clusters_own() -> None:
    items = asked(coscheduling={"scheduler": "default-scheduler"}, nodes=2)["items"]
    assert next(pod_templates(items[-1]))["spec"]["schedulerName"] == "default-scheduler"
    assert items[-2]["spec"] == {"minMember": 2}


def test_the_slices_of_a_set_wait_for_no_other() -> None:
    request = PLATFORMS["kubernetes"].predict
    plain, gang = request(SET, profile()), request(SET, profile(coscheduling={}))
    assert gang == plain


def test_the_group_goes_with_its_job(cluster: Cluster, at: Connect) -> None:
    client = at(**GANG)
    client.submit(asked(**GANG))
    group = cluster.objects[API, "lab", "podgroups"]["tiny-1"]
    (owner,) = group["metadata"]["ownerReferences"]
    assert owner["uid"] == cluster.job(*JOBS["indexed_job"], "tiny-1")["metadata"]["uid"]


def test_check_names_the_plugin_that_a_cluster_lacks(cluster: Cluster, at: Connect) -> None:
    cluster.denied.add(("create", "podgroups"))
    found = {one.what: one for one in at(**GANG).check(asked(**GANG))}
    assert found["kind PodGroup"].ok and not found["may create podgroups"].ok
    assert found["may patch podgroups"].ok
    del cluster.resources[API]
    missing = {one.what: one for one in at(**GANG).check(asked(**GANG))}["kind PodGroup"]
    assert not missing.ok and missing.found == f"no matches for {API} PodGroup"
    assert missing.fix.startswith("install the scheduler plugins with Coscheduling, or remove")


def test_kinds_that_are_gangs_already_refuse_it() -> None:
    with pytest.raises(JobError, match="coscheduling: expected none with `kind: volcano`"):
        profile(kind="volcano", coscheduling={})
    with pytest.raises(JobError, match="its runtime sets it"):
        profile(kind="trainjob", coscheduling={})
