"""docker: the platform's row."""

from collections.abc import Mapping

from adapt.platforms.docker.client import DockerClient, connect
from adapt.platforms.docker.endpoint_request import access, endpoint_request, reach
from adapt.platforms.docker.endpoints import connect_endpoints
from adapt.platforms.docker.prediction import prediction_requests
from adapt.platforms.docker.profile import DockerProfile
from adapt.platforms.docker.request import request
from adapt.platforms.endpoint import Serving
from adapt.platforms.platform import Platform


def _connect(profile: DockerProfile, environment: Mapping[str, str]) -> DockerClient:
    return connect(profile.engine_uri, environment)


DOCKER = Platform(
    profile=DockerProfile,
    request=request,
    connect=_connect,
    grace_s=lambda profile: float(profile.grace_s),
    restarts=lambda _profile: False,
    predict=prediction_requests,
    serving=Serving(
        request=endpoint_request,
        connect=connect_endpoints,
        replicas=lambda _profile: (1, 1),
        reach=reach,
        access=access,
        takes_paths=True,
    ),
)
