"""The section `serve` of a ModelArts profile: real-time services."""

from typing import Literal, Self

from pydantic import Field, model_validator

from adapt.platforms.endpoint import ServeArguments, ServeSettings


class ModelArtsServe(ServeSettings):
    """The real-time services of a project, for `deploy`."""

    flavor: str | None = Field(
        None,
        min_length=1,
        description="Machine of inference, as the console's page of services lists them; those of "
        "training are others.",
    )
    cpu: float | None = Field(
        None, ge=0.01, description="Cores of a replica, instead of `flavor` in a pool of your own."
    )
    memory_gb: float | None = Field(
        None, gt=0, description="Its memory in 10^9 bytes, beside `cpu`."
    )
    gpus: int | None = Field(None, ge=0, description="GPUs of a replica; none: `gpus`.")
    price_per_hour: float | None = Field(
        None, ge=0, description="Price of a replica an hour; that of jobs is for other machines."
    )
    replicas: int = Field(1, ge=1, le=128, description="Replicas, each on a machine of its own.")
    auth: Literal["token", "api_key", "none"] = Field(
        "token",
        description="Proof that a request needs: an IAM token, an API key that is bound to the "
        "service, or none.",
    )
    internet: bool = Field(False, description="Let the service be reached from the internet.")
    log_endpoint: str | None = Field(
        None,
        min_length=1,
        description="URL of the Log Tank Service; none = https://lts.REGION.myhuaweicloud.com.",
    )
    arguments: ServeArguments = Field(
        [], description="More options of `segadapt serve`, such as [--precision, bf16]."
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        own = (self.cpu, self.memory_gb)
        if (self.cpu is None) != (self.memory_gb is None):
            key, other = ("memory_gb", "cpu") if self.cpu else ("cpu", "memory_gb")
            raise ValueError(f"{key}: missing, expected one beside {other}")
        if self.flavor is not None and own != (None, None):
            raise ValueError(f"cpu: expected none beside flavor, got {self.cpu:g}")
        return self
