"""What VFM-UDA's head promises beyond the contract: tokens enlarged by transposed convolutions."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from adapt.models import build_segmenter
from adapt.models.decoders.vfm_head import upscaling
from tests.networks import random_stages

torch.set_num_threads(1)
NUM_CLASSES = 5
IMAGE_HW = (32, 48)


def _build(**changes: Any) -> Any:
    torch.manual_seed(0)
    values = {"architecture": "vfm_head", "encoder": "test_vit", "weights": "none"}
    return build_segmenter({**values, **changes}, NUM_CLASSES).eval()


def _heads(segmenter: Any, stages: list[Tensor]) -> list[Tensor]:
    heads, _ = segmenter.decoder(torch.empty(1, 3, *IMAGE_HW), tuple(stages))
    return heads


def _doubled(maps: Tensor, weight: Tensor) -> Tensor:
    """Each pixel's four new ones, by hand: (B, C, h, w), (C, C', 2, 2) -> (B, C', 2 h, 2 w)."""
    batch, _, height, width = maps.shape
    fourfold = torch.einsum("bchw,cdyx->bdhywx", maps, weight)
    return fourfold.reshape(batch, weight.shape[1], 2 * height, 2 * width)


def _normed(maps: Tensor, norm: Any) -> Tensor:
    """Over channels, pixel by pixel."""
    mean = maps.mean(dim=1, keepdim=True)
    variance = maps.var(dim=1, keepdim=True, correction=0)
    scaled = (maps - mean) / (variance + 1e-6).sqrt()
    return scaled * norm.weight[:, None, None] + norm.bias[:, None, None]


@torch.no_grad()
def test_the_head_computes_the_programs_formulas() -> None:
    segmenter = _build().double()
    decoder = segmenter.decoder
    for parameter in decoder.parameters():
        torch.nn.init.normal_(parameter)
    features = [stage.double() for stage in random_stages(segmenter, IMAGE_HW)]
    first, first_norm, _, second, second_norm, conv, last_norm = decoder.upscale
    maps = F.gelu(_normed(_doubled(features[-1], first.weight), first_norm))
    maps = _normed(_doubled(maps, second.weight), second_norm)
    maps = _normed(F.conv2d(maps, conv.weight, padding=1), last_norm)
    expected = torch.einsum("bchw,kc->bkhw", maps, decoder.classifier.weight[:, :, 0, 0])
    main, aux = _heads(segmenter, features)
    torch.testing.assert_close(main, expected, rtol=1e-10, atol=1e-10)
    assert (main.shape, aux.shape) == ((1, NUM_CLASSES, 8, 12), (1, NUM_CLASSES, 2, 3))


@torch.no_grad()
def test_a_token_is_doubled_by_hand() -> None:
    """Channels 1 and 2 of a token by kernels of 1 to 8: 1 k + 2 (k + 4), then layer norm."""
    upscale: Any = upscaling(4)
    assert [one.out_channels for one in (upscale[0], upscale[3], upscale[5])] == [2, 1, 1]
    kernels = torch.zeros(4, 2, 2, 2)
    kernels[:2, 0] = torch.arange(1.0, 9.0).view(2, 2, 2)
    upscale[0].weight.copy_(kernels)
    token = torch.tensor([1.0, 2.0, 0.0, 0.0]).view(1, 4, 1, 1)
    expected = torch.tensor([[11.0, 14.0], [17.0, 20.0]])
    torch.testing.assert_close(upscale[0](token)[0, 0], expected)


def test_heads_read_their_stages_alone() -> None:
    segmenter = _build()
    features = random_stages(segmenter, IMAGE_HW)
    main, aux = _heads(segmenter, features)
    for logits, expected in ((main, [3]), (aux, [2])):
        gradients = torch.autograd.grad(logits.sum(), features, allow_unused=True)
        assert [level for level, one in enumerate(gradients) if one is not None] == expected


def test_starts_as_the_program_does() -> None:
    with torch.device("cpu"):
        classifier = _build(encoder="vit_tiny_patch16_224").decoder.classifier
    assert classifier.bias is None
    assert classifier.weight.std().item() == pytest.approx(0.1, rel=0.1)


def test_parameters_are_those_of_the_program() -> None:
    """Of DINOv2-L: 2x2 and 3x3 kernels without biases, three norms, 19 classes."""
    with torch.device("meta"):
        decoder = _build(encoder="vit_large_patch14_dinov2", aux=False).decoder
    transposed = 4 * (1024 * 512 + 512 * 256)
    norms = 2 * (512 + 256 + 256)
    expected = transposed + norms + 9 * 256 * 256 + 256 * NUM_CLASSES
    assert sum(parameter.numel() for parameter in decoder.parameters()) == expected
