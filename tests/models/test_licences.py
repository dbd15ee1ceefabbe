"""Licences of pretrained weights that a job has to accept."""

from typing import Any

import pytest

from adapt.config.validation import validate
from adapt.errors import JobError
from adapt.models import ModelSection, build_segmenter
from adapt.models.encoders.pretrained import weights_licence
from adapt.models.licences import RESTRICTED, check_licence

GATED = "vit_small_patch16_dinov3"
FILE = "file:///dinov3.pth"


def _config(encoder: str = GATED, **keys: Any) -> Any:
    return validate(ModelSection, {"architecture": "pspnet", "encoder": encoder, **keys}, "model")


@pytest.mark.parametrize(
    ("encoder", "licence"),
    [
        (GATED, "dinov3-license"),
        ("vit_large_patch16_dinov3.sat493m", "dinov3-license"),
        ("convnext_tiny.dinov3_lvd1689m", "dinov3-license"),
        ("convnext_tiny.eupe_lvd1689m", "fair-noncommercial-research-license"),
        ("convnextv2_atto.fcmae", "cc-by-nc-4.0"),
        ("vit_base_patch16_radio_v3", "nvidia-open-model-license"),
    ],
)
def test_gated_and_non_commercial_weights_are_accepted_in_words(encoder: str, licence: str) -> None:
    message = (
        rf"model.accept_license: expected '{licence}' \({RESTRICTED[licence]}\), the licence of "
        rf"the weights of '{encoder}.*', got null.*read it at https://huggingface.co/timm/{encoder}"
        rf".* and write model.accept_license: {licence}"
    )
    with pytest.raises(JobError, match=message):
        check_licence(_config(encoder))
    with pytest.raises(JobError, match="got 'mit'"):
        check_licence(_config(encoder, accept_license="mit"))
    check_licence(_config(encoder, accept_license=licence))


@pytest.mark.parametrize(
    "keys",
    [{"weights": "none"}, {"start_uri": FILE}, {"start_uri": FILE, "weights_uri": FILE}],
    ids=str,
)
def test_networks_without_such_weights_need_no_word(keys: dict[str, Any]) -> None:
    check_licence(_config(**keys))


def test_nvidias_weights_need_its_licence() -> None:
    message = (
        r"model.accept_license: expected 'nvidia-segformer' \(NVIDIA's own terms, for non-"
        r"commercial use alone\), the licence of the weights of 'mit_b5', got null.*com/NVlabs"
    )
    config = _config("mit_b5", output_stride=32, weights_uri=FILE)
    with pytest.raises(JobError, match=message):
        check_licence(config)
    check_licence(config.model_copy(update={"accept_license": "nvidia-segformer"}))
    check_licence(_config("mit_b5", output_stride=32, weights="none"))


def test_files_of_such_weights_need_it_too() -> None:
    with pytest.raises(JobError, match=r"model.accept_license: expected 'dinov3-license'"):
        check_licence(_config(weights="none", weights_uri=FILE))


@pytest.mark.parametrize(
    "encoder", ["resnet101", "caffe_resnet101", "vit_base_patch14_dinov2", "eva02_tiny_patch14_336"]
)
def test_permissive_weights_need_no_word(encoder: str) -> None:
    check_licence(_config(encoder))


@pytest.mark.parametrize(
    "encoder",
    [
        *("vit_large_patch14_dinov2", "vit_base_patch14_reg4_dinov2"),
        *("vit_base_patch14_reg1_tipsv2", "vit_pe_spatial_large_patch14_448"),
    ],
)
def test_the_default_families_are_apache(encoder: str) -> None:
    assert weights_licence(encoder) == "apache-2.0"


def test_networks_are_not_built_before_it_is_accepted() -> None:
    with pytest.raises(JobError, match=r"model.accept_license"):
        build_segmenter({"architecture": "pspnet", "encoder": GATED})
