"""Images of any size, down to one pixel: padded for the encoder, and cut back."""

import pytest
import torch
import torch.nn.functional as F

from adapt.batch import IGNORED
from adapt.models import ARCHITECTURES, ENCODERS, build_encoder, build_segmenter
from adapt.models.encoders.encoder import UNDILATED_STRIDE
from tests.networks import tiny_model

torch.set_num_threads(1)
OUTPUT_STRIDES = {"caffe": 8, "unet": 16, "frrn_a": 16}
"""Of our own encoders, by how their names begin, where it is not 32."""

OF_TIMM = [
    *(("vgg16", 8), ("vgg16_bn", 32), ("densenet121", 8), ("densenet121", 32), ("resnet18", 16)),
    *(("mobilenetv3_small_100", 32), ("efficientnet_b0", 32), ("convnext_atto", 8)),
    *(("convnext_atto", 32), ("nasnetalarge", 32), ("pnasnet5large", 32), ("test_resnet", 32)),
]


def _stride(name: str) -> int:
    found = (stride for start, stride in OUTPUT_STRIDES.items() if name.startswith(start))
    return next(found, UNDILATED_STRIDE)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "stride"), [*((one, _stride(one)) for one in ENCODERS), *OF_TIMM])
def test_an_encoders_smallest_side_gives_every_stage_a_pixel(name: str, stride: int) -> None:
    with torch.device("meta"), torch.no_grad():
        encoder = build_encoder(name, stride).eval()
        side = encoder.smallest_side_px
        for size_hw in ((side, side), (side, 3 * side + 1)):
            stages = encoder(torch.empty(1, 3, *size_hw))
            assert all(min(stage.shape[-2:]) >= 1 for stage in stages), size_hw


@pytest.mark.slow
@pytest.mark.parametrize("size_hw", [(1, 1), (7, 40), (16, 16), (31, 33)], ids=str)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_learns_from_small_images(
    architecture: str, size_hw: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    segmenter = build_segmenter(tiny_model(architecture), 4).train()
    prediction = segmenter(torch.randn(1, 3, *size_hw))
    assert all(logits.shape == (1, 4, *size_hw) for logits in prediction.logits)
    labels = torch.randint(4, (1, *size_hw))
    losses = segmenter.segmentation_losses(prediction, labels).values()
    torch.stack([weight * loss for weight, loss in losses]).sum().backward()
    gradients = [one.grad for one in segmenter.parameters() if one.grad is not None]
    assert gradients and all(gradient.isfinite().all() for gradient in gradients)
    assert any(gradient.any() for gradient in gradients)
    ignored = segmenter.segmentation_losses(prediction, torch.full_like(labels, IGNORED))
    assert all(loss.isfinite() for _, loss in ignored.values())


@pytest.mark.parametrize("architecture", ["unet", "frrn", "icnet", "dfn"])
def test_logits_are_those_of_the_padded_image(architecture: str) -> None:
    segmenter = build_segmenter(tiny_model(architecture), 4).eval()
    side = segmenter.encoder.smallest_side_px
    images = torch.randn(1, 3, side - 5, side + 9)
    padded = F.pad(images, (0, 0, 0, 5), mode="replicate")
    with torch.no_grad():
        found, whole = segmenter(images).logits, segmenter(padded).logits
    for part, logits in zip(found, whole, strict=True):
        torch.testing.assert_close(part, logits[:, :, :-5])
    assert segmenter(images, size_hw=(64, 80)).logits[0].shape == (1, 4, 64, 80)
