"""AWS SageMaker: training jobs, processing jobs (for sets) and endpoints. `profile`, `request`,
`prediction` and `endpoint_request` (pure, checked against AWS's own model by `limits`), and
`client` and `endpoints` (with `api`, `job_kinds`, `logs`, `checks`, `errors`), which send them."""

from adapt.platforms.endpoint import Serving
from adapt.platforms.platform import Platform
from adapt.platforms.sagemaker.client import SageMakerClient
from adapt.platforms.sagemaker.endpoint_request import (
    access,
    after_ready,
    endpoint_request,
    on_machines,
    reach,
)
from adapt.platforms.sagemaker.endpoints import SageMakerEndpoints
from adapt.platforms.sagemaker.prediction import prediction_facts, prediction_requests
from adapt.platforms.sagemaker.profile import SageMakerProfile
from adapt.platforms.sagemaker.request import GRACE_S, request

__all__ = ["SAGEMAKER", "SageMakerClient", "SageMakerProfile", "request"]

SAGEMAKER = Platform(
    profile=SageMakerProfile,
    request=request,
    connect=SageMakerClient,
    grace_s=lambda _profile: GRACE_S,
    restarts=lambda profile: profile.spot,
    predict=prediction_requests,
    predict_facts=prediction_facts,
    serving=Serving(
        request=endpoint_request,
        connect=SageMakerEndpoints,
        replicas=lambda profile: profile.serve.bounds,
        reach=reach,
        access=access,
        on_machines=on_machines,
        after_ready=after_ready,
        takes_settings=False,
    ),
)
"""The row of PLATFORMS."""
