"""Models of GPUs: their compute capability, compared with the CUDA of a profile's image.

Source: NVIDIA's list of CUDA GPUs.
"""

import re

from adapt.engine.gpu import CUDAS, OTHER
from adapt.errors import JobError
from adapt.platforms.platform import Profile

CAPABILITIES = {
    "K80": (3, 7),
    "M60": (5, 2),
    "P4": (6, 1),
    "P40": (6, 1),
    "P100": (6, 0),
    "V100": (7, 0),
    "T4": (7, 5),
    "A100": (8, 0),
    "A10": (8, 6),
    "A10G": (8, 6),
    "A40": (8, 6),
    "L4": (8, 9),
    "L40S": (8, 9),
    "H100": (9, 0),
    "H200": (9, 0),
    "B200": (10, 0),
    "RTX PRO 6000": (12, 0),
}
"""By model."""

_LONGEST_FIRST = sorted(CAPABILITIES, key=len, reverse=True)


def model_in(text: str) -> str | None:
    """The model in a text, such as NVIDIA-V100 or Tesla T4; None where it has none that we know."""
    words = re.sub(r"[-_]", " ", text)
    for model in _LONGEST_FIRST:
        if re.search(rf"(?<![a-z0-9]){model}(?![a-z0-9])", words, re.IGNORECASE):
            return model
    return None


def check_gpus(profile: Profile, seen: str | None = None, seen_driver: int | None = None) -> str:
    """Describe the GPUs of a profile's machines. What the platform shows of them, the model and
    the driver, goes before what the profile says.

    Raises `JobError` where its image has no kernels for them, or needs a newer driver.
    """
    needs, model = CUDAS[profile.cuda], model_in(seen or profile.gpu_model() or "")
    version = seen_driver or profile.driver
    if version is not None and version < needs.driver:
        raise JobError(
            f"driver: expected {needs.driver} or later, as CUDA {profile.cuda} of the image needs, "
            f"got {version}",
            fix="take machines with a newer driver, or build the image with --build-arg CUDA=12 "
            "and set cuda: 12",
        )
    driver = version or f"of unknown version (CUDA {profile.cuda} needs {needs.driver})"
    if model is None:
        return f"of a model that is not known (no gpu in the profile); driver {driver}"
    major, minor = CAPABILITIES[model]
    too_new = needs.newest_major is not None and major > needs.newest_major
    if (major, minor) < needs.capability or too_new:
        least = f"{needs.capability[0]}.{needs.capability[1]}"
        last = "or later" if needs.newest_major is None else f"to {needs.newest_major}.x"
        raise JobError(
            f"gpu: expected compute capability {least} {last}, for which CUDA {profile.cuda} of "
            f"the image has kernels, got {model} with {major}.{minor}",
            fix="build the image for CUDA 13 and remove cuda: 12"
            if too_new
            else f"{OTHER}, and set cuda: 12",
        )
    return f"{model}, compute capability {major}.{minor}; driver {driver}"
