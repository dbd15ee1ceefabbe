"""What a cluster is asked for: profiles, golden manifests, and what every version says to them."""

import json
import os
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from adapt.config.validation import validate
from adapt.errors import JobError
from adapt.platforms import PLATFORMS, load_profile
from adapt.platforms.kubernetes.profile import KubernetesProfile
from adapt.platforms.platform import Submission
from adapt.spec.job_spec import JobSpec
from tests.commands import ROOT
from tests.conftest import tiny_values
from tests.platforms.kubernetes_schemas import CUSTOM, VERSIONS, faults, pod_templates

GOLDEN = Path(__file__).parent / "golden"
PROFILES = sorted((ROOT / "job_specs/platforms").glob("kubernetes*.yaml"))
EACH = pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.stem)
KINDS = ["indexed_job", "jobset", "trainjob", "pytorchjob", "volcano"]
ROW = PLATFORMS["kubernetes"]
STORES = {"s3": {"access_key_env": "LAB_KEY", "secret_key_env": "LAB_SECRET"}}


def job(**changes: Any) -> JobSpec:
    return validate(JobSpec, tiny_values("s3://bucket/tiny", "s3://bucket/runs") | changes)


def profile(**changes: Any) -> KubernetesProfile:
    values = {"platform": "kubernetes", "image": "registry/segadapt:1", "namespace": "lab"}
    return validate(KubernetesProfile, values | changes)


def request(**changes: Any) -> Any:
    return ROW.request(Submission("tiny-1", job()), profile(**changes))


def pod_of(asked: Any) -> Any:
    return next(pod_templates(asked["items"][-1]))["spec"]


def variables(asked: Any) -> dict[str, Any]:
    (container,) = pod_of(asked)["containers"]
    return {one["name"]: one.get("value", one.get("valueFrom")) for one in container["env"]}


@EACH
def test_a_request_is_what_the_golden_file_says(path: Path) -> None:
    """GOLDEN_WRITE=1 writes them anew, without the job spec, which has its own tests."""
    asked = ROW.request(Submission("tiny-1", job(stores=STORES)), load_profile(path))
    data = asked["items"][0]["data"]
    assert data["job.yaml"] == job(stores=STORES).to_yaml()
    data["job.yaml"] = "the resolved job spec\n"
    golden = GOLDEN / f"{path.stem}.yaml"
    if os.environ.get("GOLDEN_WRITE"):
        golden.write_text(yaml.safe_dump(json.loads(json.dumps(asked)), sort_keys=False, width=100))
    assert asked == yaml.safe_load(golden.read_text())


@pytest.mark.slow
@EACH
@pytest.mark.parametrize("nodes", [1, 3])
def test_every_version_takes_every_manifest(path: Path, nodes: int) -> None:
    assert VERSIONS[0].startswith("1.28") and VERSIONS[-1].startswith("1.37")
    assert len(VERSIONS) == 10
    tried = load_profile(path).model_copy(update={"nodes": nodes, "gpus": nodes - 1})
    for manifest in ROW.request(Submission("tiny-1", job()), tried)["items"]:
        custom = (manifest["apiVersion"], manifest["kind"]) in CUSTOM
        for version in VERSIONS:
            assert faults(manifest, version) == []
            if not custom:
                assert kubernetes_validate.validate(manifest, version, strict=True)
            for template in pod_templates(manifest):
                pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {}, "spec": template["spec"]}
                assert kubernetes_validate.validate(pod, version, strict=True)


@pytest.mark.parametrize("kind", KINDS)
def test_schemas_see_misspelt_and_mistyped_fields(kind: str) -> None:
    wrong = request(kind=kind)["items"][-1]
    wrong["spec"]["nodess"] = 1
    assert [(fault.field, fault.unknown) for fault in faults(wrong)] == [("spec.nodess", True)]
    wrong = request(kind=kind)["items"][-1]
    wrong["metadata"]["labels"] = {"a": 1}
    assert faults(wrong)[0].field == "metadata.labels.a"


