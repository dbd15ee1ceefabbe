"""The profile of SageMaker: region, role, machines, limits.

The service publishes lengths, patterns and enums itself (`limits` checks them); here are the rules
that it reports only after the job was paid for.
"""

import re
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from adapt.config.section import Section
from adapt.config.validation import Mistake
from adapt.places import CHANNELS
from adapt.platforms.platform import Profile, Promised
from adapt.platforms.sagemaker.machines import gpus_of, has_own_disk, memory_gb_of, model_of
from adapt.platforms.sagemaker.serve import SageMakerServe
from storage.uris import join

IMAGE = re.compile(
    r"(?P<account>\d{12})\.dkr\.ecr(?:-fips)?\.(?P<region>[a-z0-9-]+)\.[a-z0-9.]+/"
    r"(?P<repository>[a-z0-9][a-z0-9._/-]*?)(?::(?P<tag>[\w.-]+))?(?:@(?P<digest>sha256:\w{64}))?"
)
"""An image of a private ECR repository, the only kind that SageMaker pulls without a VPC."""

NO_SECRETS = (
    "let role_arn reach S3, and use an MLflow server that needs no password inside your vpc: "
    "SageMaker has no secrets for jobs, and its API shows variables as plain text to every user "
    "who may describe the job"
)
Service = Literal[
    "sagemaker", "logs", "sts", "ecr", "s3", "service-quotas", "application-autoscaling"
]


class Channel(Section):
    """Data that SageMaker transfers to /opt/ml/input/data."""

    uri: str = Field(description="Folder of a packed dataset, `s3://bucket/prefix`.")
    mode: Literal["File", "FastFile"] = Field(
        "FastFile",
        description="File copies everything to each machine before training starts (and is billed "
        "for it), FastFile reads S3 while training.",
    )


class Vpc(Section):
    """Your own network, in which the machines run."""

    subnets: tuple[str, ...] = Field(description="Subnets, `subnet-...`.")
    security_groups: tuple[str, ...] = Field(
        description="Security groups, `sg-...`; with several nodes they allow all traffic among "
        "themselves."
    )


