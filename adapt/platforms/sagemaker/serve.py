"""The section `serve` of a SageMaker profile: the machines of endpoints."""

from typing import Self

from pydantic import Field, model_validator

from adapt.config.validation import Mistake
from adapt.platforms.endpoint import ServeArguments, ServeSettings, option_variables


class SageMakerServe(ServeSettings):
    """The endpoints of an account, for `deploy`."""

    instance_type: str | None = Field(
        None, description="Machine type of endpoints, such as ml.g5.xlarge; none: instance_type."
    )
    price_per_hour: float | None = Field(
        None,
        ge=0,
        description="Price of one machine of an endpoint an hour; none: price_per_hour, where the "
        "machine is the same and no spot machine.",
    )
    replicas: int = Field(1, ge=1, description="Machines; the fewest, with `max_replicas`.")
    max_replicas: int | None = Field(
        None, ge=1, description="The most machines of an autoscaler; none: no autoscaler."
    )
    concurrent_requests: int = Field(
        4,
        ge=1,
        description="Requests at work on a machine, on average, above which the autoscaler adds "
        "machines.",
    )

    arguments: ServeArguments = Field(
        [], description="More options of `segadapt serve`, such as [--precision, bf16]."
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.max_replicas is not None and self.max_replicas < self.replicas:
            raise ValueError(
                f"max_replicas: expected at least replicas ({self.replicas}), got "
                f"{self.max_replicas}"
            )
        option_variables(self.arguments)
        machine = self.instance_type
        if machine is not None and machine.startswith(("ml.trn", "ml.inf")):
            raise Mistake(f"instance_type: expected NVIDIA GPUs or a CPU, got {machine}")
        return self

    @property
    def bounds(self) -> tuple[int, int]:
        """The fewest and the most machines."""
        return self.replicas, self.max_replicas or self.replicas
