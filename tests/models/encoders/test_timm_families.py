"""Backbones of timm that give channels last, or refuse most sizes of images."""

from typing import Any

import pytest
import timm
import torch

from adapt.errors import JobError
from adapt.models import build_encoder, build_segmenter

torch.set_num_threads(1)
NAMES = (
    *("swin_tiny_patch4_window7_224", "swin_s3_tiny_224", "swinv2_tiny_window8_256"),
    *("swinv2_cr_tiny_ns_224", "sam2_hiera_tiny", "mambaout_femto", "davit_tiny"),
)


@pytest.mark.parametrize("name", NAMES)
def test_they_take_any_size_and_give_channels_first(name: str) -> None:
    with torch.device("meta"), torch.no_grad():
        encoder = build_encoder(name, 32)
        stages = encoder.eval()(torch.empty(1, 3, 97, 161))
    assert encoder.reductions == (4, 8, 16, 32)
    for stage, channels, step in zip(stages, encoder.channels, encoder.reductions, strict=True):
        assert stage.shape[1] == channels
        assert abs(stage.shape[2] - 97 / step) <= 1 and abs(stage.shape[3] - 161 / step) <= 1


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "test_mambaout"])
def test_stages_are_timms_own_turned(name: str) -> None:
    torch.manual_seed(0)
    encoder: Any = build_encoder(name, 32).eval()
    options = {"strict_img_size": False} if "swin" in name else {}
    own: Any = timm.create_model(name, **options)
    encoder.load(own.state_dict())
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = own.eval().forward_intermediates(images, intermediates_only=True)
        stages = encoder(images)
    for stage, other in zip(stages, expected[-4:], strict=True):
        torch.testing.assert_close(stage, other, rtol=1e-4, atol=1e-5)


def test_logits_are_cut_back_from_whole_windows() -> None:
    values = {"architecture": "deeplab_v2", "encoder": "swin_tiny_patch4_window7_224"}
    with torch.device("meta"):
        segmenter = build_segmenter({**values, "output_stride": 32, "weights": "none"}, 4)
        prediction = segmenter(torch.empty(1, 3, 97, 161))
    assert segmenter.encoder.multiple_px == 32
    assert prediction.logits[0].shape == (1, 4, 97, 161)


def test_they_have_one_output_stride() -> None:
    with pytest.raises(JobError, match=r"model.output_stride: expected 32, .* got 8"):
        build_encoder("swin_tiny_patch4_window7_224", 8)
