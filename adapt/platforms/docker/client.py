"""A connection to a Docker engine: sends a request, reports the state of containers.

Only containers with SegAdapt's label are read or changed.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from adapt.errors import JobError
from adapt.platforms import following
from adapt.platforms.docker.checks import PROBE, findings_of_engine, findings_of_probe
from adapt.platforms.docker.engine import TIMEOUT_S, open_engine, start_container, with_secrets
from adapt.platforms.docker.errors import (
    EngineRefused,
    Refusal,
    answers_of,
    refusal_of,
)
from adapt.platforms.docker.job_status import status_of
from adapt.platforms.docker.logs import ContainerLog
from adapt.platforms.docker.stop import stop
from adapt.platforms.platform import ENDED, Finding, JobStatus, Request

JOB_LABEL = "segadapt.job"
POLL_S = 1.0
"""Before a log that broke off is opened again."""


def connect(engine_uri: str | None, environment: Mapping[str, str]) -> "DockerClient":
    """A client for the jobs of an engine; see `open_engine`."""
    return DockerClient(*open_engine(engine_uri, environment), environment)


class DockerClient:
    """`adapt.platforms.platform.Client` of one engine."""

    def __init__(self, engine: Any, where: str, environment: Mapping[str, str]) -> None:
        self._engine, self._where, self._environment = engine, where, environment

    def submit(self, request: Request) -> str:
        """Create and start the container; its name."""
        body = with_secrets(request, self._environment)
        with answers_of(self._where):
            start_container(self._engine, body, request["name"])
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
        container = start_container(self._engine, body, name)
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
