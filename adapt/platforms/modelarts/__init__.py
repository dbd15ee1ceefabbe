"""Huawei ModelArts, training jobs of the second version of its API: profile, request, client."""

from adapt.platforms.modelarts.client import connect
from adapt.platforms.modelarts.profile import ModelArtsProfile
from adapt.platforms.modelarts.request import request
from adapt.platforms.platform import Platform

MODELARTS = Platform(
    profile=ModelArtsProfile,
    request=request,
    connect=connect,
    grace_s=lambda profile: profile.grace_s,
    restarts=lambda profile: profile.restarts > 0 and profile.restart_always,
)
"""The row of PLATFORMS."""