@pytest.mark.parametrize("kind", KINDS)
def test_pods_are_what_the_strictest_pod_security_standard_wants(kind: str) -> None:
    pod = pod_of(request(kind=kind))
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert (pod["securityContext"]["runAsUser"], pod["securityContext"]["fsGroup"]) == (1000, 100)
    rights = container["securityContext"]
    assert rights["readOnlyRootFilesystem"] and not rights["allowPrivilegeEscalation"]
    assert rights["capabilities"] == {"drop": ["ALL"]} and "privileged" not in rights
    mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounted == {"/etc/segadapt", "/dev/shm", "/cache", "/tmp"}


@pytest.mark.parametrize("kind", KINDS)
def test_pods_know_their_spec_their_job_and_their_grace(kind: str) -> None:
    asked = request(kind=kind, grace_s=90, environment={"PRICE": "$(HOME) $5"})
    told = variables(asked)
    assert told["SEGADAPT_SPEC"] == "/etc/segadapt/job.yaml"
    assert (told["SEGADAPT_JOB"], told["SEGADAPT_GRACE_S"]) == ("tiny-1", "90")
    assert pod_of(asked)["terminationGracePeriodSeconds"] == 90
    assert told["PRICE"] == "$$(HOME) $$5"  # Kubernetes would expand it
    assert told.get("NVIDIA_VISIBLE_DEVICES") is None
    assert variables(request(kind=kind, gpus=0))["NVIDIA_VISIBLE_DEVICES"] == "void"


@pytest.mark.parametrize("kind", KINDS)
def test_gpus_are_asked_for_and_their_taint_is_tolerated(kind: str) -> None:
    pod = pod_of(request(kind=kind, gpus=2, gpu_resource="amd.com/gpu"))
    resources = pod["containers"][0]["resources"]
    assert resources["limits"]["amd.com/gpu"] == resources["requests"]["amd.com/gpu"] == "2"
    assert {"key": "amd.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in pod[
        "tolerations"
    ]
    without = pod_of(request(kind=kind, gpus=0))
    assert "nvidia.com/gpu" not in without["containers"][0]["resources"]["limits"]
    assert "tolerations" not in without


def test_secrets_go_by_name() -> None:
    for kind in ("indexed_job", "jobset", "pytorchjob", "volcano"):
        (container,) = pod_of(request(kind=kind, secret="keys"))["containers"]
        assert container["envFrom"] == [{"secretRef": {"name": "keys"}}]
    submission = Submission("tiny-1", job(stores=STORES))
    asked = ROW.request(submission, profile(kind="trainjob", secret="keys"))
    told = variables(asked)
    for name in ("LAB_KEY", "LAB_SECRET", "MLFLOW_TRACKING_PASSWORD"):
        assert told[name] == {"secretKeyRef": {"name": "keys", "optional": True, "key": name}}
    assert "LAB_KEY" not in variables(request(kind="trainjob"))


def test_nodes_of_an_indexed_job_meet_at_the_first_one() -> None:
    asked = request(nodes=3, gpus=2)
    assert [item["kind"] for item in asked["items"]] == ["ConfigMap", "Service", "Job"]
    told = variables(asked)
    assert told["PET_MASTER_ADDR"] == "tiny-1-0.tiny-1" and told["PET_NNODES"] == "3"
    assert told["PET_NPROC_PER_NODE"] == "2" and pod_of(asked)["subdomain"] == "tiny-1"
    service = asked["items"][1]["spec"]
    labels = asked["items"][-1]["spec"]["template"]["metadata"]["labels"]
    assert service["selector"].items() <= labels.items()
    assert [item["kind"] for item in request()["items"]] == ["ConfigMap", "Job"]


def test_what_another_attempt_cannot_mend_is_not_tried_again() -> None:
    spec = request(nodes=2, restarts=3, max_hours=0.5)["items"][-1]["spec"]
    disruption, codes = spec["podFailurePolicy"]["rules"]
    assert disruption["action"] == "Ignore" and codes["action"] == "FailJob"
    assert codes["onExitCodes"]["values"] == [1, 2, 4]
    assert (spec["backoffLimit"], spec["activeDeadlineSeconds"]) == (6, 1800)
    policies = request(kind="volcano", restarts=4)["items"][-1]["spec"]
    assert [one.get("exitCode") for one in policies["policies"]] == [1, 2, 4, None]
    assert policies["policies"][-1]["action"] == "RestartJob" and policies["maxRetry"] == 4
    never = request(kind="volcano", restarts=0)["items"][-1]["spec"]
    assert never["policies"][-1]["action"] == "TerminateJob" and never["maxRetry"] == 1
    replicas = request(kind="pytorchjob", nodes=3)["items"][-1]["spec"]["pytorchReplicaSpecs"]
    assert [one["replicas"] for one in replicas.values()] == [1, 2]
    assert {one["restartPolicy"] for one in replicas.values()} == {"ExitCode"}
    alone = request(kind="pytorchjob", restarts=0)["items"][-1]["spec"]["pytorchReplicaSpecs"]
    assert alone.keys() == {"Master"} and alone["Master"]["restartPolicy"] == "Never"


