"""The checks of a cluster before a job is sent."""

from pathlib import Path
from typing import Any

import pytest

from adapt.platforms.kubernetes import KubernetesClient, connect
from adapt.platforms.platform import Finding
from tests.platforms.kubernetes_double import Cluster, write_kubeconfig
from tests.platforms.kubernetes_jobs import Connect, asked
from tests.platforms.test_kubernetes_manifests import profile

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


@pytest.mark.slow
def test_check_of_other_kinds_looks_for_what_they_need(cluster: Cluster, at: Connect) -> None:
    found = check(at(kind="trainjob"), kind="trainjob")
    assert not found["runtime torch-distributed"].ok
    assert "kubectl get clustertrainingruntimes" in found["runtime torch-distributed"].fix
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
    assert "install Kubeflow's training operator 1.7 or later" in missing.fix


def test_check_names_what_is_missing_and_its_cure(cluster: Cluster, at: Connect) -> None:
    cluster.denied |= {("create", "jobs"), ("patch", "services")}
    wants = FULL | {"gpus": 16}
    found = check(at(**wants), **wants)
    red = {what: finding.fix for what, finding in found.items() if not finding.ok}
    assert red["secret keys"].startswith("run kubectl -n lab create secret")
    assert red["service account trainer"] == "create it, or name another `service_account`"
    assert red["claim town"] == "create the claim, or name another in `volumes`"
    assert red["priority class low"] == "name one that kubectl get priorityclasses lists"
    assert red["may create jobs"] == "get a role in namespace lab that may"
    assert (
        "may patch services" in red
        and "install the device plugin" in red["16 x nvidia.com/gpu a node"]
    )
    assert "jobs is forbidden" in found["dry run of Job"].found
    assert {finding.exit_code for finding in found.values()} == {2}


def test_check_says_that_a_namespace_is_missing(cluster: Cluster, at: Connect) -> None:
    found = check(at(namespace="none"), namespace="none")
    assert found["namespace none"].fix.startswith("run kubectl create namespace none")


def test_check_takes_nothing_amiss_that_may_not_be_seen(cluster: Cluster, at: Connect) -> None:
    furnish(cluster)
    cluster.denied |= {("get", "secrets"), ("list", "nodes"), ("get", "namespaces")}
    found = check(at(**FULL), **FULL)
    assert all(finding.ok for finding in found.values())
    hidden = [what for what, one in found.items() if one.found.startswith("not visible")]
    assert hidden == ["namespace lab", "secret keys", "secret login", "1 x nvidia.com/gpu a node"]


def test_check_of_a_server_that_is_away_ends_with_storages_exit_code(
    absent_uri: str, cluster_url: str, tmp_path: Path
) -> None:
    config = str(write_kubeconfig(tmp_path / "config", absent_uri))
    (finding,) = connect(profile(kubeconfig=config), {}).check(asked())
    assert not finding.ok and finding.exit_code == 3 and "is unreachable" in finding.found
    expired = str(write_kubeconfig(tmp_path / "expired", cluster_url, token="old"))
    (finding,) = connect(profile(kubeconfig=expired), {}).check(asked())
    assert not finding.ok and finding.exit_code == 2 and "log in again" in finding.fix


LABELS = {"nvidia.com/gpu.product": "Tesla-V100-SXM2-16GB", "nvidia.com/cuda.driver.major": "580"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("labels", "changes", "said"),
    [
        (LABELS, {}, "0 of 1 nodes fit the image; others: gpu: expected compute capability 7.5"),
        (LABELS, {"cuda": 12}, None),
        (LABELS | {"nvidia.com/gpu.product": "NVIDIA-A100-SXM4-40GB"}, {}, None),
        (
            {"nvidia.com/cuda.driver-version.major": "550"},
            {},
            "others: driver: expected 580 or later",
        ),
    ],
)
def test_check_reads_gpu_and_driver_from_the_labels_of_nodes(
    labels: dict[str, str],
    changes: dict[str, Any],
    said: str | None,
    cluster: Cluster,
    at: Connect,
) -> None:
    (node,) = cluster.objects["v1", "", "nodes"].values()
    node["metadata"]["labels"].update(labels)
    found = check(at(**changes), **changes).get("GPUs of the nodes")
    if said is None:
        assert found is None
    else:
        assert found is not None and not found.ok and said in found.found
        assert "choose others by node_selector" in found.fix


def test_nodes_that_fit_suffice(cluster: Cluster, at: Connect) -> None:
    (node,) = cluster.objects["v1", "", "nodes"].values()
    status, old = node["status"], {"name": "old", "labels": LABELS}
    cluster.put("v1", "", "nodes", {"metadata": old, "status": status})
    found = check(at())["GPUs of the nodes"]
    assert found.ok and found.found.startswith("1 of 2 nodes fit the image; others: gpu:")
