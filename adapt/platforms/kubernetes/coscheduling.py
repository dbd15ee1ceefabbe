"""Coscheduling of the scheduler plugins: a PodGroup, whose pods a scheduler starts together or not
at all.

The pods name their group by a label, and the scheduler that knows groups.
"""

from typing import TYPE_CHECKING, Any

from pydantic import Field

from adapt.config.section import Section
from adapt.platforms.kubernetes.names import ObjectName

if TYPE_CHECKING:
    from adapt.platforms.kubernetes.profile import KubernetesProfile

GROUP, VERSION = "scheduling.x-k8s.io", "v1alpha1"
POD_GROUP = "scheduling.x-k8s.io/pod-group"


class Coscheduling(Section):
    """A scheduler with the plugin Coscheduling."""

    scheduler: ObjectName = Field(
        "scheduler-plugins-scheduler",
        description="schedulerName of the pods; default-scheduler where the plugin is in that.",
    )
    wait_s: int | None = Field(
        None,
        ge=1,
        description="Longest wait of pods that have a node for the others; none = the scheduler's.",
    )


def pod_groups(metadata: dict[str, Any], profile: "KubernetesProfile") -> list[dict[str, Any]]:
    """The PodGroup of a job's pods, which has the job's name; none where the profile has none."""
    gang = profile.coscheduling
    if gang is None:
        return []
    wait = {} if gang.wait_s is None else {"scheduleTimeoutSeconds": gang.wait_s}
    return [
        {
            "apiVersion": f"{GROUP}/{VERSION}",
            "kind": "PodGroup",
            "metadata": metadata,
            "spec": {"minMember": profile.nodes, **wait},
        }
    ]


def group_label(name: str, profile: "KubernetesProfile") -> dict[str, str]:
    """The label of pods that names their group."""
    return {} if profile.coscheduling is None else {POD_GROUP: name}


def scheduler(profile: "KubernetesProfile") -> dict[str, str]:
    """The field of pods that names their scheduler."""
    gang = profile.coscheduling
    return {} if gang is None else {"schedulerName": gang.scheduler}
