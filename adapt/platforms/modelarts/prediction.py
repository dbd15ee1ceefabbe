"""The training jobs that predict a set, one for each slice."""

import shlex
from typing import Any

from adapt.errors import JobError
from adapt.platforms.modelarts.profile import ModelArtsProfile
from adapt.platforms.modelarts.request import (
    MAX_VALUE,
    NAME_PREFIX,
    annotations,
    check_variables,
    spec_of,
)
from adapt.platforms.platform import Request
from adapt.platforms.prediction import (
    PROGRAM,
    Sliced,
    check_one_gpu,
    check_uris,
)
from storage.uris import split_uri

_WITH_KEYS = ("obs", "s3", "az", "azure")
"""Schemes whose stores jobs reach by keys in variables alone."""


def prediction_requests(prediction: Sliced, profile: ModelArtsProfile) -> dict[str, Request]:
    """The bodies by the jobs' names. Raises `JobError` for paths that no volume has, and for stores
    that need keys which the jobs do not get."""
    check_one_gpu(profile)
    read = [volume.path for volume in profile.volumes]
    written = [volume.path for volume in profile.volumes if not volume.read_only]
    check_uris(prediction, "volumes of the profile", read, written)
    _check_keys(prediction, profile)
    one = profile.model_copy(update={"nodes": 1})
    found = {}
    for number in prediction.slices:
        name = NAME_PREFIX + prediction.name_of(number)
        found[name] = {
            "kind": "job",
            "metadata": {
                "name": name,
                "description": f"SegAdapt: {prediction.command}, slice {number} of "
                f"{prediction.num_slices}",
                "workspace_id": profile.workspace_id,
                **annotations(profile),
            },
            "algorithm": {
                "engine": {"image_url": profile.image},
                "command": shlex.join([*PROGRAM, *prediction.arguments(number)]),
                "environments": _variables(prediction, profile),
            },
            "spec": spec_of(one),
        }
    return found


def _variables(prediction: Sliced, profile: ModelArtsProfile) -> dict[str, Any]:
    plain = prediction.environment(profile, profile.grace_s)
    check_variables(plain, profile)
    spec = prediction.spec_variable(MAX_VALUE)
    return {**plain, **spec, **{name: {"from_environment": name} for name in profile.secrets}}


def _check_keys(prediction: Sliced, profile: ModelArtsProfile) -> None:
    needy = [uri for _, uri, *_ in prediction.uris if split_uri(uri)[0] in _WITH_KEYS]
    if needy and not profile.secrets:
        raise JobError(
            f"secrets: expected the keys with which jobs reach {needy[0]!r}, got none",
            "name their variables in secrets of the profile, or mount the bucket in volumes and "
            "name its path",
        )
