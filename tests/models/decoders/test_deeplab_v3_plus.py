"""What DeepLabV3+ promises beyond the contract of architectures: a join at 1/4, then two 3x3."""

from typing import Any

import pytest
import torch
from torch import Tensor

from adapt.models import build_segmenter
from adapt.models.layers import resize
from tests.networks import random_stages

torch.set_num_threads(1)
NUM_CLASSES = 5
IMAGE_HW = (64, 96)
STRIDES = (8, 16, 32)


def _build(output_stride: int = 16) -> Any:
    torch.manual_seed(0)
    values = {"architecture": "deeplab_v3_plus", "encoder": "resnet18", "weights": "none"}
    return build_segmenter({**values, "output_stride": output_stride}, NUM_CLASSES).eval()


@pytest.fixture(scope="module", params=STRIDES)
def segmenter(request: pytest.FixtureRequest) -> Any:
    return _build(request.param)


def _stages(segmenter: Any) -> list[Tensor]:
    return random_stages(segmenter, IMAGE_HW)


def _heads(segmenter: Any, stages: list[Tensor]) -> list[Tensor]:
    heads, _ = segmenter.decoder(torch.empty(1, 3, *IMAGE_HW), tuple(stages))
    return heads


@torch.no_grad()
def test_the_pyramid_is_brought_to_a_quarter_and_joined_by_48_channels(segmenter: Any) -> None:
    seen: list[Tensor] = []
    decoder, stages = segmenter.decoder, _stages(segmenter)
    hook = decoder.refine.register_forward_pre_hook(lambda _, given: seen.append(*given))
    (main, _) = _heads(segmenter, stages)
    hook.remove()
    deep = resize(decoder.pyramid(stages[-1]), (16, 24), align_corners=False)
    shallow = decoder.shallow(stages[1])
    assert (deep.shape[1], shallow.shape[1]) == (256, 48)
    torch.testing.assert_close(seen[0], torch.cat([deep, shallow], dim=1))
    assert main.shape == (1, NUM_CLASSES, 16, 24)


def test_heads_read_their_stages_alone(segmenter: Any) -> None:
    stages = _stages(segmenter)
    main, aux = _heads(segmenter, stages)
    for logits, expected in ((main, [1, 4]), (aux, [3])):
        gradients = torch.autograd.grad(logits.sum(), stages, allow_unused=True)
        assert [level for level, one in enumerate(gradients) if one is not None] == expected


def test_two_3x3_refine_both_and_the_pyramid_alone_sees_the_whole_image() -> None:
    segmenter = _build()
    stages = _stages(segmenter)
    main, _ = _heads(segmenter, stages)
    shallow, deep = torch.autograd.grad(main[0, 0, 8, 12], (stages[1], stages[-1]))
    rows, columns = shallow[0].any(dim=0).nonzero().unbind(dim=1)
    assert set(rows.tolist()) == {6, 7, 8, 9, 10}
    assert set(columns.tolist()) == {10, 11, 12, 13, 14}
    assert deep[0].any(dim=0).all()


@pytest.mark.parametrize("size_hw", [(64, 96), (97, 161)])
@torch.no_grad()
def test_the_decoders_own_size_is_a_quarter_of_the_images(
    segmenter: Any, size_hw: tuple[int, int]
) -> None:
    images = torch.randn(1, 3, *size_hw)
    heads, _ = segmenter.decoder(images, segmenter.encoder(images))
    assert heads[0].shape[-2:] == tuple(-(-size // 4) for size in size_hw)
