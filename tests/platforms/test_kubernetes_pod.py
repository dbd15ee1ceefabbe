"""The tiny job, run as the pod of our manifests: their variables, arguments and mounted files, and
what each controller and the kubelet add."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from adapt.config.validation import validate
from adapt.places import find_place
from adapt.platforms import PLATFORMS
from adapt.platforms.kubernetes.profile import KubernetesProfile
from adapt.platforms.local_stack import free_ports
from adapt.platforms.platform import Submission
from adapt.spec.job_spec import JobSpec
from adapt.spec.loading import load_spec
from tests.commands import ROOT, Ended, finish
from tests.conftest import tiny_values
from tests.platforms.kubernetes_schemas import pod_templates
from tests.processes import Process

KUBELET = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "443"}
"""What every pod is told."""


def request(job: dict[str, Any], **changes: Any) -> Any:
    values = {"platform": "kubernetes", "image": "registry/segadapt:1", "gpus": 0}
    profile = validate(KubernetesProfile, values | changes)
    elsewhere = validate(JobSpec, job | tiny_values("s3://bucket/tiny", "s3://bucket/runs"))
    asked = PLATFORMS["kubernetes"].request(Submission("tiny-261127", elsewhere), profile)
    asked["items"][0]["data"]["job.yaml"] = validate(JobSpec, job).to_yaml()
    return asked


def mounted(asked: Any, root: Path) -> dict[str, str]:
    """Make a pod's mounts below `root`; the container's variables, with paths that lie there."""
    pod = next(pod_templates(asked["items"][-1]))["spec"]
    (container,) = pod["containers"]
    variables = {one["name"]: one["value"].replace("$$", "$") for one in container["env"]}
    for mount in container["volumeMounts"]:
        path = root / mount["mountPath"].lstrip("/")
        path.mkdir(parents=True)
        (volume,) = (one for one in pod["volumes"] if one["name"] == mount["name"])
        if "configMap" in volume:
            (config,) = (one for one in asked["items"] if one["kind"] == "ConfigMap")
            assert config["metadata"]["name"] == volume["configMap"]["name"]
            for name, text in config["data"].items():
                (path / name).write_text(text)
            inside = f"{mount['mountPath']}/"
            for name, text in variables.items():
                if text.startswith(inside):
                    variables[name] = str(path / text.removeprefix(inside))
    (root / "dev/termination-log").touch()
    return variables


def start_pod(asked: Any, root: Path, **told: str) -> "subprocess.Popen[str]":
    """Start the container of a request's pod, with its mounts below `root`."""
    variables = mounted(asked, root)
    (container,) = next(pod_templates(asked["items"][-1]))["spec"]["containers"]
    ours = {"SEGADAPT_ROOT": str(root), "PATH": "/usr/bin:/bin", "HOME": str(root / "tmp")}
    ours |= {"TMPDIR": str(root / "tmp"), "OMP_NUM_THREADS": "1"}
    return Process(
        [sys.executable, str(ROOT / "entrypoint.py"), *container["args"]],
        cwd=root / "tmp",
        env=variables | KUBELET | ours | told,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_pod(asked: Any, root: Path, **told: str) -> Ended:
    return finish(start_pod(asked, root, **told), timeout_s=400)


@pytest.mark.slow
def test_the_tiny_job_runs_to_the_end_as_the_pod_of_an_indexed_job(
    tiny_job: dict[str, Any], tmp_path: Path
) -> None:
    ended = run_pod(request(tiny_job), tmp_path / "pod", JOB_COMPLETION_INDEX="0")
    assert ended.code == 0, ended.err
    assert (tmp_path / "runs" / "tiny").is_dir()
    assert (tmp_path / "pod/cache/segadapt").is_dir()  # the scratch volume was used
    assert (tmp_path / "pod/dev/termination-log").read_text() == ""


@pytest.mark.slow
def test_a_pod_that_fails_leaves_its_message_where_kubernetes_looks(
    tiny_job: dict[str, Any], tmp_path: Path
) -> None:
    """Here, that the Secret lacks a key which the job spec's store names."""
    tiny_job["stores"] = {"s3": {"access_key_env": "LAB_KEY", "secret_key_env": "LAB_SECRET"}}
    tiny_job["target"] = tiny_job["target"] | {"uri": "s3://bucket/tiny"}
    ended = run_pod(request(tiny_job), tmp_path / "pod", JOB_COMPLETION_INDEX="0", LAB_KEY="key")
    assert ended.code == 2, ended.err
    message = (tmp_path / "pod/dev/termination-log").read_text()
    assert message.startswith("JobError: stores.s3.secret_key_env: expected the secret in env")


@pytest.mark.slow
def test_two_nodes_of_an_indexed_job_train_together(
    tiny_job: dict[str, Any], tmp_path: Path
) -> None:
    asked = request(tiny_job, nodes=2)
    port = str(free_ports(1)[0])
    meet = {"PET_MASTER_ADDR": "127.0.0.1", "PET_MASTER_PORT": port}
    nodes = [
        start_pod(asked, tmp_path / f"pod-{node}", JOB_COMPLETION_INDEX=str(node), **meet)
        for node in (0, 1)
    ]
    for ended in [finish(node, timeout_s=400) for node in nodes]:
        assert ended.code == 0, ended.err
    assert (tmp_path / "runs" / "tiny").is_dir()


ADDED = {
    "trainjob": {
        "PET_NNODES": "1",
        "PET_NPROC_PER_NODE": "1",
        "PET_NODE_RANK": "0",
        "PET_MASTER_ADDR": "tiny-261127-node-0-0.tiny-261127",
        "PET_MASTER_PORT": "29500",
        "JOB_COMPLETION_INDEX": "0",
    },
    "pytorchjob": {
        "PYTHONUNBUFFERED": "1",
        "MASTER_ADDR": "tiny-261127-master-0",
        "MASTER_PORT": "23456",
        "PET_MASTER_ADDR": "tiny-261127-master-0",
        "PET_MASTER_PORT": "23456",
        "WORLD_SIZE": "1",
        "RANK": "0",
        "PET_NODE_RANK": "0",
        "PET_NPROC_PER_NODE": "1",
        "PET_NNODES": "1",
    },
    "volcano": {
        "VC_TASK_INDEX": "0",
        "VK_TASK_INDEX": "0",
        "VC_WORKER_NUM": "1",
        "VC_WORKER_HOSTS": "tiny-261127-worker-0.tiny-261127",
    },
}
"""What the controllers tell a pod of one node."""


@pytest.mark.parametrize("kind", ADDED)
def test_pods_of_other_kinds_know_where_they_are(
    kind: str, tiny_job: dict[str, Any], tmp_path: Path
) -> None:
    variables = mounted(request(tiny_job, kind=kind), tmp_path)
    place = find_place(variables | KUBELET | ADDED[kind], tmp_path)
    assert (place.platform, place.num_nodes, place.node) == (kind, 1, 0)
    assert (place.job, place.grace_s) == ("tiny-261127", 120)
    assert place.processes in (1, None)  # Volcano says nothing, so GPUs are counted
    assert place.scratch_dir == tmp_path / "cache/segadapt"
    assert place.failure_file == tmp_path / "dev/termination-log"
    assert place.spec is not None and load_spec(Path(place.spec), ()).name == "tiny"
