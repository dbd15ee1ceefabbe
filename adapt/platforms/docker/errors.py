"""Refusals of a Docker engine, and causes of its being unreachable, as errors with their fix."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from adapt.errors import JobError
from adapt.platforms.platform import SUBMIT_LIBRARIES
from storage.errors import StoreUnavailable


class Refusal(NamedTuple):
    """Why an engine refused: the key of the profile, what was found, and the fix."""

    key: str
    found: str
    fix: str


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
        "make nvidia-smi work on the engine's machine, and name gpu_ids that it lists",
    ),
    (
        "no such image",
        "image",
        "the engine has no such image",
        "run docker build -t IMAGE . in SegAdapt's folder, or docker pull IMAGE",
    ),
    (
        "bind source path does not exist",
        "mounts",
        "a folder is missing on the engine's machine",
        "make it, and give it to the job's user: chown 1000:100 FOLDER",
    ),
    (
        "already in use by container",
        "name",
        "there is a container of this name",
        "submit again, which takes another name, or remove it: docker rm NAME",
    ),
    (
        "port is already allocated|address already in use",
        "serve.port",
        "the port is in use on the engine's machine",
        "name another one, --set serve.port=8081, or end what listens there",
    ),
    (
        r"network \S+ not found",
        "network",
        "the engine has no such network",
        "run docker network create NAME",
    ),
    (
        "no such container",
        "JOB",
        "the engine has no such job",
        "take a name from `jobs --to PROFILE`; removed containers are gone",
    ),
)


_TLS_FIX = "export DOCKER_TLS_VERIFY=1 DOCKER_CERT_PATH=FOLDER, with ca.pem, cert.pem, key.pem"
_CONNECTIONS = (
    (
        "Permission denied",
        "this user may not use the engine",
        "run sudo usermod -aG docker $USER, then log in again",
    ),
    ("Install paramiko", "ssh:// needs paramiko", SUBMIT_LIBRARIES),
    (
        "^ssh://.*FileNotFoundError",
        "ssh:// needs the command ssh",
        "sudo apt-get install openssh-client",
    ),
    ("HTTP request to an HTTPS server", "this engine requires TLS", _TLS_FIX),
    ("TLS configurations should map", "certificates are missing", _TLS_FIX),
    (
        "CERTIFICATE_VERIFY_FAILED|SSLV3_ALERT|TLSV1[0-9_]*_ALERT",
        "the engine and this client do not trust each other's certificates",
        f"{_TLS_FIX}; and unset REQUESTS_CA_BUNDLE CURL_CA_BUNDLE, which come before ca.pem",
    ),
    (
        "WRONG_VERSION_NUMBER|record layer failure",
        "this engine speaks no TLS",
        "unset DOCKER_TLS_VERIFY DOCKER_CERT_PATH, or use ssh://",
    ),
)
"""Error messages of connections, their meaning, and the fix."""


def refusal_of(explanation: str) -> Refusal:
    """The meaning of an engine's error message."""
    for pattern, key, found, fix in _REFUSALS:
        if re.search(pattern, explanation, re.IGNORECASE):
            return Refusal(key, f"{found} [{explanation}]", fix)
    return Refusal("docker", f"the engine refused: {explanation}", "change what it names")


class EngineRefused(JobError):
    """An engine's refusal."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(f"{refusal.key}: {refusal.found}", fix=refusal.fix)
        self.refusal = refusal

    def __reduce__(self) -> tuple[type["EngineRefused"], tuple[Refusal]]:
        return EngineRefused, (self.refusal,)


@contextmanager
def answers_of(where: str) -> Iterator[None]:
    """Turns errors of docker-py into `JobError` and `StoreUnavailable`."""
    import requests
    import urllib3.exceptions
    from docker.errors import APIError, DockerException

    try:
        yield
    except APIError as error:
        raise EngineRefused(refusal_of(str(error.explanation or error))) from error
    except (DockerException, requests.RequestException, urllib3.exceptions.HTTPError) as error:
        raise _trouble(where, str(error)) from error


def _trouble(where: str, message: str) -> JobError | StoreUnavailable:
    """The error of a connection that could not be made, or broke off."""
    for pattern, problem, fix in _CONNECTIONS:
        if re.search(pattern, f"{where}: {message}"):
            user = os.environ.get("USER", "USER")
            return JobError(f"{where}: {problem} [{message}]", fix=fix.replace("$USER", user))
    fix = "start it (sudo systemctl start docker)"
    if where.startswith("ssh://"):
        machine = where.removeprefix("ssh://")
        fix = f"make `ssh {machine} docker info` work without a question"
    return StoreUnavailable(
        f"{where}: the Docker engine is unreachable [{message}]",
        fix=f"{fix}, or name another with engine_uri of the profile",
    )
