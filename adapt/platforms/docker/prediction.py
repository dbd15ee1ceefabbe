"""The containers that predict a set, one for each slice, at the same time on one engine."""

from typing import Any

from adapt.platforms.docker.client import JOB_LABEL
from adapt.platforms.docker.profile import DockerProfile
from adapt.platforms.docker.request import host_config
from adapt.platforms.platform import Request
from adapt.platforms.prediction import Sliced, check_uris


def prediction_requests(prediction: Sliced, profile: DockerProfile) -> dict[str, Request]:
    """The requests by the containers' names. The GPUs of the profile are shared out: each slice has
    one. Raises `JobError` for paths that no mount has."""
    read = [mount.target for mount in profile.mounts]
    written = [mount.target for mount in profile.mounts if not mount.read_only]
    check_uris(prediction, "mounts of the profile", read, written)
    variables = prediction.environment(profile, profile.grace_s) | prediction.spec_variable()
    return {
        prediction.name_of(number): {
            "name": prediction.name_of(number),
            "secrets": list(profile.secrets),
            "body": {
                "Image": profile.image,
                "Cmd": prediction.arguments(number),
                "Env": [f"{name}={value}" for name, value in variables.items()],
                "Labels": {
                    JOB_LABEL: prediction.name_of(number),
                    "segadapt.run": prediction.name,
                },
                "User": profile.user,
                "StopSignal": "SIGTERM",
                "StopTimeout": profile.grace_s,
                "HostConfig": host_config(profile) | _own_gpu(profile, number),
            },
        }
        for number in prediction.slices
    }


def _own_gpu(profile: DockerProfile, number: int) -> dict[str, Any]:
    if not profile.gpus:
        return {}
    ids = profile.gpu_ids or [str(one) for one in range(profile.gpus)]
    which = {"DeviceIDs": [ids[number % len(ids)]]}
    return {"DeviceRequests": [{"Driver": "", **which, "Capabilities": [["gpu"]]}]}
