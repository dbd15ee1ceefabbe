"""What a Docker engine says, in words that a person can act on: its refusals, and its descriptions
of containers."""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from adapt.errors import Interrupted, JobError
from adapt.platforms.platform import JobStatus
from storage.errors import StoreUnavailable

MEMORY_CURE = (
    "raise memory_gb of the profile, or lower stream.memory_gb, stream.decoded_mb, stream.threads, "
    "or batch_size of source and target"
)
MACHINE_CURE = (
    "set memory_gb of the profile below the machine's memory, take a machine with more, or lower "
    "stream.memory_gb, stream.decoded_mb, stream.threads, or batch_size of source and target"
)
INSTALL = "pip install -r requirements-submit.txt"
_SIGTERM, _SIGKILL = 128 + 15, 128 + 9
_MEANINGS = {1: "a bug", 2: "job spec", 3: "storage", 4: "data"}


class Refusal(NamedTuple):
    """Why an engine refused: the key of the profile, what was found, and the cure."""

    key: str
    found: str
    cure: str


_REFUSALS = (
    (
        "could not select device driver",
        "gpus",
        "the engine has no GPU runtime",
        "install the NVIDIA container toolkit there, `nvidia-ctk runtime configure "
        "--runtime=docker`, restart the engine; or train on the CPU with gpus: 0",
    ),
    (
        "nvidia-container-cli",
        "gpus",
        "the engine's GPU runtime does not reach the GPUs",
        "nvidia-smi has to work on the engine's machine, and gpu_ids have to be there",
    ),
    (
        "no such image",
        "image",
        "the engine has no such image",
        "docker build -t IMAGE . in SegAdapt's folder, or docker pull IMAGE",
    ),
    (
        "bind source path does not exist",
        "mounts",
        "a folder is not there on the engine's machine",
        "make it, and give it to the job's user: chown 1000:100 FOLDER",
    ),
    (
        "already in use by container",
        "name",
        "there is a container of this name",
        "submit again, which takes another name, or remove it: docker rm NAME",
    ),
    (
        r"network \S+ not found",
        "network",
        "the engine has no such network",
        "docker network create NAME",
    ),
    (
        "no such container",
        "JOB",
        "the engine has no such job",
        "`jobs --to PROFILE` lists them; removed containers are gone",
    ),
)


_TLS_CURE = "export DOCKER_TLS_VERIFY=1 DOCKER_CERT_PATH=FOLDER, with ca.pem, cert.pem, key.pem"
_CONNECTIONS = (
    (
        "Permission denied",
        "this user may not use the engine; sudo usermod -aG docker $USER, then log in anew",
    ),
    ("Install paramiko", f"ssh:// needs paramiko: {INSTALL}"),
    (
        "^ssh://.*FileNotFoundError",
        "ssh:// needs the command ssh: sudo apt-get install openssh-client",
    ),
    ("HTTP request to an HTTPS server", f"this engine wants TLS; {_TLS_CURE}"),
    ("TLS configurations should map", f"certificates are missing; {_TLS_CURE}"),
    (
        "CERTIFICATE_VERIFY_FAILED|SSLV3_ALERT|TLSV1[0-9_]*_ALERT",
        f"the engine and this client do not trust each other's certificates; {_TLS_CURE}; and "
        "unset REQUESTS_CA_BUNDLE CURL_CA_BUNDLE, which come before ca.pem",
    ),
    (
        "WRONG_VERSION_NUMBER|record layer failure",
        "this engine speaks no TLS: unset DOCKER_TLS_VERIFY DOCKER_CERT_PATH, or use ssh://",
    ),
)
"""What a connection's troubles say, and what they mean."""


def refusal_of(explanation: str) -> Refusal:
    """What an engine's own words come to."""
    for pattern, key, found, cure in _REFUSALS:
        if re.search(pattern, explanation, re.IGNORECASE):
            return Refusal(key, f"{found} [{explanation}]", cure)
    return Refusal("docker", f"the engine refused: {explanation}", "change what it names")


def status_of(job: str, attributes: Mapping[str, Any]) -> JobStatus:
    """What a container's description, as `docker inspect` shows it, says of the job."""
    state = attributes["State"]
    if state["Status"] == "created":
        return JobStatus(job, "waiting", "created, not started")
    if state["Status"] in ("running", "paused", "restarting"):
        return JobStatus(job, "running", _running_detail(state))
    code = int(state["ExitCode"])
    if code == 0:
        return JobStatus(job, "done", "", 0)
    if code == Interrupted.exit_code:
        return JobStatus(job, "interrupted", "saved; submitted again, it goes on", code)
    if state["OOMKilled"]:
        return JobStatus(job, "failed", _memory_detail(attributes["HostConfig"]["Memory"]), code)
    if code == _SIGTERM:
        return JobStatus(job, "stopped", "stopped before it had begun", code)
    return JobStatus(job, "failed", _failed_detail(code, str(state.get("Error") or "")), code)


def _running_detail(state: Mapping[str, Any]) -> str:
    health = state.get("Health") or {}
    if health.get("Status") != "unhealthy":
        return "" if state["Status"] == "running" else str(state["Status"])
    last = (health.get("Log") or [{}])[-1].get("Output", "")
    return f"unhealthy: {last.strip()}"


def _memory_detail(limit_bytes: int) -> str:
    if not limit_bytes:
        return f"the machine itself was out of memory; {MACHINE_CURE}"
    return f"out of memory ({limit_bytes / 10**9:g} GB); {MEMORY_CURE}"


def _failed_detail(code: int, error: str) -> str:
    if error:
        return error
    if code == _SIGKILL:
        return (
            "killed: out of memory or out of grace, or by hand; submitted again, it goes on from "
            "its last checkpoint (cures: memory_gb, grace_s of the profile)"
        )
    return f"{_MEANINGS.get(code, 'see docs/reliability.md')}; the end of its log says more"


class Refused(JobError):
    """An engine's refusal."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(f"{refusal.key}: {refusal.found}; {refusal.cure}")
        self.refusal = refusal


@contextmanager
def answers_of(where: str) -> Iterator[None]:
    """Turns what docker-py raises into what a person can act on."""
    import requests
    import urllib3.exceptions
    from docker.errors import APIError, DockerException

    try:
        yield
    except APIError as error:
        raise Refused(refusal_of(str(error.explanation or error))) from error
    except (DockerException, requests.RequestException, urllib3.exceptions.HTTPError) as error:
        raise _trouble(where, str(error)) from error


def _trouble(where: str, said: str) -> JobError | StoreUnavailable:
    """What keeps a connection from being made, or broke it."""
    for pattern, meaning in _CONNECTIONS:
        if re.search(pattern, f"{where}: {said}"):
            user = os.environ.get("USER", "USER")
            return JobError(f"{where}: {meaning.replace('$USER', user)} [{said}]")
    cure = "start it (sudo systemctl start docker)"
    if where.startswith("ssh://"):
        machine = where.removeprefix("ssh://")
        cure = f"`ssh {machine} docker info` has to work without a question"
    return StoreUnavailable(
        f"{where}: the Docker engine does not answer; {cure}, or name another with engine_uri of "
        f"the profile [{said}]"
    )
