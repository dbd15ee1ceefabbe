"""A connection to a Docker engine: sends a request, reports the state of containers.

Only containers with SegAdapt's label are read or changed.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from adapt.errors import JobError
from adapt.platforms import following
from adapt.platforms.docker.checks import PROBE, findings_of_engine, findings_of_probe
from adapt.platforms.docker.errors import (
    EngineRefused,
    Refusal,
    answers_of,
    refusal_of,
)
from adapt.platforms.docker.job_status import status_of
from adapt.platforms.docker.logs import ContainerLog
from adapt.platforms.docker.stop import stop
from adapt.platforms.platform import ENDED, SUBMIT_LIBRARIES, Finding, JobStatus, Request

JOB_LABEL = "segadapt.job"
TIMEOUT_S = 60.0
POLL_S = 1.0
"""Before a log that broke off is opened again."""


def connect(engine_uri: str | None, environment: Mapping[str, str]) -> "DockerClient":
    """A client of the engine at `engine_uri`, or of the one that the docker command would use;
    ssh:// with the ssh command, tcp:// with TLS where DOCKER_TLS_VERIFY or DOCKER_CERT_PATH is set.

    Raises `JobError`, `StoreUnavailable` where it is unreachable.
    """
    try:
        import docker
    except ImportError as error:
        raise JobError(
            "platform docker: expected the library docker, got none installed", fix=SUBMIT_LIBRARIES
        ) from error
    where = engine_uri or environment.get("DOCKER_HOST") or "the docker command's engine"
    with answers_of(where):
        named = {} if engine_uri is None else {"DOCKER_HOST": engine_uri}
        engine = docker.from_env(
            environment={**environment, **named}, timeout=TIMEOUT_S, use_ssh_client=True
        )
        engine.ping()
    return DockerClient(engine, where, environment)


class DockerClient:
    """`adapt.platforms.platform.Client` of one engine."""

    def __init__(self, engine: Any, where: str, environment: Mapping[str, str]) -> None:
        self._engine, self._where, self._environment = engine, where, environment

    def submit(self, request: Request) -> str:
        """Create and start the container; its name."""
        secrets = [f"{name}={self._secret(name)}" for name in request["secrets"]]
        body = {**request["body"], "Env": [*request["body"]["Env"], *secrets]}
        with answers_of(self._where):
            self._start(body, request["name"])
        return str(request["name"])

    def status(self, job: str) -> JobStatus:
        """The status of a job."""
        return status_of(job, self._container(job).attrs)

    def logs(self, job: str, follow: bool) -> Iterator[str]:
        """The lines of a job's log, stdout and stderr as they came."""
        log = ContainerLog(self._container(job), self._where)
        if not follow:
            return log.new_lines(is_last=True)
        return following.follow(
            log.new_lines, lambda: self.status(job).state in ENDED, POLL_S, settle_polls=1
        )

    def stop(self, job: str) -> None:
        """Have the engine send SIGTERM, and SIGKILL after the grace; see `docker.stop`."""
        stop(self._engine, self._where, self._container(job))

    def jobs(self) -> Iterable[JobStatus]:
        """Every container with SegAdapt's label, the newest first."""
        with answers_of(self._where):
            found = self._engine.containers.list(
                all=True, filters={"label": JOB_LABEL}, ignore_removed=True
            )
        found.sort(key=lambda container: container.attrs["Created"], reverse=True)
        return [status_of(container.name, container.attrs) for container in found]

    def check(self, request: Request) -> Iterator[Finding]:
        """The engine, the secrets, the image; then, in a short container that is like the job's,
        its mounts, /dev/shm and GPUs."""
        with answers_of(self._where):
            info = self._engine.info()
        yield from findings_of_engine(info, request)
        for name in request["secrets"]:
            found = "set" if self._environment.get(name) else "not set"
            yield Finding(f"secret {name}", found == "set", found, f"export {name}=...")
        image = self._image(request["body"]["Image"])
        yield image
        if image.ok:
            yield from self._probe(request)

    def _secret(self, name: str) -> str:
        value = self._environment.get(name)
        if not value:
            raise JobError(
                f"secrets: expected the variable {name} in this environment, got nothing",
                fix=f"export {name}=..., or remove it from the profile",
            )
        return value

    def _start(self, body: Mapping[str, Any], name: str) -> Any:
        """Create and start a container; it is removed where it cannot start."""
        made = self._engine.api.create_container_from_config(dict(body), name)
        container = self._engine.containers.get(made["Id"])
        try:
            container.start()
        except BaseException:
            container.remove(force=True)
            raise
        return container

    def _container(self, job: str) -> Any:
        with answers_of(self._where):
            container = self._engine.containers.get(job)
        if JOB_LABEL not in container.labels:
            raise JobError(
                f"JOB: expected a job of SegAdapt, got another container, {job!r}",
                fix="take a name from `jobs --to PROFILE`",
            )
        return container

    def _image(self, name: str) -> Finding:
        from docker.errors import ImageNotFound

        with answers_of(self._where):
            try:
                image = self._engine.images.get(name)
            except ImageNotFound as error:
                refusal = refusal_of(str(error.explanation))
                return Finding(f"image {name}", False, refusal.found, refusal.fix)
        revision = image.labels.get("org.opencontainers.image.revision", "unknown")
        return Finding(f"image {name}", True, f"revision {revision}")

    def _probe(self, request: Request) -> Iterator[Finding]:
        body = request["body"]
        targets = [mount["Target"] for mount in body["HostConfig"]["Mounts"]]
        changes = {
            "Entrypoint": ["python", "-c", PROBE],
            "Cmd": targets,
            "Labels": {},
            "Env": [],
            "Healthcheck": {"Test": ["NONE"]},
        }
        try:
            with answers_of(self._where):
                output = self._output_of({**body, **changes}, f"{request['name']}-check")
        except EngineRefused as error:
            yield Finding(error.refusal.key, False, error.refusal.found, error.refusal.fix)
        else:
            yield from findings_of_probe(json.loads(output), body)

    def _output_of(self, body: Mapping[str, Any], name: str) -> str:
        """The output of a short container."""
        container = self._start(body, name)
        try:
            code = container.wait(timeout=TIMEOUT_S)["StatusCode"]
            output = container.logs(stdout=True, stderr=code != 0).decode()
        finally:
            container.remove(force=True)
        if code == 0:
            return str(output)
        end = output.strip().rpartition("\n")[2]
        fix = "build one with `docker build -t IMAGE .` in SegAdapt's folder"
        raise EngineRefused(Refusal("image", f"the check inside it ended with {code}: {end}", fix))
