"""Settings of pods that experts of a cluster need: where each stands, in every kind of job, and
what every version and CRD schema says to them."""

from typing import Any

import pytest

from adapt.errors import JobError
from adapt.platforms.kubernetes.checks import _named
from tests.platforms.kubernetes_schemas import VERSIONS, faults
from tests.platforms.predict_samples import SET
from tests.platforms.test_kubernetes_manifests import KINDS, ROW, pod_of, profile, request

COST = {"team": "towns", "kubecost.com/owner": "ann"}
KEPT = {"karpenter.sh/do-not-disrupt": "true"}
FULL: dict[str, Any] = {
    "labels": COST,
    "annotations": KEPT,
    "resources": {"vpc.amazonaws.com/efa": 4, "hugepages-2Mi": "5120Mi"},
    "ipc_lock": True,
    "ephemeral_gb": 200,
    "tmp_gb": 20,
    "together_by": "topology.kubernetes.io/zone",
    "fs_group_change": "Always",
}
PATCHED = {"runtime_class": "nvidia", "image_pull_policy": "Always"}


def settings(kind: str, **more: Any) -> dict[str, Any]:
    return {**FULL, **({} if kind == "trainjob" else PATCHED), **more}


def metadata_of_pods(asked: Any) -> Any:
    spec = asked["items"][-1]["spec"]
    if "trainer" in spec:
        (patch,) = spec["runtimePatches"]
        (node,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
        return node["template"]["spec"]["template"]["metadata"]
    if "replicatedJobs" in spec:
        return spec["replicatedJobs"][0]["template"]["spec"]["template"]["metadata"]
    for key in ("template", "tasks", "pytorchReplicaSpecs"):
        found = spec.get(key)
        if key == "tasks" and found:
            found = found[0]["template"]
        if key == "pytorchReplicaSpecs" and found:
            found = found["Master"]["template"]
        if found:
            return found["metadata"]
    raise AssertionError(spec)


@pytest.mark.parametrize("kind", KINDS)
def test_each_setting_stands_where_the_cluster_reads_it(kind: str) -> None:
    asked = request(kind=kind, nodes=2, pods=settings(kind))
    job, pod = asked["items"][-1], pod_of(asked)
    (container,) = pod["containers"]
    for place in (job["metadata"], metadata_of_pods(asked)):
        assert place["labels"].items() >= COST.items()
        assert place["labels"]["app.kubernetes.io/instance"] == "tiny-1"
        assert place["annotations"].items() >= {**KEPT, "segadapt/run": "tiny"}.items()
    if kind != "trainjob":
        assert pod["runtimeClassName"] == "nvidia" and container["imagePullPolicy"] == "Always"
    (term,) = pod["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert term["topologyKey"] == "topology.kubernetes.io/zone"
    assert term["labelSelector"]["matchLabels"].items() <= metadata_of_pods(asked)["labels"].items()
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["IPC_LOCK"]}
    assert pod["securityContext"]["fsGroupChangePolicy"] == "Always"
    limits, requests = container["resources"]["limits"], container["resources"]["requests"]
    for name in ("vpc.amazonaws.com/efa", "hugepages-2Mi"):
        assert limits[name] == requests[name] == str(FULL["resources"][name])
    assert (limits["ephemeral-storage"], requests["ephemeral-storage"]) == ("200000M", "100000M")
    volumes = {one["name"]: one for one in pod["volumes"]}
    assert volumes["tmp"]["emptyDir"] == {"sizeLimit": "20000M"}


@pytest.mark.parametrize("kind", KINDS)
def test_every_version_and_schema_takes_them(kind: str) -> None:
    asked = request(kind=kind, nodes=2, pods=settings(kind, cache_claim="weights"))
    for manifest in asked["items"]:
        for version in (VERSIONS[0], VERSIONS[-1]):
            assert faults(manifest, version) == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_claim_at_cache_takes_the_place_of_the_nodes_disk(kind: str) -> None:
    asked = request(kind=kind, pods={"cache_claim": "weights"})
    pod = pod_of(asked)
    volumes = {one["name"]: one for one in pod["volumes"]}
    assert volumes["scratch"]["persistentVolumeClaim"] == {"claimName": "weights"}
    assert "ephemeral-storage" not in pod["containers"][0]["resources"]["requests"]
    assert profile(pods={"cache_claim": "weights"}).promised_gb().disk is None
    assert pod["securityContext"]["fsGroupChangePolicy"] == "OnRootMismatch"


def test_pods_of_a_set_have_them_too() -> None:
    far = profile(pods=settings("indexed_job", cache_claim="weights"))
    ((_, asked),) = ROW.predict(SET, far).items()
    (job,) = asked["items"]
    assert faults(job) == []
    template = job["spec"]["template"]
    assert template["metadata"]["labels"].items() >= COST.items()
    assert template["metadata"]["annotations"].items() >= KEPT.items()
    assert template["spec"]["runtimeClassName"] == "nvidia"
    assert "affinity" not in template["spec"], "slices need not be near each other"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"pods": {"labels": {"app.kubernetes.io/name": "x"}}},
         "pods.labels: expected none of SegAdapt's own"),
        ({"pods": {"annotations": {"segadapt/run": "x"}}}, "pods.annotations: expected none of"),
        ({"pods": {"resources": {"memory": "5Gi"}}}, "pods.resources: .*set memory_gb"),
        ({"pods": {"resources": {"nvidia.com/gpu": 2}}}, "pods.resources: .*Fix: set gpus"),
        ({"pods": {"ephemeral_gb": 5}}, r"pods.ephemeral_gb: expected scratch_gb \(100\) or more"),
        ({"kind": "trainjob", "pods": PATCHED}, "pods.runtime_class: expected none with `kind: tr"),
    ],
)  # fmt: skip
def test_what_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(JobError, match=said):
        profile(**changes)


def test_check_looks_for_the_objects_that_they_name() -> None:
    named = [one.what for one in _named(profile(pods={**PATCHED, "cache_claim": "weights"}))]
    assert named == ["claim weights", "runtime class nvidia"]
