"""The section `serve` of a cluster's profile: its endpoints."""

from typing import Literal, Self

from pydantic import Field, model_validator

from adapt.config.validation import Mistake
from adapt.platforms.endpoint import ServeArguments, ServeSettings
from adapt.platforms.kubernetes.names import ObjectName

EndpointKindName = Literal["deployment", "inferenceservice"]


class KubernetesServe(ServeSettings):
    """The endpoints of a cluster, for `deploy`."""

    kind: EndpointKindName = Field(
        "deployment",
        description="deployment is a Deployment with its Service, and needs nothing installed; "
        "inferenceservice is that of KServe 0.16 or later.",
    )
    gateway: bool = Field(
        False,
        description="Let KServe make a route from outside of the cluster; only with "
        "`kind: inferenceservice`.",
    )
    replicas: int = Field(1, ge=1, description="Pods; the fewest, with `max_replicas`.")
    max_replicas: int | None = Field(
        None,
        ge=1,
        description="The most pods of an autoscaler, which needs the metrics server; none: no "
        "autoscaler.",
    )
    cpu_percent: int = Field(
        80, ge=1, description="Use of `cpu`, over all pods, above which the autoscaler adds some."
    )
    token_secret: ObjectName | None = Field(
        None, description="A Secret whose key SEGADAPT_TOKEN is the token that requests state."
    )
    arguments: ServeArguments = Field(
        [], description="More options of `segadapt serve`, such as [--precision, bf16]."
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.gateway and self.kind != "inferenceservice":
            raise Mistake(
                f"gateway: expected false with kind: {self.kind}, got true",
                fix="make an Ingress for its Service, or take kind: inferenceservice",
            )
        if self.kind == "inferenceservice" and self.cpu_percent > 100:
            raise ValueError(
                f"cpu_percent: expected at most 100 with kind: {self.kind}, got {self.cpu_percent}"
            )
        if self.max_replicas is not None and self.max_replicas < self.replicas:
            raise ValueError(
                f"max_replicas: expected at least replicas ({self.replicas}), got "
                f"{self.max_replicas}"
            )
        return self

    @property
    def bounds(self) -> tuple[int, int]:
        """The fewest and the most pods."""
        return self.replicas, self.max_replicas or self.replicas
