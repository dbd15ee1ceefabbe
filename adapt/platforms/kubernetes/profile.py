"""The profile of a cluster: `platform: kubernetes`.

Names, labels and paths that the API server would refuse, and keys that a kind of job does not have,
are refused here, by key.
"""

import re
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from adapt.config.section import Section
from adapt.config.validation import Mistake
from adapt.platforms.kubernetes.coscheduling import Coscheduling
from adapt.platforms.kubernetes.kueue import Kueue
from adapt.platforms.kubernetes.names import (
    LabelKey,
    LabelName,
    LabelValue,
    MountPath,
    ObjectName,
)
from adapt.platforms.kubernetes.pod_settings import TRAINJOB_LACKS, PodSettings
from adapt.platforms.kubernetes.serve import KubernetesServe
from adapt.platforms.mounts import below
from adapt.platforms.platform import Profile, Promised

KindName = Literal["indexed_job", "jobset", "trainjob", "pytorchjob", "volcano"]

RESERVED_PATHS = ("/dev/shm", "/tmp", "/cache", "/etc/segadapt")
"""Mounts that every pod of ours has."""

_ONLY_FOR: dict[str, KindName] = {
    "runtime": "trainjob",
    "runtime_kind": "trainjob",
    "queue": "volcano",
}
_NOT_FOR: dict[str, dict[str, str]] = {
    "trainjob": {
        "restarts": "its runtime sets the restarts (failurePolicy.maxRestarts)",
        "keep_hours": "its runtime sets how long ended jobs stay (ttlSecondsAfterFinished)",
        "priority_class": "its runtime sets it",
        "coscheduling": "its runtime sets it (podGroupPolicy)",
    },
    "jobset": {"max_hours": "a JobSet has no deadline"},
    "volcano": {
        "max_hours": "a Volcano job has no deadline",
        "kueue": "Volcano has queues of its own (`queue`)",
        "coscheduling": "Volcano starts all pods or none itself",
    },
}


class Toleration(Section):
    """A taint that the pods tolerate."""

    key: LabelKey | None = Field(None, description="Key of the taint; none = every taint.")
    operator: Literal["Exists", "Equal"] = Field("Exists", description="Comparison with `value`.")
    value: LabelValue | None = Field(
        None, description="Value of the taint, with `operator: Equal`."
    )
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        None, description="Effect of the taint; none = every effect."
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if (self.operator == "Equal") != (self.value is not None):
            raise ValueError(
                "value: expected one with `operator: Equal`, and with it alone, got "
                f"{'none' if self.value is None else repr(self.value)} with {self.operator}"
            )
        if self.operator == "Equal" and self.key is None:
            raise ValueError("key: missing, expected one with `operator: Equal`")
        return self


class PodVolume(Section):
    """A file system with data or for results: a claim that exists already, or NFS."""

    mount_path: MountPath = Field(description="Path in the container, as in /data.")
    claim: ObjectName | None = Field(None, description="A PersistentVolumeClaim.")
    nfs_server: str | None = Field(None, description="An NFS server, with `nfs_path`.")
    nfs_path: MountPath | None = Field(None, description="Path that the server exports.")
    read_only: bool = Field(True, description="Mount it for reading alone.")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        nfs = (self.nfs_server, self.nfs_path)
        if (nfs == (None, None)) == (self.claim is None) or (None in nfs and any(nfs)):
            keys = ("claim", "nfs_server", "nfs_path")
            given = " and ".join(key for key in keys if getattr(self, key)) or "neither"
            raise ValueError(f"expected `claim`, or `nfs_server` and `nfs_path`, got {given}")
        below = [
            path for path in RESERVED_PATHS if f"{self.mount_path.rstrip('/')}/".startswith(path)
        ]
        if below:
            raise Mistake(
                f"mount_path: expected a path outside of {below[0]}, which is the job's own, got "
                f"{self.mount_path}",
                fix="choose another path",
            )
        return self


