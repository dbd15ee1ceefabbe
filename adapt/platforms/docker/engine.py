"""A Docker engine: the connection, and what jobs and endpoints both ask of it."""

from collections.abc import Mapping
from typing import Any

from adapt.errors import JobError
from adapt.platforms.docker.errors import answers_of
from adapt.platforms.platform import SUBMIT_LIBRARIES, Request

TIMEOUT_S = 60.0


def open_engine(engine_uri: str | None, environment: Mapping[str, str]) -> tuple[Any, str]:
    """The engine at `engine_uri`, or the one that the docker command would use, and its name in
    messages; ssh:// with the ssh command, tcp:// with TLS where DOCKER_TLS_VERIFY or
    DOCKER_CERT_PATH is set.

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
    return engine, where


def with_secrets(request: Request, environment: Mapping[str, str]) -> dict[str, Any]:
    """The body of a request with the values of its secrets. Raises `JobError` for one that is not
    set."""
    secrets = [f"{name}={_secret(name, environment)}" for name in request["secrets"]]
    return {**request["body"], "Env": [*request["body"]["Env"], *secrets]}


def _secret(name: str, environment: Mapping[str, str]) -> str:
    value = environment.get(name)
    if not value:
        raise JobError(
            f"secrets: expected the variable {name} in this environment, got nothing",
            fix=f"export {name}=..., or remove it from the profile",
        )
    return value


def start_container(engine: Any, body: Mapping[str, Any], name: str) -> Any:
    """Create and start a container; it is removed where it cannot start."""
    made = engine.api.create_container_from_config(dict(body), name)
    container = engine.containers.get(made["Id"])
    try:
        container.start()
    except BaseException:
        container.remove(force=True)
        raise
    return container
