"""Settings of pods for experts of a cluster: one section of its profile, and its fields of a pod.

What a runtime of Kubeflow Trainer sets itself, and a TrainJob cannot patch, is refused for it.
"""

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator

from adapt.config.section import Section
from adapt.config.validation import Mistake
from adapt.platforms.kubernetes.names import LabelKey, LabelValue, ObjectName

if TYPE_CHECKING:
    from adapt.platforms.kubernetes.profile import KubernetesProfile

OURS = ("app.kubernetes.io/", "segadapt/")
"""Beginnings of labels and annotations by which we find our objects."""
_OWN_KEYS = {
    "cpu": "set cpu of the profile",
    "memory": "set memory_gb of the profile",
    "ephemeral-storage": "set pods.ephemeral_gb",
}


class PodSettings(Section):
    """Settings of every pod of a job."""

    labels: dict[LabelKey, LabelValue] = Field(
        {}, description="Labels of all objects and pods, as for the split of costs."
    )
    annotations: dict[LabelKey, str] = Field(
        {},
        description="Annotations of all objects and pods, such as "
        "{karpenter.sh/do-not-disrupt: 'true'}, or a topology that Kueue is to keep to.",
    )
    runtime_class: ObjectName | None = Field(
        None, description="RuntimeClass of the pods, such as nvidia."
    )
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = Field(
        None, description="Rule for pulling the image; none = the cluster's."
    )
    fs_group_change: Literal["OnRootMismatch", "Always"] = Field(
        "OnRootMismatch",
        description="Change of the owner of all files of a volume (fsGroupChangePolicy): Always "
        "takes minutes on a large one.",
    )
    resources: dict[LabelKey, int | str] = Field(
        {},
        description="More resources of a pod, such as {vpc.amazonaws.com/efa: 4, rdma/hca: 1, "
        "hugepages-2Mi: 5120Mi}.",
    )
    ipc_lock: bool = Field(
        False,
        description="The capability IPC_LOCK, which RDMA needs; the strictest Pod Security "
        "Standard refuses it.",
    )
    ephemeral_gb: float | None = Field(
        None,
        gt=0,
        description="Limit of the node's disk for a pod in 10^9 bytes: /cache, /tmp and logs; none "
        "= guaranteed `scratch_gb`, no limit.",
    )
    tmp_gb: float | None = Field(
        None, gt=0, description="Limit of /tmp in 10^9 bytes; none = no limit."
    )
    together_by: LabelKey | None = Field(
        None,
        description="Label of nodes in one value of which all pods of a job run, such as "
        "topology.kubernetes.io/zone; none = anywhere.",
    )
    cache_claim: ObjectName | None = Field(
        None,
        description="A PersistentVolumeClaim at /cache in place of the node's disk, which keeps "
        "shards and weights from job to job.",
    )

    @field_validator("labels", "annotations")
    @classmethod
    def _not_ours(cls, given: dict[str, str]) -> dict[str, str]:
        for key in given:
            if key.startswith(OURS):
                raise Mistake(
                    f"expected none of SegAdapt's own ({', '.join(OURS)}), got {key}",
                    fix="remove it",
                )
        return given

    @field_validator("resources")
    @classmethod
    def _not_the_profiles(cls, given: dict[str, int | str]) -> dict[str, int | str]:
        for key in given:
            if key in _OWN_KEYS:
                raise Mistake(f"expected other resources, got {key}", fix=_OWN_KEYS[key])
        return given


TRAINJOB_LACKS = ("runtime_class", "image_pull_policy")
"""Fields that a TrainJob's patch of its runtime's pods does not have."""


def pod_fields(profile: "KubernetesProfile") -> dict[str, Any]:
    """Fields of a pod that a TrainJob cannot patch."""
    name = profile.pods.runtime_class
    return {"runtimeClassName": name} if name else {}


def container_fields(profile: "KubernetesProfile") -> dict[str, Any]:
    """Fields of the container that a TrainJob cannot patch."""
    policy = profile.pods.image_pull_policy
    return {"imagePullPolicy": policy} if policy else {}


def affinity(profile: "KubernetesProfile", match_labels: dict[str, str]) -> dict[str, Any]:
    """The pods with these labels run where nodes share a label's value."""
    key = profile.pods.together_by
    if key is None:
        return {}
    term = {"topologyKey": key, "labelSelector": {"matchLabels": match_labels}}
    return {"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}}


def scratch_volume(profile: "KubernetesProfile", size: str) -> dict[str, Any]:
    """/cache: a claim, or a share of the node's disk."""
    claim = profile.pods.cache_claim
    if claim:
        return {"name": "scratch", "persistentVolumeClaim": {"claimName": claim}}
    return {"name": "scratch", "emptyDir": {"sizeLimit": size}}
