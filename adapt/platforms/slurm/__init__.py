"""slurm: the platform's row."""

from adapt.platforms.platform import Platform
from adapt.platforms.slurm.client import connect
from adapt.platforms.slurm.profile import SlurmProfile
from adapt.platforms.slurm.request import prediction_requests, request

SLURM = Platform(
    profile=SlurmProfile,
    request=request,
    connect=connect,
    grace_s=lambda profile: float(profile.grace_s),
    restarts=lambda profile: profile.restarts > 0,
    predict=prediction_requests,
)
