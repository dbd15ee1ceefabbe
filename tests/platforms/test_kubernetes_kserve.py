"""InferenceServices of KServe: golden manifests that the CRD's schema and the webhook's rules take,
and a client beside the strict double of an API server."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from adapt.errors import JobError
from adapt.platforms.endpoint import Deployment
from adapt.platforms.kubernetes import logs
from adapt.platforms.kubernetes.endpoint_kserve import status_of
from adapt.platforms.kubernetes.endpoint_request import endpoint_request, reach
from adapt.platforms.kubernetes.endpoints import KubernetesEndpoints, connect_endpoints
from tests.platforms.kubernetes_double import Cluster, write_kubeconfig
from tests.platforms.kubernetes_schemas import VERSIONS, faults
from tests.platforms.quick import quick_retries
from tests.platforms.test_kubernetes_endpoints import CRASHED, FULL, STORED, pod
from tests.platforms.test_kubernetes_manifests import profile

GOLDEN = Path(__file__).parent / "golden" / "kubernetes_kserve.yaml"
KIND = {"kind": "inferenceservice"}
SCALED = {**FULL, "serve": {**FULL["serve"], **KIND}}  # type: ignore[dict-item]
LABELS = {"serving.kserve.io/inferenceservice": "town", "component": "predictor"}
API, PLURAL = "serving.kserve.io/v1beta1", "inferenceservices"


def asked(deployment: Deployment = STORED, **changes: Any) -> dict[str, Any]:
    return endpoint_request(deployment, profile(**{"serve": KIND, **changes}))


def test_the_request_is_the_golden_one() -> None:
    """Regenerate golden/kubernetes_kserve.yaml by hand: a person has to have read a request."""
    request = asked(**SCALED)
    assert json.loads(json.dumps(request)) == request
    assert request == yaml.safe_load(GOLDEN.read_text())


VOLUMES = [{"mount_path": "/runs", "claim": "runs", "read_only": False}]


@pytest.mark.parametrize(
    "changes", [{}, SCALED, {"gpus": 1}, {"gpus": 0}, {"volumes": VOLUMES}], ids=str
)
def test_kserve_takes_every_manifest(changes: dict[str, Any]) -> None:
    (service,) = asked(**changes)["items"]
    for version in VERSIONS:
        assert faults(service, version) == []


def test_the_double_refuses_what_kserve_would() -> None:
    (service,) = asked(**SCALED)["items"]
    predictor = service["spec"]["predictor"]
    assert faults(_with(service, predictor={**predictor, "replicas": 2}))[0].unknown
    assert faults(_with(service, predictor={**predictor, "maxReplicas": 1}))
    assert faults(_with(service, predictor={**predictor, "containers": []}))
    raw = {"annotations": {"serving.kserve.io/deploymentMode": "RawDeployment"}}
    old = {**service, "metadata": {**service["metadata"], **raw}}
    assert faults(old)[0].message == "[cpu] is not a supported metric"


def _with(service: dict[str, Any], **spec: Any) -> dict[str, Any]:
    return {**service, "spec": spec}


def test_the_predictor_is_the_pod_of_a_deployment() -> None:
    (service,) = asked(**SCALED)["items"]
    _, deployment, _ = endpoint_request(STORED, profile(**FULL))["items"]
    (container,) = service["spec"]["predictor"]["containers"]
    (plain,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container == {**plain, "name": "kserve-container"}
    assert service["spec"]["predictor"]["securityContext"]["runAsNonRoot"] is True


def test_pods_of_the_cluster_alone_reach_it_unless_the_profile_says_more() -> None:
    (service,) = asked()["items"]
    label = "networking.kserve.io/visibility"
    assert service["metadata"]["labels"][label] == "cluster-local"
    assert reach(STORED, profile(serve=KIND)) == "pods of the cluster alone"
    wide = {**KIND, "gateway": True}
    (service,) = asked(serve=wide)["items"]
    assert label not in service["metadata"]["labels"]
    assert reach(STORED, profile(serve=wide)).startswith("all that reach KServe's gateway")


def test_a_share_that_kserve_refuses_is_refused_by_its_key() -> None:
    with pytest.raises(JobError, match=r"serve.cpu_percent: expected at most 100 with kind: inf"):
        profile(serve={**KIND, "cpu_percent": 150})


@pytest.fixture
def client(
    cluster_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> KubernetesEndpoints:
    monkeypatch.setattr(logs, "POLL_S", 0.05)
    quick_retries(monkeypatch)
    config = str(write_kubeconfig(tmp_path / "config", cluster_url))
    return connect_endpoints(profile(kubeconfig=config, serve=KIND), {})


def test_an_endpoint_is_made_watched_and_removed(
    cluster: Cluster, client: KubernetesEndpoints
) -> None:
    assert client.deploy(asked()) == "town"
    assert client.status("town").state == "starting"
    made = cluster.job(API, PLURAL, "town")
    cluster.add_pod("town-predictor-1", LABELS)
    cluster.logs["town-predictor-1"].write("loading the model")
    made["status"] = {
        "conditions": [{"type": "Ready", "status": "True"}],
        "url": "http://town.lab.svc.cluster.local",
    }
    (status,) = client.endpoints()
    assert (status.state, status.url) == ("ready", "http://town.lab.svc.cluster.local")
    assert list(client.logs("town", follow=False)) == ["loading the model"]
    client.undeploy("town")
    assert cluster.objects[API, "lab", PLURAL] == {}


def test_what_kserve_makes_of_it_is_no_endpoint_of_the_other_kind(
    cluster: Cluster, client: KubernetesEndpoints, tmp_path: Path
) -> None:
    client.deploy(asked())
    labels = dict(cluster.job(API, PLURAL, "town")["metadata"]["labels"])
    own = {"apiVersion": "apps/v1", "kind": "Deployment", "spec": {}}
    cluster.put(
        "apps/v1",
        "lab",
        "deployments",
        {**own, "metadata": {"name": "town-predictor", "labels": labels}},
    )
    others = connect_endpoints(profile(kubeconfig=str(tmp_path / "config")), {})
    assert list(others.endpoints()) == []


def test_a_cluster_without_kserve_is_told(cluster: Cluster, client: KubernetesEndpoints) -> None:
    del cluster.resources[API]
    with pytest.raises(JobError, match=r"serve.kind: no matches.*have KServe 0.16 or later"):
        client.deploy(asked())


def condition(kind: str, status: str, reason: str = "", message: str = "") -> dict[str, str]:
    return {"type": kind, "status": status, "reason": reason, "message": message}


LATE = condition("PredictorReady", "False", "ProgressDeadlineExceeded", "timed out")
EARLY = condition("PredictorReady", "False", "MinimumReplicasUnavailable", "none is ready")
FAILED = {"transitionStatus": "BlockedByFailedLoad", "lastFailureInfo": {"message": "exit code 3"}}


@pytest.mark.parametrize(
    ("pods", "status", "state", "detail"),
    [
        ([], {}, "starting", ""),
        ([pod()], {"conditions": [EARLY, condition("Ready", "False")]}, "starting", ""),
        ([pod(scheduled="False")], {}, "starting", "0 of 3 nodes have a GPU"),
        ([pod()], {"conditions": [condition("Ready", "True")]}, "ready", ""),
        ([pod()], {"conditions": [condition("Stopped", "True")]}, "stopped", ""),
        ([pod()], {"conditions": [LATE]}, "failed", "timed out"),
        ([], {"modelStatus": FAILED}, "failed", "exit code 3"),
        ([], {"modelStatus": {"transitionStatus": "InvalidSpec"}}, "failed", "InvalidSpec"),
        (
            [pod("CrashLoopBackOff", **CRASHED)],
            {},
            "failed",
            "CrashLoopBackOff (exit code 2): MODEL: expected another",
        ),
    ],
)
def test_an_inference_service_says_how_the_endpoint_is(
    pods: list[Any], status: dict[str, Any], state: str, detail: str
) -> None:
    found = status_of({"metadata": {"name": "town"}, "status": status}, pods)
    assert (found.endpoint, found.state, found.detail) == ("town", state, detail)