class KubernetesProfile(Profile):
    """A cluster, a kind of job, and the resources of its pods."""

    secrets_go = "put it into a Secret of the namespace, and name that Secret in `secret`"

    platform: Literal["kubernetes"] = Field(description="This platform.")
    kind: KindName = Field(
        "indexed_job",
        description="indexed_job needs nothing installed; jobset is JobSet 0.10 or later, trainjob "
        "Kubeflow Trainer 2.3 or later, pytorchjob Kubeflow's training operator 1, volcano the "
        "Volcano scheduler.",
    )
    namespace: LabelName = Field("default", description="Namespace of the job's objects.")
    context: str | None = Field(
        None, description="Context of the kubeconfig; none = its current one."
    )
    kubeconfig: str | None = Field(
        None, description="A file; none = KUBECONFIG, else ~/.kube/config, else the pod's account."
    )
    service_account: ObjectName | None = Field(
        None,
        description="Account of the pods, for roles of the cloud; none = no token in the pods.",
    )
    image_pull_secrets: list[ObjectName] = Field(
        [], description="Secrets with which the image is pulled."
    )
    secret: ObjectName | None = Field(
        None, description="A Secret whose keys become the job's variables: store keys, passwords."
    )
    cpu: float = Field(8, gt=0, description="Guaranteed cores of a pod.")
    memory_gb: float = Field(
        32, gt=0, description="Memory of a pod in 10^9 bytes, /dev/shm included; more is OOM."
    )
    gpu_resource: LabelKey = Field(
        "nvidia.com/gpu",
        description="Name of the GPU resource on the nodes; a taint of this name is tolerated.",
    )
    scratch_gb: float = Field(
        100,
        gt=0,
        description="Share of the node's disk at /cache, in 10^9 bytes; more evicts the pod.",
    )
    shm_gb: float = Field(8, gt=0, description="/dev/shm, in 10^9 bytes of `memory_gb`.")
    node_selector: dict[LabelKey, LabelValue] = Field({}, description="Labels of fit nodes.")
    tolerations: list[Toleration] = Field([], description="Taints that the pods tolerate.")
    priority_class: ObjectName | None = Field(None, description="PriorityClass of the pods.")
    volumes: list[PodVolume] = Field([], description="File systems that every pod mounts.")
    kueue: Kueue | None = Field(
        None, description="A queue of Kueue, which starts all pods of a job or none; none = none."
    )
    coscheduling: Coscheduling | None = Field(
        None, description="A scheduler that starts all pods of a job or none; none = none."
    )
    pods: PodSettings = Field(PodSettings(), description="More settings of the pods.")
    grace_s: int = Field(
        120, ge=30, description="Time between SIGTERM and SIGKILL (terminationGracePeriodSeconds)."
    )
    max_hours: float | None = Field(
        None, gt=0, description="A deadline for all attempts together; none = no limit."
    )
    restarts: int | None = Field(
        None,
        ge=0,
        description="Restarts of an interrupted job; none = 3. For a pytorchjob any number but 0 "
        "means always; a trainjob's runtime sets them.",
    )
    keep_hours: float = Field(168, gt=0, description="Hours for which an ended job stays listed.")
    runtime: ObjectName = Field("torch-distributed", description="Name of a trainjob's runtime.")
    runtime_kind: Literal["ClusterTrainingRuntime", "TrainingRuntime"] = Field(
        "ClusterTrainingRuntime", description="Kind of `runtime`."
    )
    queue: ObjectName = Field("default", description="Queue of a volcano job.")
    serve: KubernetesServe = Field(KubernetesServe(), description="Endpoints, for `deploy`.")

    def outside(self, path: str) -> str | None:
        """A volume's claim, or its share."""
        sources = {
            one.mount_path: f"claim {one.claim}:"
            if one.claim
            else f"nfs {one.nfs_server}:{str(one.nfs_path).rstrip('/')}"
            for one in self.volumes
        }
        return below(path, sources)

    def promised_gb(self) -> Promised:
        """/dev/shm and /cache, unless that is a claim."""
        disk = None if self.pods.cache_claim else self.scratch_gb
        return Promised(shm=self.shm_gb, disk=disk)

    @field_validator("image")
    @classmethod
    def _image(cls, image: str) -> str:
        if not re.fullmatch(r"[^\s:@/]\S*", image) or "://" in image:
            raise ValueError(f"expected REGISTRY/NAME:TAG or @sha256:..., got {image!r}")
        return image

    @field_validator("environment")
    @classmethod
    def _environment(cls, environment: dict[str, str]) -> dict[str, str]:
        for name in environment:
            if name.startswith("PET_"):
                raise ValueError(
                    "expected names that do not start with PET_, which are the platform's own, "
                    f"got {name}"
                )
        return environment

    @model_validator(mode="after")
    def _fits(self) -> Self:
        for key, kind in _ONLY_FOR.items():
            if self._sets(key) and kind != self.kind:
                raise Mistake(
                    f"{key}: expected with `kind: {kind}` alone, got it with `kind: {self.kind}`",
                    fix="remove it",
                )
        for key, why in _NOT_FOR.get(self.kind, {}).items():
            if self._sets(key):
                raise Mistake(
                    f"{key}: expected none with `kind: {self.kind}`, got one: {why}",
                    fix="remove it",
                )
        self._check_pods()
        if self.shm_gb >= self.memory_gb:
            raise ValueError(
                f"shm_gb: expected less than memory_gb ({self.memory_gb:g}), which it is part of, "
                f"got {self.shm_gb:g}"
            )
        paths = [volume.mount_path.rstrip("/") for volume in self.volumes]
        if len(set(paths)) < len(paths):
            raise ValueError(f"volumes: expected different mount_paths, got {paths}")
        return self

    def _check_pods(self) -> None:
        for key in TRAINJOB_LACKS if self.kind == "trainjob" else ():
            if getattr(self.pods, key) is not None:
                raise Mistake(
                    f"pods.{key}: expected none with `kind: trainjob`, got one, which its "
                    "runtime sets",
                    fix="remove it",
                )
        if self.gpu_resource in self.pods.resources:
            raise Mistake(f"pods.resources: expected others, got {self.gpu_resource}", "set gpus")
        most, scratch_gb = self.pods.ephemeral_gb, self.scratch_gb
        if most is not None and most < scratch_gb and not self.pods.cache_claim:
            raise ValueError(
                f"pods.ephemeral_gb: expected scratch_gb ({scratch_gb:g}) or more, which it "
                f"contains, got {most:g}"
            )

    def _sets(self, key: str) -> bool:
        """Return whether a key has another value than its default."""
        return bool(getattr(self, key) != type(self).model_fields[key].default)

    @property
    def retries(self) -> int:
        """`restarts`, or its default."""
        return 3 if self.restarts is None else self.restarts
