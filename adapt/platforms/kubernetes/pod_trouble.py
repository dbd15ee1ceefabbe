"""Why the pods of an endpoint do not start or do not stay."""

from typing import Any

from adapt.platforms.kubernetes.jobs import Manifest

_HOPELESS = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "CrashLoopBackOff",
             "CreateContainerConfigError", "CreateContainerError", "RunContainerError")  # fmt: skip


def trouble_of(pod: Manifest) -> str:
    """Why a container does not start or does not stay."""
    for one in pod["status"].get("containerStatuses") or ():
        waiting: dict[str, Any] = one["state"].get("waiting") or {}
        if waiting.get("reason") in _HOPELESS:
            ended = (one.get("lastState") or {}).get("terminated") or {}
            code = f" (exit code {ended['exitCode']})" if ended else ""
            said = ended.get("message") or waiting.get("message") or ""
            return f"{waiting['reason']}{code}: {' '.join(str(said).split())}".rstrip(": ")
    return ""


def unscheduled(pod: Manifest) -> str:
    """Why no node takes it."""
    for one in pod["status"].get("conditions") or ():
        if one["type"] == "PodScheduled" and one["status"] == "False":
            return str(one.get("message", ""))
    return ""
