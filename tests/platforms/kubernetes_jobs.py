"""Jobs of a cluster for the tests of its client, and what becomes of them."""

from collections.abc import Callable
from typing import Any

import pytest

from adapt.platforms import PLATFORMS
from adapt.platforms.kubernetes import KubernetesClient
from adapt.platforms.kubernetes.kinds import KINDS
from adapt.platforms.platform import Submission
from tests.platforms.kubernetes_double import Cluster
from tests.platforms.test_kubernetes_manifests import job, profile

JOBS = {
    "indexed_job": ("batch/v1", "jobs"),
    "jobset": ("jobset.x-k8s.io/v1alpha2", "jobsets"),
    "trainjob": ("trainer.kubeflow.org/v1alpha1", "trainjobs"),
    "pytorchjob": ("kubeflow.org/v1", "pytorchjobs"),
    "volcano": ("batch.volcano.sh/v1alpha1", "jobs"),
}
EACH_KIND = pytest.mark.parametrize("kind", JOBS)
Connect = Callable[..., KubernetesClient]


def asked(name: str = "tiny-1", **changes: Any) -> Any:
    return PLATFORMS["kubernetes"].request(Submission(name, job()), profile(**changes))


def pod_labels(kind: str, node: int = 0, name: str = "tiny-1") -> dict[str, str]:
    row = KINDS[kind]  # type: ignore[index]
    return {row.job_label: name, row.node_label: str(node)}


def conditions(thing: Any, word: str, reason: str = "", message: str = "") -> None:
    one = {"type": word, "status": "True", "reason": reason, "message": message}
    thing["status"] = {"conditions": [one]}


def complete(cluster: Cluster, word: str = "Complete") -> None:
    """End the Indexed Job that the tests of logs submit."""
    conditions(cluster.job(*JOBS["indexed_job"], "tiny-1"), word)


def fail(cluster: Cluster, kind: str, reason: str, message: str = "") -> None:
    thing = cluster.job(*JOBS[kind], "tiny-1")
    if kind == "volcano":
        thing["status"] = {"state": {"phase": "Failed", "message": message}}
    else:
        conditions(thing, "Failed", reason, message)
