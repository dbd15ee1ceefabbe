"""GPUs of profiles against the CUDA of their image."""

from typing import Any

import pytest

from adapt.errors import JobError
from adapt.platforms.gpus import check_gpus, model_in
from adapt.platforms.platform import Profile
from adapt.platforms.sagemaker.machines import _GPUS
from tests.platforms.modelarts_samples import profile_of


def generic(**more: Any) -> Profile:
    return Profile.from_values({"platform": "p", "image": "i", **more}, "profile")


@pytest.mark.parametrize(
    ("text", "model"),
    [
        ("NVIDIA-V100", "V100"),
        ("Tesla V100-SXM2-32GB", "V100"),
        ("nvidia a100 80gb", "A100"),
        ("A10G", "A10G"),
        ("NVIDIA L40S", "L40S"),
        ("RTX PRO 6000", "RTX PRO 6000"),
        ("modelarts.vm.gpu.t4", "T4"),
        ("GA100X", None),
        ("", None),
    ],
)
def test_models_are_found_in_names(text: str, model: str | None) -> None:
    assert model_in(text) == model


def test_every_machine_of_sagemaker_has_a_model_that_is_known() -> None:
    assert all(model_in(model) == model for model, _, _ in _GPUS.values())


@pytest.mark.parametrize(
    ("profile", "said"),
    [
        (
            generic(gpu="V100"),
            "gpu: expected compute capability 7.5 or later, .* got V100 with 7.0",
        ),
        (generic(gpu="K80", cuda=12), "expected compute capability 5.0 to 9.x"),
        (generic(gpu="B200", cuda=12), "got B200 with 10.0. Fix: build the image for CUDA 13"),
        (
            generic(driver=570),
            "driver: expected 580 or later, as CUDA 13 of the image needs, got 57",
        ),
        (generic(gpu="A100", driver=510, cuda=12), "driver: expected 525 or later"),
        (profile_of(), "got V100 with 7.0. Fix: take machines .*CUDA=12, and set cuda: 12"),
    ],
)
def test_gpus_that_the_image_cannot_run_on_are_refused(profile: Profile, said: str) -> None:
    with pytest.raises(JobError, match=said):
        check_gpus(profile)


@pytest.mark.parametrize(
    ("profile", "said"),
    [
        (profile_of(cuda=12), "V100, compute capability 7.0; driver of unknown version"),
        (generic(gpu="T4", driver=580), "T4, compute capability 7.5; driver 580"),
        (generic(), "of a model that is not known (no gpu in the profile); driver of unknown"),
    ],
)
def test_gpus_that_fit_are_named(profile: Profile, said: str) -> None:
    assert check_gpus(profile).startswith(said)
