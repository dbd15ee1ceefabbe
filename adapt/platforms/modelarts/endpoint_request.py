"""The request for a real-time service of ModelArts (`POST /v2/PROJECT/services`): our image, and
the checkpoint's folder in OBS, which ModelArts mounts with the rights of its agency."""

import re
import shlex
from typing import Any

from adapt.errors import JobError
from adapt.platforms.endpoint import LIVE, MODEL_FOLDER, PORT, READY, Deployment
from adapt.platforms.modelarts.profile import ModelArtsProfile
from adapt.platforms.platform import Request
from storage.uris import split_uri, without_password

TAG = {"key": "segadapt", "value": "endpoint"}
"""By which `endpoints` finds what SegAdapt deployed."""

COMMAND = ("python", "/opt/segadapt/entrypoint.py", "serve")
STARTUP_S, PROBE_S = 1800, 10
"""Longest that a model may load, and the seconds between two probes."""

REQUEST_MB, REQUEST_S = 16, 60
"""The limits of `segadapt serve`, rounded up."""

MAX_VARIABLE = 64
_AUTH = {"token": "TOKEN", "api_key": "API_KEY", "none": "NONE"}
_ACCESS = {
    "token": "an IAM token of the project in X-Auth-Token",
    "api_key": "an API key that you bind to the service in the console",
    "none": "open: nothing is asked for",
}


def endpoint_request(deployment: Deployment, profile: ModelArtsProfile) -> Request:
    """The body. Raises `JobError` for a model outside of OBS, and without a machine."""
    address, file = _folder(deployment)
    serve = profile.serve
    return {
        "name": deployment.name,
        "version": "1.0.0",
        "description": f"SegAdapt serves {re.sub('[<>]', '_', deployment.model)}"[:512],
        "workspace_id": profile.workspace_id,
        "type": "REAL_TIME",
        "deploy_type": "SINGLE",
        "workload_type": "DEPLOYMENT",
        "group_configs": [
            {
                "name": "main",
                **({"pool_id": profile.pool_id} if profile.pool_id else {}),
                "framework": "COMMON",
                "count": serve.replicas,
                "weight": 100,
                "unit_configs": [_unit(deployment, profile, address, file)],
            }
        ],
        "runtime_config": {
            "service_invoke": {
                "port": PORT,
                "protocol": "HTTP",
                "auth_type": _AUTH[serve.auth],
                "internet_access_enable": serve.internet,
            },
            "service_limit": {"request_size_limit": REQUEST_MB, "request_timeout": REQUEST_S},
        },
        "lts_strategy": "AUTO_CREATE",
        "log_configs": [{"type": "STDOUT", "status": "ON"}],
        "deploy_timeout_minutes": STARTUP_S // 60,
        "tags": [{**TAG}],
    }


def on_machines(profile: ModelArtsProfile) -> ModelArtsProfile:
    """The profile with the machine, GPUs and price of a replica."""
    serve = profile.serve
    changed: dict[str, Any] = {"price_per_hour": serve.price_per_hour, "flavor_id": serve.flavor}
    changed |= {} if serve.gpus is None else {"gpus": serve.gpus}
    return profile.model_copy(update=changed)


def reach(_deployment: Deployment, profile: ModelArtsProfile) -> str:
    """The networks that reach the service."""
    if profile.serve.internet:
        return f"the internet, through ModelArts' gateway in {profile.region}"
    return f"networks of the project that are connected to ModelArts in {profile.region}"


def access(profile: ModelArtsProfile) -> str:
    """The proof that a request needs."""
    return _ACCESS[profile.serve.auth]


def _folder(deployment: Deployment) -> tuple[str, str]:
    """The folder in OBS that is mounted, and the name of the weights in it."""
    scheme, path = split_uri(deployment.model)
    if scheme != "obs" or path.count("/") < 2:
        raise JobError(
            "MODEL: expected obs://BUCKET/FOLDER, which ModelArts mounts, got "
            f"{without_password(deployment.model)!r}",
            "copy the checkpoint's folder into a folder in OBS, and name its URI",
        )
    folder, _, file = path.rpartition("/")
    return f"obs://{folder}/", file


def _unit(
    deployment: Deployment, profile: ModelArtsProfile, address: str, file: str
) -> dict[str, Any]:
    model = f"{MODEL_FOLDER}/{file}"
    gpus = on_machines(profile).gpus
    return {
        "name": "main",
        "role": "COMMON",
        "count": 1,
        "image": {
            "source": "SWR",
            "swr_path": _image(profile),
            "category": "GPU" if gpus else "CPU",
        },
        **_machine(profile, gpus),
        "files": [
            {
                "source": "OBS",
                "address": address,
                "mount_path": f"{MODEL_FOLDER}/",
                "read_only": True,
            }
        ],
        "cmd": shlex.join([*COMMAND, "--port", str(PORT), *profile.serve.arguments]),
        "envs": _variables(deployment, profile, model),
        "port": PORT,
        "startup_health": _probe(READY, STARTUP_S // PROBE_S),
        "readiness_health": _probe(READY, 2),
        "liveness_health": _probe(LIVE, 6),
        "recovery": "Pod",
        "termination_grace": {"termination_grace_period_seconds": round(profile.grace_s)},
        "security_config": {"user_id": 1000, "group_id": 100},
    }


def _image(profile: ModelArtsProfile) -> str:
    """The image with the host of SWR, which training jobs do without."""
    host = profile.image.partition("/")[0]
    if "." in host:
        return profile.image
    domain = "eu" if profile.region.startswith("eu-") else "com"
    return f"swr.{profile.region}.myhuaweicloud.{domain}/{profile.image}"


def _machine(profile: ModelArtsProfile, gpus: int) -> dict[str, Any]:
    serve = profile.serve
    if serve.flavor is not None:
        return {"flavor": serve.flavor}
    if serve.cpu is None or serve.memory_gb is None or profile.pool_id is None:
        raise JobError(
            "serve.flavor: missing, expected a flavor of inference, or with pool_id serve.cpu and "
            "serve.memory_gb",
            "take one that the console's page of services lists",
        )
    own = {"cpu": serve.cpu, "memory": round(serve.memory_gb * 1000), "gpu": float(gpus)}
    return {"flavor": "custom", "custom_spec": own}


def _variables(deployment: Deployment, profile: ModelArtsProfile, model: str) -> dict[str, str]:
    found = {"SEGADAPT_HOST": "0.0.0.0"}
    found |= deployment.environment(profile, model, profile.grace_s)
    for name, value in found.items():
        if len(name) > MAX_VARIABLE:
            raise JobError(
                f"environment.{name}: expected a name of at most {MAX_VARIABLE} characters, got "
                f"{len(name)}"
            )
        if re.search("[<>]", value):
            raise JobError(
                f"environment.{name}: expected no < and >, which ModelArts refuses, got {value!r}"
            )
    return found


def _probe(path: str, failures: int) -> dict[str, Any]:
    return {
        "check_method": "HTTP",
        "protocol": "HTTP",
        "url": path,
        "initial_delay_seconds": PROBE_S,
        "period_seconds": PROBE_S,
        "timeout_seconds": 5,
        "failure_threshold": failures,
    }