def test_who_starts_an_interrupted_job_again() -> None:
    assert ROW.restarts(profile()) and not ROW.restarts(profile(restarts=0))
    assert ROW.restarts(profile(kind="jobset"))
    assert ROW.restarts(profile(kind="volcano")) and not ROW.restarts(profile(kind="pytorchjob"))
    assert not ROW.restarts(profile(kind="trainjob")) and ROW.grace_s(profile(grace_s=77)) == 77


def test_volumes_are_claims_and_nfs() -> None:
    volumes = [
        {"mount_path": "/data", "claim": "town"},
        {"mount_path": "/runs", "nfs_server": "nas", "nfs_path": "/runs", "read_only": False},
    ]
    pod = pod_of(request(volumes=volumes))
    assert pod["volumes"][-2:] == [
        {"name": "data-0", "persistentVolumeClaim": {"claimName": "town", "readOnly": True}},
        {"name": "data-1", "nfs": {"server": "nas", "path": "/runs", "readOnly": False}},
    ]
    assert pod["containers"][0]["volumeMounts"][-1] == {
        "name": "data-1", "mountPath": "/runs", "readOnly": False,
    }  # fmt: skip


@EACH
def test_a_profile_can_be_read_back_from_the_record_of_a_job(path: Path) -> None:
    found = load_profile(path)
    assert validate(KubernetesProfile, found.model_dump(mode="json")) == found


EQUAL = {"key": "spot", "operator": "Equal"}
WRONG: list[tuple[dict[str, Any], str]] = [
    (
        {"kind": "statefulset"},
        "kind: expected indexed_job, jobset, trainjob, pytorchjob or volcano",
    ),
    ({"namespace": "My_Lab"}, "namespace: expected lower-case letters.*'My_Lab'"),
    ({"namespace": "a" * 64}, "namespace: expected .* at most 63 characters"),
    ({"secret": "Keys"}, "secret: expected the name of an object.*'Keys'"),
    ({"image": "https://registry/x"}, r"image: expected REGISTRY/NAME:TAG .*'https://registry/x'"),
    ({"image": "a b"}, "image: expected REGISTRY"),
    ({"gpu_resource": "gpu!"}, "gpu_resource: expected a label's key"),
    ({"node_selector": {"pool": "a b"}}, "node_selector.pool: expected a label's value"),
    ({"shm_gb": 40}, r"shm_gb: expected less than memory_gb \(32\).* got 40"),
    ({"grace_s": 5}, "grace_s: expected an integer >= 30, got 5"),
    ({"restarts": -1}, "restarts: expected an integer >= 0"),
    ({"environment": {"PET_NNODES": "2"}}, "environment: expected names .*, got PET_NNODES"),
    ({"environment": {"A-B": "2"}}, "environment: expected names of letters, digits.*'A-B'"),
    (
        {"runtime": "torch"},
        "runtime: expected with `kind: trainjob` alone, got it with `kind: indexed_job`. Fix: "
        "remove it",
    ),
    (
        {"queue": "low"},
        "queue: expected with `kind: volcano` alone, got it with `kind: indexed_job`.",
    ),
    (
        {"kind": "trainjob", "restarts": 1},
        "restarts: expected none with `kind: trainjob`, got one: its runtime",
    ),
    ({"kind": "trainjob", "keep_hours": 1}, "keep_hours: expected none with `kind: trainjob`"),
    (
        {"kind": "trainjob", "priority_class": "a"},
        "priority_class: expected none with `kind: trainjob`",
    ),
    (
        {"kind": "volcano", "max_hours": 1},
        "max_hours: expected none with `kind: volcano`, got one: .* no deadline",
    ),
    (
        {"kind": "jobset", "max_hours": 1},
        "max_hours: expected none with `kind: jobset`, got one: .* no deadline",
    ),
    ({"volumes": [{"mount_path": "/data"}]}, "volumes.0: expected `claim`, or `nfs_server` and"),
    (
        {"volumes": [{"mount_path": "/data", "claim": "a", "nfs_server": "b"}]},
        "volumes.0: expected `claim`, or",
    ),
    (
        {"volumes": [{"mount_path": "/cache/x", "claim": "a"}]},
        "volumes.0.mount_path: expected a path outside of /cache",
    ),
    ({"volumes": [{"mount_path": "data", "claim": "a"}]}, "mount_path: expected an absolute path"),
    (
        {"volumes": [{"mount_path": "/data", "claim": "a"}] * 2},
        "volumes: expected different mount_paths",
    ),
    ({"tolerations": [EQUAL]}, "tolerations.0.value: expected one with `operator: Equal`"),
    (
        {"tolerations": [{"operator": "Equal", "value": "a"}]},
        "tolerations.0.key: missing, expected one with `operator: Equal`",
    ),
    ({"tolerations": [{"effect": "NoEntry"}]}, "tolerations.0.effect: expected"),
]


