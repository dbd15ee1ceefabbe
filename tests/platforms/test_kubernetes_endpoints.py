"""Kubernetes' endpoints: golden manifests that every version takes, and a client beside the strict
double of an API server."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from adapt.errors import JobError
from adapt.platforms import PLATFORMS
from adapt.platforms.endpoint import Deployment
from adapt.platforms.kubernetes import logs
from adapt.platforms.kubernetes.endpoint_deployment import status_of
from adapt.platforms.kubernetes.endpoint_request import access, endpoint_request, reach
from adapt.platforms.kubernetes.endpoints import KubernetesEndpoints, connect_endpoints
from tests.platforms.kubernetes_double import Cluster, ServerAnswer, write_kubeconfig
from tests.platforms.kubernetes_schemas import VERSIONS, faults
from tests.platforms.quick import quick_retries
from tests.platforms.test_kubernetes_manifests import profile

GOLDEN = Path(__file__).parent / "golden" / "kubernetes_endpoint.yaml"
STORED = Deployment("town", "s3://bucket/runs/town/step-00000500/weights.safetensors", "x")
LABELS = {
    "app.kubernetes.io/instance": "town",
    "app.kubernetes.io/component": "endpoint",
}
FULL = {
    "secret": "segadapt-secrets",
    "environment": {"AWS_ENDPOINT_URL_S3": "http://s3.lab:8333"},
    "serve": {
        "replicas": 2,
        "max_replicas": 5,
        "token_secret": "town-token",
        "arguments": ["--precision", "bf16"],
    },
}

Connected = Callable[..., KubernetesEndpoints]


def asked(deployment: Deployment = STORED, **changes: Any) -> dict[str, Any]:
    return endpoint_request(deployment, profile(**changes))


def test_the_request_is_the_golden_one() -> None:
    """Regenerate golden/kubernetes_endpoint.yaml by hand: a person has to have read a request."""
    request = asked(**FULL)
    assert json.loads(json.dumps(request)) == request
    assert request == yaml.safe_load(GOLDEN.read_text())


@pytest.mark.parametrize("changes", [{}, FULL, {"gpus": 1}, {"gpus": 0}], ids=str)
def test_every_version_takes_every_manifest(changes: dict[str, Any]) -> None:
    for manifest in asked(**changes)["items"]:
        for version in VERSIONS:
            assert faults(manifest, version) == []


def test_the_pods_are_what_the_strictest_pod_security_standard_wants() -> None:
    _, deployment = asked()["items"]
    pod = deployment["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] == 1000
    security = pod["containers"][0]["securityContext"]
    assert security["readOnlyRootFilesystem"] and security["capabilities"] == {"drop": ["ALL"]}
    assert pod["terminationGracePeriodSeconds"] == profile().grace_s


def test_the_service_finds_the_pods_and_the_probes_the_port() -> None:
    service, deployment = asked()["items"]
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()
    assert deployment["spec"]["selector"]["matchLabels"] == service["spec"]["selector"]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["args"][:3] == ["serve", "--port", str(container["ports"][0]["containerPort"])]
    assert container["readinessProbe"]["httpGet"] == {"path": "/v2/health/ready", "port": "http"}
    assert container["livenessProbe"]["httpGet"]["path"] == "/v2/health/live"


def test_the_autoscaler_alone_sets_the_replicas_that_it_changes() -> None:
    *_, deployment, scaler = asked(**FULL)["items"]
    assert "replicas" not in deployment["spec"]
    assert (scaler["spec"]["minReplicas"], scaler["spec"]["maxReplicas"]) == (2, 5)
    _, fixed = asked(serve={"replicas": 3})["items"]
    assert fixed["spec"]["replicas"] == 3


def test_a_path_is_served_from_a_volume_and_refused_without_one() -> None:
    volumes = [{"mount_path": "/runs", "claim": "runs", "read_only": False}]
    _, deployment = asked(Deployment("town", "/runs/town", "x"), volumes=volumes)["items"]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["volumeMounts"][-1] == {
        "name": "data-0", "mountPath": "/runs", "readOnly": True
    }  # fmt: skip
    assert {"name": "SEGADAPT_MODEL", "value": "/runs/town"} in container["env"]
    with pytest.raises(JobError, match=r"MODEL: expected the URI of a store \(s3://.*https://"):
        asked(Deployment("town", "/home/me/best", "x"))


def test_the_settings_of_the_model_s_store_come_along() -> None:
    _, deployment = asked(STORED._replace(spec="spec"))["items"]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    for name, value in STORED._replace(spec="spec").store_settings().items():
        assert {"name": name, "value": value} in container["env"]


def test_what_is_shown_before_yes() -> None:
    assert reach(STORED, profile()) == "pods of the cluster alone (http://town.lab.svc:8080)"
    assert access(profile()) == "open: no token is asked for"
    assert access(profile(**FULL)) == "the token in SEGADAPT_TOKEN of Secret town-token"
    serving = PLATFORMS["kubernetes"].serving
    assert serving is not None and not serving.takes_paths
    assert serving.replicas(profile(**FULL)) == (2, 5)
    assert serving.replicas(profile()) == (1, 1)


@pytest.mark.parametrize(
    ("serve", "said"),
    [
        ({"replica": 2}, "serve.replica: unknown key, got 'replica'; did you mean 'replicas'?"),
        (
            {"replicas": 3, "max_replicas": 2},
            "serve.max_replicas: expected at least replicas (3), got 2",
        ),
        ({"kind": "inference"}, "serve.kind: expected"),
        (
            {"gateway": True},
            "serve.gateway: expected false with kind: deployment, got true. Fix: make an Ingress",
        ),
        ({"token_secret": "My Secret"}, "serve.token_secret: expected the name of an object"),
    ],
)
def test_mistakes_are_refused_by_their_key(serve: dict[str, Any], said: str) -> None:
    with pytest.raises(JobError) as caught:
        profile(serve=serve)
    assert str(caught.value).startswith(said)


@pytest.fixture
def served(cluster_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Connected:
    monkeypatch.setattr(logs, "POLL_S", 0.05)
    quick_retries(monkeypatch)
    config = str(write_kubeconfig(tmp_path / "config", cluster_url))
    return lambda **changes: connect_endpoints(profile(kubeconfig=config, **changes), {})


def in_cluster(cluster: Cluster) -> list[str]:
    return sorted(kind for (_, space, kind), all_ in cluster.objects.items() if space and all_)


def test_an_endpoint_is_made_watched_and_removed(cluster: Cluster, served: Connected) -> None:
    client = served()
    assert client.deploy(asked(**FULL)) == "town"
    assert in_cluster(cluster) == ["deployments", "horizontalpodautoscalers", "services"]
    made = cluster.job("apps/v1", "deployments", "town")
    made["spec"]["replicas"] = 2  # as its autoscaler does
    assert client.status("town").state == "starting"
    cluster.add_pod("town-1", LABELS)
    cluster.logs["town-1"].write("loading the model")
    made["status"] = {"readyReplicas": 1}
    (status,) = client.endpoints()
    assert (status.state, status.detail) == ("ready", "1 of 2 replicas are ready")
    assert status.url == "http://town.lab.svc:8080"
    assert list(client.logs("town", follow=False)) == ["loading the model"]
    del cluster.objects["v1", "lab", "pods"]["town-1"]
    client.undeploy("town")
    assert in_cluster(cluster) == []


def test_the_lines_of_several_pods_are_named(cluster: Cluster, served: Connected) -> None:
    client = served()
    client.deploy(asked(serve={"replicas": 2}))
    for name in ("town-1", "town-2"):
        cluster.add_pod(name, LABELS)
        cluster.logs[name].write("ready")
    assert list(client.logs("town", False)) == ["[town-1] ready", "[town-2] ready"]
    lines = client.logs("town", follow=True)
    assert {next(lines), next(lines)} == {"[town-1] ready", "[town-2] ready"}
    client.undeploy("town")
    for name in ("town-1", "town-2"):
        cluster.end_pod(name, 0)
    assert list(lines) == [], "all readers have ended"


def test_a_log_is_followed_until_the_endpoint_is_gone(cluster: Cluster, served: Connected) -> None:
    client = served()
    client.deploy(asked())
    cluster.add_pod("town-1", LABELS)
    cluster.logs["town-1"].write("loading the model")
    lines = client.logs("town", follow=True)
    assert next(lines) == "loading the model"
    client.undeploy("town")
    cluster.logs["town-1"].write("stopped")
    cluster.end_pod("town-1", 0)
    assert list(lines) == ["stopped"]


def test_what_was_made_is_taken_back_where_the_rest_is_refused(
    cluster: Cluster, served: Connected
) -> None:
    cluster.refusals.append(("POST .*/deployments", ServerAnswer(403, "Forbidden", "policy: no")))
    with pytest.raises(JobError, match="policy: no"):
        served().deploy(asked(**FULL))
    assert in_cluster(cluster) == []


def test_a_second_endpoint_of_a_name_is_refused_and_the_first_stays(
    cluster: Cluster, served: Connected
) -> None:
    client = served()
    client.deploy(asked())
    with pytest.raises(JobError, match=r"name: expected a free name in lab, got 'town'.*undeploy"):
        client.deploy(asked())
    assert in_cluster(cluster) == ["deployments", "services"]


def test_only_endpoints_of_ours_are_touched(cluster: Cluster, served: Connected) -> None:
    client = served()
    other = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}}
    cluster.put("apps/v1", "lab", "deployments", other)
    for ask in (client.status, client.undeploy):
        with pytest.raises(JobError, match="NAME: expected an endpoint in lab, got another Deplo"):
            ask("web")
        with pytest.raises(JobError, match=r"got none, 'absent'.*endpoints --to PROFILE"):
            ask("absent")
    assert list(client.endpoints()) == []


def pod(reason: str = "", scheduled: str = "True", **more: Any) -> dict[str, Any]:
    state = {"waiting": {"reason": reason, "message": "said so"}} if reason else {"running": {}}
    condition = {"type": "PodScheduled", "status": scheduled, "message": "0 of 3 nodes have a GPU"}
    return {"status": {"conditions": [condition], "containerStatuses": [{"state": state, **more}]}}


CRASHED = {"lastState": {"terminated": {"exitCode": 2, "message": "MODEL: expected\nanother"}}}
LATE = {"conditions": [{"type": "Progressing", "status": "False", "message": "timed out"}]}


@pytest.mark.parametrize(
    ("pods", "status", "replicas", "state", "detail"),
    [
        ([], {}, 1, "starting", "0 of 1 replicas are ready"),
        ([pod()], {"readyReplicas": 1}, 1, "ready", ""),
        (
            [pod(scheduled="False")],
            {},
            1,
            "starting",
            "0 of 1 replicas are ready; 0 of 3 nodes have a GPU",
        ),
        (
            [pod("ImagePullBackOff")],
            {},
            2,
            "failed",
            "0 of 2 replicas are ready; ImagePullBackOff: said so",
        ),
        (
            [pod(), pod("CrashLoopBackOff", **CRASHED)],
            {"readyReplicas": 1},
            2,
            "ready",
            "1 of 2 replicas are ready; CrashLoopBackOff (exit code 2): MODEL: expected another",
        ),
        ([pod()], LATE, 1, "failed", "0 of 1 replicas are ready; timed out"),
        ([], {}, 0, "stopped", ""),
    ],
)
def test_a_deployment_and_its_pods_say_how_the_endpoint_is(
    pods: list[Any], status: dict[str, Any], replicas: int, state: str, detail: str
) -> None:
    place = {"name": "town", "namespace": "lab"}
    described = {"metadata": place, "spec": {"replicas": replicas}, "status": status}
    found = status_of(described, pods)
    assert (found.endpoint, found.state, found.detail) == ("town", state, detail)