class SageMakerProfile(Profile):
    """AWS SageMaker: training jobs, and processing jobs of `predict`."""

    secrets_go = NO_SECRETS
    keys_here = (
        "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, on this machine, which "
        "looks the model up; on SageMaker role_arn reads it"
    )
    takes_secrets = False

    platform: Literal["sagemaker"] = Field("sagemaker", description="AWS SageMaker.")
    region: str = Field(description="Region of the job, such as us-east-1.")
    endpoint_urls: dict[Service, str] = Field(
        {}, description="Addresses of services that are not the public ones (VPC endpoints)."
    )
    role_arn: str = Field(description="Role that the job runs as; it reads and writes your data.")
    instance_type: str = Field(description="Machine type, such as ml.g5.xlarge.")
    volume_gb: int | None = Field(
        None, ge=1, description="Disk of a machine that has none of its own, in 10^9 bytes."
    )
    spot: bool = Field(
        False,
        description="Spare machines at a lower price, which AWS may take back; it starts the job "
        "again by itself. Not of `predict`, whose jobs run on demand.",
    )
    max_hours: float = Field(
        24,
        gt=0,
        le=672,
        description="A job stops after so long, all restarts together; `predict`: at most 216.",
    )
    max_wait_hours: float | None = Field(
        None, gt=0, description="Limit of a spot job: waiting for machines and training together."
    )
    keep_alive_s: int | None = Field(
        None, description="Keep (and bill) the machines for the next job."
    )
    retries: int | None = Field(
        None, description="Starts after a fault of SageMaker's own, no other failure."
    )
    output_uri: str = Field(
        description="Folder for the best weights at the end: `s3://bucket/prefix`."
    )
    checkpoint_uri: str | None = Field(
        None,
        description="Have SageMaker mirror checkpoints here, `s3://bucket/prefix`, each run's in a "
        "folder of its own, instead of storing them at `checkpoint.uri` of the job spec, "
        "which is safer.",
    )
    channels: dict[Literal["source", "target", "validation"], Channel] = Field(
        {}, description="Data that SageMaker transfers, instead of streams from the spec's URIs."
    )
    vpc: Vpc | None = Field(None, description="A network of your own; none = AWS's.")
    kms_key: str | None = Field(None, description="Key that encrypts what goes to output_uri.")
    volume_kms_key: str | None = Field(
        None, description="Key that encrypts the volume of a machine without own disks."
    )
    encrypt_traffic: bool = Field(
        False, description="Encrypt the traffic between nodes; training becomes slower."
    )
    network_isolation: bool = Field(False, description="Not possible; the error states why.")
    secrets: tuple[str, ...] = Field((), description="Not possible; the error states why.")
    tags: dict[str, str] = Field({}, description="Tags of the job, for bills and policies.")
    serve: SageMakerServe = Field(
        SageMakerServe(), description="Settings of endpoints, for `deploy`."
    )

    def gpu_model(self) -> str | None:
        """The machine's."""
        return self.gpu or model_of(self.instance_type)

    def promised_gb(self) -> Promised:
        """The requested disk."""
        return Promised(disk=self.volume_gb)

    def replaced(self) -> dict[str, str]:
        """The channels, and the mirror of the checkpoints."""
        named = {CHANNELS[name]: channel.uri for name, channel in self.channels.items()}
        mirror = {} if self.checkpoint_uri is None else {"checkpoint.uri": self.checkpoint_uri}
        return named | mirror

    def results(self, _run: str, job: str) -> dict[str, str]:
        """The best weights."""
        return {"best weights": join(self.output_uri, job, "output/model")}

    def checkpoints_at(self, run: str) -> str | None:
        """The run's own folder of the mirror: SageMaker downloads all of it to each machine first,
        and jobs of one folder mirror over one another."""
        return None if self.checkpoint_uri is None else join(self.checkpoint_uri, run)

    @model_validator(mode="after")
    def _knows_the_machine(self) -> Self:
        """GPUs and their memory, where the machine is known and the profile leaves them out."""
        machine = self.instance_type
        known = {"gpus": gpus_of(machine), "gpu_memory_gb": memory_gb_of(machine)}
        given = self.model_fields_set
        return self.model_copy(
            update={k: v for k, v in known.items() if v is not None and k not in given}
        )

    @field_validator("secrets")
    @classmethod
    def _has_none(cls, secrets: tuple[str, ...]) -> tuple[str, ...]:
        if secrets:
            raise Mistake(f"expected none, got {', '.join(secrets)}", fix=NO_SECRETS)
        return secrets

    @field_validator("region")
    @classmethod
    def _is_a_region(cls, region: str) -> str:
        if not re.fullmatch(r"[a-z]{2,}(-[a-z]+)+-\d", region):
            raise ValueError(f"expected a region's code, such as us-east-1, got {region!r}")
        return region

    @field_validator("endpoint_urls")
    @classmethod
    def _are_addresses(cls, urls: dict[Service, str]) -> dict[Service, str]:
        for service, url in urls.items():
            if not re.match(r"https?://\w", url):
                raise ValueError(f"expected https://HOST for {service}, got {url!r}")
        return urls

    @field_validator("image")
    @classmethod
    def _is_in_ecr(cls, image: str) -> str:
        if not IMAGE.fullmatch(image):
            raise Mistake(
                "expected an image of a private ECR repository, ACCOUNT.dkr.ecr.REGION."
                f"amazonaws.com/NAME:TAG, got {image!r}",
                fix="push it there (docs/platforms/sagemaker.md)",
            )
        return image

    @field_validator("network_isolation")
    @classmethod
    def _has_a_network(cls, isolated: bool) -> bool:
        if isolated:
            raise Mistake(
                "expected false, got true: an isolated job reaches neither its stores nor MLflow",
                fix="use vpc with endpoints, which keeps it off the internet",
            )
        return isolated

    @field_validator("tags")
    @classmethod
    def _leaves_our_tag(cls, tags: dict[str, str]) -> dict[str, str]:
        if "segadapt" in tags:
            raise ValueError(
                "expected other tags than segadapt, by which `jobs` finds its jobs, got it"
            )
        return tags

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for mistake in (self._machine(), self._spot(), self._image_region()):
            if mistake:
                raise mistake
        return self

    def _machine(self) -> Mistake | None:
        machine, gpus = self.instance_type, gpus_of(self.instance_type)
        if machine.startswith("ml.trn"):
            return Mistake(
                f"instance_type: expected NVIDIA GPUs or a CPU, got {machine} (Trainium)"
            )
        if gpus is not None and gpus != self.gpus:
            return Mistake(
                f"gpus: expected {gpus}, as {machine} has, got {self.gpus}", fix="remove the key"
            )
        if has_own_disk(machine):
            for key in ("volume_gb", "volume_kms_key"):
                if getattr(self, key) is not None:
                    return Mistake(
                        f"{key}: expected none, as {machine} has disks of its own, of fixed size "
                        f"and encrypted, got {getattr(self, key)}",
                        fix="remove the key",
                    )
        elif self.volume_gb is None:
            return Mistake(
                f"volume_gb: missing, expected the disk's size: {machine} has none of its own"
            )
        return None

    def _spot(self) -> Mistake | None:
        if not self.spot:
            if self.max_wait_hours is not None:
                return Mistake(
                    f"max_wait_hours: expected none without spot, got {self.max_wait_hours:g}",
                    fix="set spot: true or remove it",
                )
            return None
        if self.max_wait_hours is None:
            return Mistake(
                "max_wait_hours: missing, expected with spot, where it bounds waiting and training "
                f"together, at least max_hours ({self.max_hours:g})"
            )
        if self.max_wait_hours < self.max_hours:
            return Mistake(
                f"max_wait_hours: expected at least max_hours ({self.max_hours:g}), since it "
                f"counts waiting and training together, got {self.max_wait_hours:g}"
            )
        if self.keep_alive_s is not None:
            return Mistake(
                f"keep_alive_s: expected none with spot, whose machines are not kept, got "
                f"{self.keep_alive_s}",
                fix="remove it or set spot: false",
            )
        return None

    def _image_region(self) -> Mistake | None:
        match = IMAGE.fullmatch(self.image)
        assert match is not None, "the image was checked"
        if match["region"] == self.region:
            return None
        return Mistake(
            f"image: expected one in the job's region ({self.region}), got {match['region']}",
            fix="push or replicate it there",
        )
