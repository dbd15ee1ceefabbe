"""AWS SageMaker training jobs: `profile`, `request` (pure, checked against AWS's own model by
`limits`), and `client` (with `logs`, `checks`, `errors`), which sends it."""

from adapt.platforms.platform import Platform
from adapt.platforms.sagemaker.client import SageMakerClient
from adapt.platforms.sagemaker.profile import SageMakerProfile
from adapt.platforms.sagemaker.request import GRACE_S, request

__all__ = ["SAGEMAKER", "SageMakerClient", "SageMakerProfile", "request"]

SAGEMAKER = Platform(
    profile=SageMakerProfile,
    request=request,
    connect=SageMakerClient,
    grace_s=lambda _profile: GRACE_S,
    restarts=lambda profile: profile.spot,
)
"""The row of PLATFORMS."""
