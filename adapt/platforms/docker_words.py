"""What a Docker engine says, in words that a person can act on: its refusals, and its descriptions
of containers."""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from adapt.errors import Interrupted, JobError
from adapt.platforms.platform import JobStatus
from storage.store import StoreUnavailable

MEMORY_CURE = (
    "raise memory_gb of the profile, or lower stream.memory_gb, stream.decoded_mb, stream.threads, "
    "or batch_size of source and target"
)
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
        limit_gb = attributes["HostConfig"]["Memory"] / 10**9
        return JobStatus(job, "failed", f"out of memory ({limit_gb:g} GB); {MEMORY_CURE}", code)
    if code == _SIGTERM:
        return JobStatus(job, "stopped", "stopped before it had begun", code)
    return JobStatus(job, "failed", _failed_detail(code, str(state.get("Error") or "")), code)


def _running_detail(state: Mapping[str, Any]) -> str:
    health = state.get("Health") or {}
    if health.get("Status") != "unhealthy":
        return "" if state["Status"] == "running" else str(state["Status"])
    last = (health.get("Log") or [{}])[-1].get("Output", "")
    return f"unhealthy: {last.strip()}"


def _failed_detail(code: int, error: str) -> str:
    if error:
        return error
    if code == _SIGKILL:
        return (
            "killed: by hand, after the grace, or by a machine without memory; submitted again, "
            "it goes on from its last checkpoint"
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
        if "Permission denied" in str(error):
            raise JobError(
                f"{where}: this user may not use the engine; sudo usermod -aG docker "
                f"{os.environ.get('USER', 'USER')}, then log in anew"
            ) from error
        raise StoreUnavailable(
            f"{where}: the Docker engine does not answer; start it (sudo systemctl start docker), "
            f"or name another with engine_uri of the profile [{error}]"
        ) from error
