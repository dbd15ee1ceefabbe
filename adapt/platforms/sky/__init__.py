"""sky: the platform's row."""

from adapt.platforms.platform import Platform
from adapt.platforms.sky.client import connect
from adapt.platforms.sky.profile import SkyProfile
from adapt.platforms.sky.request import prediction_requests, request

SKY = Platform(
    profile=SkyProfile,
    request=request,
    connect=connect,
    grace_s=lambda profile: float(profile.grace_s),
    restarts=lambda _profile: True,
    predict=prediction_requests,
)
