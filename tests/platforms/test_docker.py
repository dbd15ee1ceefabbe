"""docker: the request, what profiles refuse, and what an engine's own words come to.

`test_docker_client.py` asks a double, `test_docker_engine.py` a real engine; the words and
descriptions here are one's.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from adapt.config.strict_yaml import unpacked
from adapt.config.validation import validate
from adapt.errors import JobError
from adapt.platforms import PLATFORMS, load_profile
from adapt.platforms.docker.checks import findings_of_engine, findings_of_probe
from adapt.platforms.docker.client import DockerClient, connect
from adapt.platforms.docker.errors import refusal_of
from adapt.platforms.docker.job_status import status_of
from adapt.platforms.docker.profile import DockerProfile
from adapt.platforms.platform import Submission
from adapt.spec.loading import parse_spec
from storage.errors import StoreUnavailable
from tests.conftest import tiny_values

GOLDEN = Path(__file__).parent / "golden" / "docker.json"
EXAMPLE = Path(__file__).parents[2] / "job_specs" / "platforms" / "docker.yaml"
DOCKER = PLATFORMS["docker"]
SPEC = "SEGADAPT_SPEC_BASE64="


def submission() -> Submission:
    values = tiny_values("s3://bucket/tiny", "s3://bucket/runs")
    return Submission("tiny-261127-120000", parse_spec(values, "tiny"))


def profile(**changes: Any) -> DockerProfile:
    values = {"platform": "docker", "image": "registry.example:5000/team/segadapt:0.1.0"}
    return validate(DockerProfile, values | changes)


def body_of(**changes: Any) -> dict[str, Any]:
    return DOCKER.request(submission(), profile(**changes))["body"]


def variables_of(body: dict[str, Any]) -> dict[str, str]:
    return dict(pair.split("=", 1) for pair in body["Env"])


def test_the_request_is_the_golden_one() -> None:
    """Regenerate golden/docker.json by hand: what a request is, a person has to have read."""
    full = profile(
        gpus=2,
        gpu_ids=["0", "3"],
        network="host",
        memory_gb=48,
        mounts=[
            {"source": "segadapt-cache", "target": "/cache"},
            {"source": "/data/gta5", "target": "/data/gta5", "read_only": True},
        ],
        environment={"MLFLOW_TRACKING_URI": "http://127.0.0.1:5000"},
        secrets=["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"],
        grace_s=300,
    )
    request = DOCKER.request(submission(), full)
    variables = request["body"]["Env"]
    (packed,) = [one.removeprefix(SPEC) for one in variables if one.startswith(SPEC)]
    assert unpacked(packed, "spec").decode() == submission().job.to_yaml()
    request["body"]["Env"] = [one.replace(packed, "THE SPEC") for one in variables]
    assert request == json.loads(GOLDEN.read_text())


def test_the_shipped_example_is_valid_and_needs_no_more_than_it_says() -> None:
    example = load_profile(EXAMPLE)
    assert isinstance(example, DockerProfile) and DOCKER.grace_s(example) == 120
    assert not DOCKER.restarts(example)
    config = DOCKER.request(submission(), example)["body"]["HostConfig"]
    assert config["ReadonlyRootfs"] and config["CapDrop"] == ["ALL"]


def test_without_gpus_none_is_seen_whatever_the_engines_default_runtime() -> None:
    body = body_of(gpus=0)
    assert "DeviceRequests" not in body["HostConfig"]
    variables = variables_of(body)
    assert variables["NVIDIA_VISIBLE_DEVICES"] == "void" and variables["PET_NPROC_PER_NODE"] == "1"


def test_gpus_are_counted_where_they_are_not_named() -> None:
    body = body_of(gpus=4)
    assert body["HostConfig"]["DeviceRequests"] == [
        {"Driver": "", "Count": 4, "Capabilities": [["gpu"]]}
    ]
    assert variables_of(body)["PET_NPROC_PER_NODE"] == "4"


def test_what_the_profile_leaves_out_is_the_engines_default() -> None:
    config = body_of()["HostConfig"]
    assert not {"NetworkMode", "Memory", "MemorySwap"} & config.keys() and config["Mounts"] == []
    assert config["ShmSize"] == 10**9


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"image": "Team/SegAdapt:1"}, "image: expected [REGISTRY/]NAME:TAG, NAME in lower case"),
        ({"nodes": 2}, "nodes: expected 1, since an engine is one machine, got 2"),
        ({"engine_uri": "machine:2375"}, "engine_uri: expected one of unix:// tcp:// ssh://"),
        ({"network": "my net"}, "network: expected the name of a network, got 'my net'"),
        ({"user": "ma-user"}, "user: expected numbers, USER:GROUP, got 'ma-user'"),
        (
            {"environment": {"A-B": "1"}},
            "environment: expected names of letters, digits and `_`, got 'A-B'",
        ),
        (
            {"secrets": ["KEY=abc"]},
            "secrets.0: expected a variable's name, never the secret itself",
        ),
        (
            {"secrets": ["KEY"], "environment": {"KEY": "x"}},
            "secrets: expected names that are not in environment, got KEY. Fix: keep one",
        ),
        ({"gpus": 2, "gpu_ids": ["1"]}, "gpu_ids: expected 2, the number in gpus, got 1"),
        (
            {"mounts": [{"source": "./data", "target": "/data"}]},
            "mounts.0.source: expected an absolute path or a volume's name, got './data'",
        ),
        (
            {"mounts": [{"source": "/data", "target": "data"}]},
            "mounts.0.target: expected an absolute path that is neither / nor /opt/segadapt",
        ),
        (
            {"mounts": [{"source": name, "target": "/data"} for name in ("a", "b")]},
            "mounts: expected different targets, got ['/data', '/data']",
        ),
        ({"memory_gb": 0.001}, "memory_gb: expected a number >= 0.1 or null, got 0.001"),
        ({"grace_s": 0}, "grace_s: expected a positive integer, got 0"),
        ({"shm": 1}, "shm: unknown key, got 'shm'; did you mean 'shm_gb'?"),
    ],
)
def test_what_an_engine_would_refuse_is_refused_by_its_key(
    changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(JobError) as caught:
        profile(**changes)
    assert str(caught.value).startswith(said)


def test_a_spec_that_no_variable_holds_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Submission, "spec_base64", lambda self: "x" * 131_051)
    with pytest.raises(JobError, match=r"SPEC: expected at most 131050 .*classes take most"):
        body_of()


MOUNTS = [
    {"source": "runs", "target": "/data/runs"},
    {"source": "/data/gta5", "target": "/data/gta5", "read_only": True},
]


def asked(data: str, runs: str, weights: str | None = None, **changes: Any) -> None:
    values = tiny_values(data, runs)
    values["model"]["weights_uri"] = weights
    DOCKER.request(Submission("tiny", parse_spec(values, "tiny")), profile(**changes))


@pytest.mark.parametrize("runs", ["runs", "/tmp/runs", "/cache/runs", "/data/gta5/runs", "/home/x"])
@pytest.mark.parametrize("read_only_root", [True, False])
def test_checkpoints_that_would_be_lost_with_the_container_are_refused(
    runs: str, read_only_root: bool
) -> None:
    with pytest.raises(JobError) as caught:
        asked("/data/gta5", runs, mounts=MOUNTS, read_only_root=read_only_root)
    assert str(caught.value) == (
        "checkpoint.uri: expected the URI of a store, a writable folder of the profile's mounts "
        f"or a path below /data/runs, got {runs!r}, a path that the job's container does "
        "not have or that is lost with it"
    )


def test_paths_that_no_mount_brings_are_refused_by_key_with_the_cure() -> None:
    with pytest.raises(JobError) as caught:
        asked("data/tiny", "s3://b/runs", "/weights/a.safetensors", mounts=MOUNTS)
    lines = str(caught.value).splitlines()
    keys = [line.partition(": ")[0] for line in lines]
    assert keys == ["source.uri", "target.uri", "validation.uri", "model.weights_uri"]
    assert lines[0].startswith(
        "source.uri: expected the URI of a store, a folder of the profile's mounts, a "
        "path below /data/runs, a path below /data/gta5 or a path below /opt/segadapt, got"
    )


def test_paths_below_mounts_and_in_the_image_are_taken() -> None:
    cache = {"source": "segadapt-cache", "target": "/cache"}
    asked("/data/gta5/a", "/cache/runs", "/opt/segadapt/w.safetensors", mounts=[*MOUNTS, cache])
    asked("file:///data/runs/a", "file:///data/runs", mounts=MOUNTS)


@pytest.mark.parametrize(
    ("explanation", "key", "cure"),
    [
        (
            'could not select device driver "" with capabilities: [[gpu]]',
            "gpus",
            "NVIDIA container toolkit",
        ),
        (
            "OCI runtime create failed: nvidia-container-cli: initialization error: nvml error: "
            "driver not loaded",
            "gpus",
            "make nvidia-smi work",
        ),
        ("No such image: segadapt:0.1.0", "image", "docker build -t"),
        (
            'invalid mount config for type "bind": bind source path does not exist: /data',
            "mounts",
            "chown 1000:100",
        ),
        (
            'Conflict. The container name "/tiny" is already in use by container "1f". You have '
            "to remove (or rename) that container to be able to reuse that name.",
            "name",
            "docker rm",
        ),
        ("network stack not found", "network", "docker network create"),
        ("No such container: tiny", "JOB", "jobs --to PROFILE"),
        ("the disk is full", "docker", "change what it names"),
    ],
)
def test_an_engines_words_come_to_a_key_and_a_cure(explanation: str, key: str, cure: str) -> None:
    refusal = refusal_of(explanation)
    assert refusal.key == key and cure in refusal.fix and explanation in refusal.found


def attributes(status: str, memory_gb: int = 2, **state: Any) -> dict[str, Any]:
    return {
        "State": {"Status": status, "ExitCode": 0, "OOMKilled": False, "Error": "", **state},
        "HostConfig": {"Memory": memory_gb * 10**9},
    }


@pytest.mark.parametrize(
    ("described", "state", "code", "detail"),
    [
        (attributes("created"), "waiting", None, "created"),
        (attributes("running"), "running", None, ""),
        (attributes("paused"), "running", None, "paused"),
        (attributes("exited"), "done", 0, ""),
        (attributes("exited", OOMKilled=True), "done", 0, ""),
        (attributes("exited", ExitCode=75), "interrupted", 75, "saved; submit it again to resume"),
        (attributes("exited", ExitCode=75, OOMKilled=True), "interrupted", 75, "saved"),
        (attributes("exited", ExitCode=143), "stopped", 143, "before it began"),
        (
            attributes("exited", ExitCode=137),
            "failed",
            137,
            "killed: out of memory, out of grace, or by hand. Fix: submit it again, which resumes",
        ),
        (
            attributes("exited", 0, ExitCode=137, OOMKilled=True),
            "failed",
            137,
            "the machine itself was out of memory. Fix: set memory_gb of the profile below the",
        ),
        (
            attributes("exited", ExitCode=137, OOMKilled=True),
            "failed",
            137,
            "out of memory (2 GB). Fix: raise memory_gb of the profile, or lower stream.memory_gb",
        ),
        (attributes("exited", ExitCode=3), "failed", 3, "storage; see the end of its log"),
        (attributes("exited", ExitCode=139), "failed", 139, "docs/reliability.md"),
        (attributes("dead", ExitCode=1, Error="disk is full"), "failed", 1, "disk is full"),
    ],
)
def test_a_containers_description_says_how_the_job_is(
    described: dict[str, Any], state: str, code: int | None, detail: str
) -> None:
    status = status_of("tiny", described)
    assert (status.job, status.state, status.exit_code) == ("tiny", state, code)
    assert detail in status.detail


def test_an_unhealthy_job_says_what_its_health_check_said() -> None:
    log = [{"Output": "1 ranks at work\n"}, {"Output": "rank 0 has achieved nothing\n"}]
    health = {"Status": "unhealthy", "Log": log}
    status = status_of("tiny", attributes("running", Health=health))
    assert (status.state, status.detail) == ("running", "unhealthy: rank 0 has achieved nothing")
    well = status_of("tiny", attributes("running", Health={**health, "Status": "healthy"}))
    assert well.detail == ""


INFO = {"ServerVersion": "27.1", "NCPU": 8, "MemTotal": 32 * 10**9, "MemoryLimit": True}


@pytest.mark.parametrize(
    ("changes", "info", "found"),
    [
        ({}, INFO, []),
        ({"memory_gb": 16}, INFO, [(True, "16 GB of the machine's 32")]),
        ({"memory_gb": 64}, INFO, [(False, "64 GB of the machine's 32")]),
        (
            {"memory_gb": 16},
            INFO | {"MemoryLimit": False},
            [(False, "the engine cannot limit memory")],
        ),
    ],
)
def test_check_compares_memory_with_the_engines(
    changes: dict[str, Any], info: dict[str, Any], found: list[tuple[bool, str]]
) -> None:
    request = DOCKER.request(submission(), profile(**changes))
    engine, *memory = findings_of_engine(info, request)
    assert engine.ok and engine.found == "27.1, 8 CPUs, 32 GB"
    assert [(finding.ok, finding.found) for finding in memory] == found
    assert all(finding.ok or finding.fix for finding in memory)


@pytest.mark.parametrize(
    ("version", "named"),
    [("23.0.0", True), ("23.0.6", True), ("24.0.2+dfsg1", True)]
    + [(version, False) for version in ("20.10.24", "23.0.7", "24.0.3", "24.0.20", "27.1.0")],
)
def test_check_names_an_engine_that_kills_when_a_stop_is_not_waited_for(
    version: str, named: bool
) -> None:
    request = DOCKER.request(submission(), profile())
    (engine,) = findings_of_engine(INFO | {"ServerVersion": version}, request)
    assert engine.ok and engine.found.startswith(f"{version}, 8 CPUs")
    said = "this version kills a job unsaved when a stop is not waited for: wait until `stop` ends"
    assert (said in engine.found) == named


def test_check_tells_what_a_container_like_the_jobs_sees() -> None:
    mounts = [
        {"source": "/runs", "target": "/runs"},
        {"source": "cache", "target": "/cache"},
        {"source": "/data", "target": "/data", "read_only": True},
    ]
    body = body_of(gpus=4, mounts=mounts)
    writable = {"/runs": False, "/cache": True, "/data": False}
    seen = {"writable": writable, "shm_bytes": 64 * 10**6, "gpus": 2}
    runs, cache, data, shm, gpus = findings_of_probe(seen, body)
    assert not runs.ok and runs.found == "user 1000:100 cannot write to /runs"
    assert runs.fix.startswith("run sudo chown 1000:100 /runs")
    assert cache.ok and data.ok and data.found == "/data, read only"
    assert not shm.ok and (shm.found, shm.fix) == (
        "0.064 GB",
        "set shm_gb: 1 in the profile, which several GPUs need",
    )
    assert not gpus.ok and gpus.found == "2 of 4" and "lower gpus" in gpus.fix


def test_one_rank_needs_no_more_shm_and_a_named_gpu_counts() -> None:
    seen = {"writable": {}, "shm_bytes": 64 * 10**6, "gpus": 1}
    assert all(finding.ok for finding in findings_of_probe(seen, body_of(gpu_ids=["3"])))


def test_a_secret_that_is_not_set_is_missed_before_anything_is_sent() -> None:
    client = DockerClient(None, "nowhere", {"GIVEN": "x", "EMPTY": ""})
    request = {"name": "tiny", "secrets": ["GIVEN", "EMPTY"], "body": {"Env": []}}
    with pytest.raises(JobError, match="secrets: expected the variable EMPTY in this environment"):
        client.submit(request)


def test_an_engine_that_is_not_there(tmp_path: Path) -> None:
    uri = f"unix://{tmp_path}/docker.sock"
    with pytest.raises(StoreUnavailable, match=r"is unreachable \[.*\. Fix: start it .*engine_uri"):
        connect(uri, {})
    with pytest.raises(StoreUnavailable, match=rf"^{uri}: "):
        DOCKER.connect(profile(), {"DOCKER_HOST": uri})


def test_an_engine_that_this_user_may_not_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import docker

    def refused(*arguments: object, **more: object) -> None:
        raise docker.errors.DockerException(
            "Error while fetching server API version: ('Connection aborted.', "
            "PermissionError(13, 'Permission denied'))"
        )

    monkeypatch.setattr(docker, "from_env", refused)
    with pytest.raises(
        JobError, match=r"this user may not use the engine \[.*\. Fix: run sudo usermod -aG docker"
    ):
        connect("unix:///var/run/docker.sock", {})
