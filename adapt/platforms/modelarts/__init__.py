"""Huawei ModelArts, training jobs and real-time services of the second version of its API: profile,
request and endpoint_request, client and endpoints."""

from adapt.platforms.endpoint import Serving
from adapt.platforms.modelarts.client import connect
from adapt.platforms.modelarts.endpoint_request import (
    access,
    endpoint_request,
    on_machines,
    reach,
)
from adapt.platforms.modelarts.endpoints import connect_endpoints
from adapt.platforms.modelarts.prediction import prediction_requests
from adapt.platforms.modelarts.profile import ModelArtsProfile
from adapt.platforms.modelarts.request import request
from adapt.platforms.platform import Platform

MODELARTS = Platform(
    profile=ModelArtsProfile,
    request=request,
    connect=connect,
    grace_s=lambda profile: profile.grace_s,
    restarts=lambda profile: profile.restarts > 0 and profile.restart_always,
    predict=prediction_requests,
    serving=Serving(
        request=endpoint_request,
        connect=connect_endpoints,
        replicas=lambda profile: (profile.serve.replicas, profile.serve.replicas),
        reach=reach,
        access=access,
        on_machines=on_machines,
    ),
)
"""The row of PLATFORMS."""