@pytest.mark.parametrize(("changes", "said"), WRONG, ids=[said[:40] for _, said in WRONG])
def test_a_wrong_profile_is_refused_by_key(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(JobError, match=said):
        profile(**changes)


DATA = {"mount_path": "/data", "claim": "town"}
RUNS = {"mount_path": "/runs/", "claim": "runs", "read_only": False}
DATA_KEYS = ["source.uri", "target.uri", "validation.uri"]


def refused(data: str, runs: str, *volumes: Any, **model: str) -> list[str]:
    values = tiny_values(data, runs)
    asked = validate(JobSpec, {**values, "model": {**values["model"], **model}})
    try:
        ROW.request(Submission("tiny-1", asked), profile(volumes=[*volumes]))
    except JobError as error:
        return str(error).splitlines()
    return []


@pytest.mark.parametrize("kind", ["town", "./town", "/home/ann/town", "/tmp/a", "/cache/a"])
def test_data_that_no_pod_has_is_refused_by_key(kind: str) -> None:
    lines = refused(kind, "s3://bucket/runs", RUNS)
    assert [line.partition(":")[0] for line in lines] == DATA_KEYS
    cure = "expected the URI of a store, a path below a mount of `volumes` in the profile"
    assert all(cure in line and repr(kind) in line for line in lines)
    assert refused("/data/town", "/runs/a", DATA, RUNS) == []
    assert refused("file:///opt/segadapt/town", "file:///runs/a", RUNS) == []


def test_weights_that_no_pod_has_are_refused_by_key() -> None:
    for key in ("weights_uri", "start_uri"):
        (line,) = refused("s3://b/town", "s3://b/runs", DATA, **{key: "w.safetensors"})
        assert line.startswith(f"model.{key}: expected the URI of a store")
        for there in ("/opt/segadapt/w.safetensors", "/data/w.safetensors", "https://h/w"):
            assert refused("s3://b/town", "s3://b/runs", DATA, **{key: there}) == []


@pytest.mark.parametrize(
    "runs", ["runs", "/tmp/runs", "/cache/runs", "/data/runs", "/opt/segadapt"]
)
def test_checkpoints_that_would_go_with_the_pod_are_refused(runs: str) -> None:
    (line,) = refused("/data/town", runs, DATA)
    assert line.startswith(
        "checkpoint.uri: expected the URI of a store or a path below a mount of `volumes` that has "
        f"`read_only: false`, got {runs!r}"
    )
    (line,) = refused("/data/town", runs, DATA, RUNS)
    assert "or a path below /runs/, got" in line
    assert refused("/data/town", "/runs", DATA, RUNS) == []


@pytest.mark.parametrize("name", ["a" * 51, "Tiny", "1-tiny", "tiny-"])
def test_a_name_that_a_cluster_would_refuse_is_refused(name: str) -> None:
    with pytest.raises(JobError, match=r"name: expected lower-case letters.*at most 50"):
        ROW.request(Submission(name, job()), profile())
