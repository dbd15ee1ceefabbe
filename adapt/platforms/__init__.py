"""Platforms for jobs: one package each, one row of PLATFORMS, one profile in
`job_specs/platforms/`; and the local stack of real servers.

The platforms' own libraries are imported where they are used, so that a job's image needs none of
them (`requirements-submit.txt`).
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from adapt.config.secrets import refuse_secrets
from adapt.config.strict_yaml import read_yaml, with_overrides
from adapt.config.validation import validate
from adapt.errors import JobError, known_names
from adapt.platforms.docker import DOCKER
from adapt.platforms.kubernetes import KUBERNETES
from adapt.platforms.modelarts import MODELARTS
from adapt.platforms.platform import Platform, Profile
from adapt.platforms.sagemaker import SAGEMAKER
from adapt.platforms.sky import SKY
from adapt.platforms.slurm import SLURM
from adapt.spec.shipped import find_file

PLATFORMS: dict[str, Platform] = {
    "sagemaker": SAGEMAKER,
    "docker": DOCKER,
    "modelarts": MODELARTS,
    "kubernetes": KUBERNETES,
    "slurm": SLURM,
    "sky": SKY,
}
"""By the profile's `platform`."""


def load_profile(path: Path | str, overrides: Iterable[str] = ()) -> Profile:
    """Read a profile, whose `platform` names its row of PLATFORMS: a YAML file, or a shipped one by
    its name (`platforms/docker`).

    Raises `JobError` with a line for each mistake.
    """
    values = with_overrides(read_yaml(find_file(path, "--to")), overrides)
    name = values.get("platform")
    try:
        refuse_secrets(values)
        if "platform" not in values:
            expected = ", ".join(sorted(PLATFORMS))
            raise JobError(f"platform: missing, expected one of {expected}")
        if not isinstance(name, str) or name not in PLATFORMS:
            raise JobError(f"platform: expected a known name, {known_names(name, PLATFORMS)}")
        return validate(PLATFORMS[name].profile, values)
    except JobError as error:
        raise JobError(f"{path}: {error.problem}", error.fix) from error


def recorded_profile(name: str, platform: str, values: Mapping[str, Any]) -> Profile:
    """The profile in the record of a job or an endpoint called `name`. Raises `JobError`."""
    if platform not in PLATFORMS:
        raise JobError(f"{name}: expected a known platform, {known_names(platform, PLATFORMS)}")
    return validate(PLATFORMS[platform].profile, dict(values))
