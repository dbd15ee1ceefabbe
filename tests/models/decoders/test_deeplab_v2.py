"""What DeepLabV2 promises beyond the contract of architectures."""

from typing import Any

import pytest
import torch

from adapt.models import build_segmenter
from adapt.models.decoders.deeplab_v2 import DeepLabV2Config

torch.set_num_threads(1)
NUM_CLASSES = 5


def _build(**changes: Any) -> Any:
    torch.manual_seed(0)
    values = {"encoder": "resnet18", "output_stride": 16, "weights": "none", **changes}
    return build_segmenter(DeepLabV2Config(**values), NUM_CLASSES)


@pytest.mark.parametrize(
    ("changes", "count"),
    [
        ({}, 44_601_560),
        ({"aux": False}, 43_901_068),
        ({"aspp_branches": 2}, 44_601_560),
    ],
)
def test_deeplab_v2_on_resnet101_has_the_papers_parameters(
    changes: dict[str, Any], count: int
) -> None:
    config = DeepLabV2Config(weights="none", **changes)
    with torch.device("meta"):
        segmenter = build_segmenter(config, num_classes=19)
    assert sum(parameter.numel() for parameter in segmenter.parameters()) == count


def test_deeplab_v2_sums_two_of_four_branches() -> None:
    torch.manual_seed(0)
    segmenter = _build(aspp_branches=2)
    features = torch.randn(1, segmenter.encoder.channels[-1], 9, 9)
    head = segmenter.decoder.heads[0]
    expected = head.branches[0](features) + head.branches[1](features)
    assert len(head.branches) == 4
    assert torch.equal(head(features), expected)
    assert not head.branches[2].weight.requires_grad
    assert [branch.dilation[0] for branch in head.branches] == [6, 12, 18, 24]


def test_deeplab_v2_auxiliary_head_reads_the_last_stage_but_one() -> None:
    for encoder, channels in (("resnet18", 256), ("tf_efficientnet_lite0", 112)):
        auxiliary = _build(encoder=encoder).decoder.heads[1]
        assert auxiliary.branches[0].in_channels == channels


def test_deeplab_v2_resizes_with_aligned_corners() -> None:
    segmenter = _build().eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        prediction = segmenter(images)
        low, _ = segmenter.decoder(images, prediction.features)
    assert segmenter.align_corners
    assert torch.equal(prediction.logits[0][..., 0, 0], low[0][..., 0, 0])
    torch.testing.assert_close(prediction.logits[0][..., -1, -1], low[0][..., -1, -1])
