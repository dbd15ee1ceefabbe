"""The request for the container of an endpoint: pure, from a deployment and a profile; secrets by
name."""

from ipaddress import ip_address
from typing import Any

from adapt.platforms.docker.profile import DockerProfile
from adapt.platforms.docker.request import host_config
from adapt.platforms.endpoint import MODEL_FOLDER, PORT, READY, TOKEN, Deployment
from adapt.platforms.platform import Request

ENDPOINT_LABEL = "segadapt.endpoint"
MODEL_LABEL, URL_LABEL = "segadapt.model", "segadapt.url"
_EVERY = ("0.0.0.0", "::")
_SECOND = 10**9


def endpoint_request(deployment: Deployment, profile: DockerProfile) -> Request:
    """`name` and `body` of the container that serves the model, and `secrets`, the names of
    variables to add to the body."""
    mounts, model = _model(deployment, profile)
    host, port = profile.serve.host, profile.serve.port
    variables = deployment.environment(profile, model, profile.grace_s)
    variables |= deployment.store_settings()
    named = [] if deployment.is_path else [*profile.secrets]
    return {
        "name": deployment.name,
        "secrets": [*named, *([TOKEN] if profile.serve.token and TOKEN not in named else [])],
        "body": {
            "Image": profile.image,
            "Cmd": ["serve", *_listens(profile), *profile.serve.arguments],
            "Env": [f"{name}={value}" for name, value in variables.items()],
            "Labels": {
                ENDPOINT_LABEL: deployment.name,
                MODEL_LABEL: deployment.model,
                URL_LABEL: f"http://{_address(host, port)}",
            },
            "User": profile.user,
            "StopSignal": "SIGTERM",
            "StopTimeout": profile.grace_s,
            "Healthcheck": _health_check(_inside(profile)),
            **({} if profile.network == "host" else {"ExposedPorts": {f"{PORT}/tcp": {}}}),
            "HostConfig": _host_config(profile, mounts),
        },
    }


def reach(_deployment: Deployment, profile: DockerProfile) -> str:
    """The networks that reach the port."""
    host, port = profile.serve.host, profile.serve.port
    if ip_address(host).is_loopback:
        return f"the engine's own machine alone ({_address(host, port)})"
    whole = "every network of the engine's machine" if host in _EVERY else "its network"
    return f"{whole} ({_address(host, port)}), by HTTP without TLS"


def access(profile: DockerProfile) -> str:
    """The token that a request has to state, if any."""
    return f"the token in {TOKEN}" if profile.serve.token else "open: no token is asked for"


def _model(deployment: Deployment, profile: DockerProfile) -> tuple[list[dict[str, Any]], str]:
    """The mount of a path of this machine, and where the server finds the model."""
    path = deployment.model
    if not deployment.is_path or profile.outside(path) is not None:
        return [], path
    file = path.rpartition("/")[2]
    target = f"{MODEL_FOLDER}/{file}" if deployment.is_file else MODEL_FOLDER
    mount = {"Type": "bind", "Source": path, "Target": target, "ReadOnly": True}
    return [mount], target


def _listens(profile: DockerProfile) -> list[str]:
    """In the machine's own network the server itself listens where the profile says."""
    if profile.network != "host":
        return ["--port", str(PORT)]
    return ["--host", profile.serve.host, "--port", str(profile.serve.port)]


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _inside(profile: DockerProfile) -> str:
    """Where the container itself reaches its server."""
    if profile.network != "host":
        return _address("127.0.0.1", PORT)
    host = profile.serve.host
    return _address("127.0.0.1" if host in _EVERY else host, profile.serve.port)


def _health_check(address: str) -> dict[str, Any]:
    code = f"import urllib.request as u; u.urlopen('http://{address}{READY}', timeout=5)"
    return {
        "Test": ["CMD", "python", "-c", code],
        "Interval": 10 * _SECOND,
        "Timeout": 10 * _SECOND,
        "StartPeriod": 600 * _SECOND,
        "StartInterval": 2 * _SECOND,  # of engines since 25
        "Retries": 3,
    }


def _host_config(profile: DockerProfile, more: list[dict[str, Any]]) -> dict[str, Any]:
    """A job's, with all mounts for reading alone, and started again after a crash or a restart of
    the engine."""
    config = host_config(profile)
    mounts = [{**mount, "ReadOnly": True} for mount in config["Mounts"]]
    config |= {"Mounts": [*mounts, *more], "RestartPolicy": {"Name": "unless-stopped"}}
    if profile.network != "host":
        bound = {"HostIp": profile.serve.host, "HostPort": str(profile.serve.port)}
        config["PortBindings"] = {f"{PORT}/tcp": [bound]}
    return config
