"""What DAFormer's head promises beyond the contract: context by separable convolutions at 1/4."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from adapt.check.memory import predicted_bytes
from adapt.models import build_segmenter
from adapt.models.decoders.daformer_head import ContextFusion, separable_conv
from tests.check.test_memory import job_of, real_peak
from tests.networks import random_stages

torch.set_num_threads(1)
NUM_CLASSES = 5
IMAGE_HW = (64, 96)


def _build(encoder: str = "mit_b0", **changes: Any) -> Any:
    torch.manual_seed(0)
    values = {"architecture": "daformer_head", "encoder": encoder, "weights": "none", "width": 16}
    return build_segmenter({**values, **changes}, NUM_CLASSES).eval()


@torch.no_grad()
def test_a_separable_convolution_by_hand() -> None:
    """One pixel of 1 in channel 0, of 2 in channel 1: each spreads by its own kernel, then both
    are summed with weights 1 and 10; norms are open, and ReLUs cut nothing."""
    conv: Any = separable_conv(2, 1, dilation=2).eval()
    kernels = torch.arange(1.0, 19.0).view(2, 1, 3, 3)
    conv[0][0].weight.copy_(kernels)
    conv[1][0].weight[0, :, 0, 0] = torch.tensor([1.0, 10.0])
    conv[0][1].eps = conv[1][1].eps = 0
    images = torch.zeros(1, 2, 7, 7)
    images[0, :, 3, 3] = torch.tensor([1.0, 2.0])
    expected = torch.zeros(7, 7)
    for row in range(3):
        for column in range(3):
            weights = kernels[:, 0, 2 - row, 2 - column]
            expected[1 + 2 * row, 1 + 2 * column] = weights[0] + 20 * weights[1]
    torch.testing.assert_close(conv(images)[0, 0], expected)
    assert [type(one).__name__ for one in (conv[0][2], conv[1][2])] == ["ReLU", "ReLU"]


@torch.no_grad()
def test_the_fusion_joins_four_branches_by_3x3() -> None:
    torch.manual_seed(0)
    fusion: Any = ContextFusion(8, 6).double().eval()
    features = torch.randn(1, 8, 40, 44, dtype=torch.float64)
    branches = [F.conv2d(features, fusion.branches[0][0].weight)]
    for branch, rate in zip(list(fusion.branches)[1:], (6, 12, 18), strict=True):
        depthwise, pointwise = branch[0][0].weight, branch[1][0].weight
        near = F.conv2d(features, depthwise, padding=rate, dilation=rate, groups=8)
        branches.append(F.conv2d((near / (1 + 1e-5) ** 0.5).relu(), pointwise))
    joined = torch.cat([(one / (1 + 1e-5) ** 0.5).relu() for one in branches], dim=1)
    expected = F.conv2d(joined, fusion.join[0].weight, padding=1) / (1 + 1e-5) ** 0.5
    torch.testing.assert_close(fusion(features), expected.relu(), rtol=1e-11, atol=1e-11)


def _heads(segmenter: Any, stages: list[Tensor]) -> list[Tensor]:
    heads, _ = segmenter.decoder(torch.empty(1, 3, *IMAGE_HW), tuple(stages))
    return heads


def test_the_decoder_has_as_many_parameters_as_the_paper_says() -> None:
    """3.7 M over MiT-B5 without the auxiliary head, which is ours."""
    values = {"architecture": "daformer_head", "weights": "none", "aux": False}
    with torch.device("meta"):
        decoder = build_segmenter(values, 19).decoder
    assert sum(parameter.numel() for parameter in decoder.parameters()) == 3_712_275


@pytest.mark.parametrize(
    ("encoder", "output_stride"), [("mit_b0", 32), ("resnet18", 8), ("resnet18", 32)]
)
def test_heads_read_all_stages_from_a_quarter_on(encoder: str, output_stride: int) -> None:
    segmenter = _build(encoder, output_stride=output_stride)
    stages = random_stages(segmenter, IMAGE_HW)
    main, aux = _heads(segmenter, stages)
    assert main.shape == (1, NUM_CLASSES, 16, 24)
    last = len(stages) - 1
    for logits, expected in ((main, [last - 3, last - 2, last - 1, last]), (aux, [last - 1])):
        gradients = torch.autograd.grad(logits.sum(), stages, allow_unused=True)
        assert [level for level, one in enumerate(gradients) if one is not None] == expected


@pytest.mark.slow
def test_memory_over_transformers_is_predicted() -> None:
    job = job_of("daformer_head", "source_only", (64, 96))
    model = job.model.model_copy(update={"encoder": "mit_b0", "width": 16})
    job = job.model_copy(update={"model": model})
    assert predicted_bytes(job, 1).total == pytest.approx(real_peak(job).total, rel=0.01)
