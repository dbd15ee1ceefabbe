"""Clients of the double of SageMaker, and jobs there."""

from pathlib import Path
from typing import Any

import pytest

from adapt.platforms import PLATFORMS, load_profile
from adapt.platforms.platform import Submission
from adapt.platforms.sagemaker.client import SageMakerClient
from adapt.spec.loading import parse_spec
from tests.commands import ROOT
from tests.conftest import tiny_values
from tests.platforms.aws_server import KEY
from tests.platforms.sagemaker_double import SageMakerDouble

ROW = PLATFORMS["sagemaker"]
KEYS = {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": "secret"}
ROLE = "arn:aws:iam::111122223333:role/segadapt"
SERVICES = (
    "sagemaker", "logs", "sts", "ecr", "s3", "service-quotas", "application-autoscaling"
)  # fmt: skip


def profile(url: str, *overrides: str) -> Any:
    addresses = [f"endpoint_urls.{service}={url}" for service in SERVICES]
    return load_profile(ROOT / "job_specs/platforms/sagemaker.yaml", [*addresses, *overrides])


def client(aws: SageMakerDouble, *overrides: str, keys: dict[str, str] = KEYS) -> SageMakerClient:
    connected = ROW.connect(profile(aws.url, *overrides), keys)
    assert isinstance(connected, SageMakerClient)
    return connected


def request(aws: SageMakerDouble, name: str = "tiny-1", *overrides: str) -> dict[str, Any]:
    spec = parse_spec(tiny_values("s3://data/tiny", "s3://data/runs"), "tiny")
    return ROW.request(Submission(name, spec), profile(aws.url, *overrides))


def started(aws: SageMakerDouble, *overrides: str) -> SageMakerClient:
    connected = client(aws)
    connected.submit(request(aws, "tiny-1", *overrides))
    aws.calls.clear()
    return connected


def without_keys(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """As on a machine that knows no credentials at all."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(folder / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(folder / "credentials"))
