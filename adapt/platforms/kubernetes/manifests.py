"""The manifests of a submission: a `List`, which `kubectl apply -f` takes as well.

First the objects that the job needs (its spec in a ConfigMap, the Service of an Indexed Job of
several nodes, its PodGroup), then the job itself.
"""

import re

from adapt.errors import JobError
from adapt.platforms.kubernetes.coscheduling import pod_groups
from adapt.platforms.kubernetes.jobs import Manifest
from adapt.platforms.kubernetes.kinds import KINDS
from adapt.platforms.kubernetes.kueue import queued
from adapt.platforms.kubernetes.pod import INSTANCE, SPEC_FILE, metadata
from adapt.platforms.kubernetes.profile import KubernetesProfile
from adapt.platforms.platform import Request, Submission
from adapt.platforms.reachable import CHECKPOINTS, unreachable


def request(submission: Submission, profile: KubernetesProfile) -> Request:
    """The manifests. Raises `JobError` for a name that the API server would refuse, and for paths
    that the pods do not have or that are lost with them."""
    name, kind = submission.name, KINDS[profile.kind]
    if len(name) > kind.longest_name or not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name):
        raise JobError(
            f"name: expected lower-case letters, digits and `-`, a letter first, at most "
            f"{kind.longest_name} characters, got {name!r}",
            fix="rename the job spec",
        )
    _check_uris(submission, profile)
    items = [
        _config_map(submission, profile),
        *([_service(submission, profile)] if kind.service and profile.nodes > 1 else []),
        *pod_groups(metadata(submission, profile), profile),
        queued(kind.build(submission, profile), kind.suspend, profile),
    ]
    return {"apiVersion": "v1", "kind": "List", "items": items}


def _check_uris(submission: Submission, profile: KubernetesProfile) -> None:
    """Data may lie on any volume, checkpoints on a writable one; /cache and /tmp are lost with the
    pod."""
    keys = submission.job.uris()
    offers = dict.fromkeys(keys, "a path below a mount of `volumes` in the profile")
    offers[CHECKPOINTS] = "a path below a mount of `volumes` that has `read_only: false`"
    read = [volume.mount_path for volume in profile.volumes]
    written = [volume.mount_path for volume in profile.volumes if not volume.read_only]
    lines = unreachable(submission.job, profile, offers, read, written)
    if lines:
        raise JobError("\n".join(lines))


def _config_map(submission: Submission, profile: KubernetesProfile) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(submission, profile),
        "data": {SPEC_FILE: submission.job.to_yaml()},
    }


def _service(submission: Submission, profile: KubernetesProfile) -> Manifest:
    """Names for pods, also before they are ready: the nodes meet while they start."""
    spec = {
        "clusterIP": "None",
        "publishNotReadyAddresses": True,
        "selector": {INSTANCE: submission.name},
    }
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(submission, profile),
        "spec": spec,
    }
