"""The pyramid of a vision transformer: strides, sizes, and every architecture on it."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from adapt.models import ARCHITECTURES, build_encoder, build_segmenter
from adapt.models.encoders.vit import ViTEncoder
from tests.networks import tiny_model

torch.set_num_threads(1)
OVER_ANY_ENCODER = [
    name
    for name, row in ARCHITECTURES.items()
    if not (row.demands.encoders or row.demands.equal_strides)
]
STRIDES = {8: (4, 8, 8, 8), 16: (4, 8, 16, 16), 32: (4, 8, 16, 32)}


@pytest.mark.parametrize(("output_stride", "reductions"), STRIDES.items())
@pytest.mark.parametrize("name", ["vit_small_patch14_dinov2", "test_vit", "vit_base_patch32_224"])
def test_stages_have_the_strides_of_a_cnn(
    name: str, output_stride: int, reductions: tuple[int, ...]
) -> None:
    with torch.device("meta"), torch.no_grad():
        encoder = build_encoder(name, output_stride)
        stages = encoder(torch.empty(1, 3, 97, 161))
    assert (encoder.reductions, encoder.output_stride) == (reductions, output_stride)
    assert encoder.multiple_px == (32 if "patch32" in name else 16)
    sizes = [(-(-97 // one), -(-161 // one)) for one in reductions]
    assert [tuple(stage.shape[-2:]) for stage in stages] == sizes


def test_stages_are_the_resized_tokens() -> None:
    torch.manual_seed(0)
    pyramid: Any = build_encoder("test_vit", 32).eval()
    plain: Any = ViTEncoder("test_vit").eval()
    plain.load_state_dict(pyramid.state_dict())
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        stages, tokens = pyramid(images), plain(images)
    for stage, token, scale in zip(stages, tokens, (4, 2, 1, 0.5), strict=True):
        expected = F.interpolate(token, scale_factor=scale, mode="bilinear", align_corners=False)
        torch.testing.assert_close(stage, expected)
    assert torch.equal(stages[2], tokens[2])


@pytest.mark.parametrize("name", OVER_ANY_ENCODER)
def test_every_architecture_over_a_vision_transformer(name: str) -> None:
    stride = tiny_model(name)["output_stride"]
    values = {**tiny_model(name), "encoder": "test_vit", "output_stride": stride}
    with torch.device("meta"):
        segmenter = build_segmenter(values, 5).train()
        prediction = segmenter(torch.empty(2, 3, 97, 161))
    assert {logits.shape for logits in prediction.logits} == {(2, 5, 97, 161)}


@pytest.mark.parametrize("name", ["deeplab_v2", "unet"])
def test_logits_are_those_of_the_image_padded_to_whole_patches(name: str) -> None:
    torch.manual_seed(0)
    segmenter = build_segmenter({**tiny_model(name), "encoder": "test_vit"}, 4).eval()
    images = torch.randn(1, 3, 90, 64)
    padded = F.pad(images, (0, 0, 0, 6), mode="replicate")
    with torch.no_grad():
        found, whole = segmenter(images).logits, segmenter(padded).logits
    for part, logits in zip(found, whole, strict=True):
        assert part.shape == (1, 4, 90, 64)
        torch.testing.assert_close(part, logits[:, :, :90])
