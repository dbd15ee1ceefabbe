"""What ICNet alone promises: shared activations, pooling by sums, guidance at each size."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adapt.batch import IGNORED
from adapt.errors import JobError
from adapt.models import build_segmenter
from adapt.models.decoders.icnet import CascadeFeatureFusion

torch.set_num_threads(1)
NUM_CLASSES = 5


@pytest.fixture
def segmenter() -> Any:
    torch.manual_seed(0)
    return build_segmenter({"architecture": "icnet"}, NUM_CLASSES).double().eval()


def _double(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def _resize(features: Tensor, size_hw: tuple[int, int]) -> Tensor:
    return F.interpolate(features, size=size_hw, mode="bilinear", align_corners=True)


def _watch(module: nn.Module) -> list[Any]:
    """Arguments and output of each call to come."""
    calls: list[Any] = []
    module.register_forward_hook(lambda _, args, output: calls.append((args, output)))
    return calls


@torch.no_grad()
def test_half_and_quarter_branch_share_activations(segmenter: Any) -> None:
    encoder, images = segmenter.encoder, _double(1, 3, 97, 161)
    middle, deep = encoder(images)
    torch.testing.assert_close(middle, encoder.shared(encoder.stem(_resize(images, (49, 81)))))
    torch.testing.assert_close(deep, encoder.rest(_resize(middle, (4, 6))))
    calls = _watch(encoder.shared)
    encoder.shared.register_forward_hook(lambda *_: middle + 1)
    other_middle, other_deep = encoder(images)
    assert len(calls) == 1
    assert torch.equal(other_middle, middle + 1)
    assert not torch.equal(other_deep, deep)


@torch.no_grad()
def test_pyramid_is_a_sum_without_parameters(segmenter: Any) -> None:
    calls, deep = _watch(segmenter.decoder.low), _double(1, 1024, 5, 7)
    segmenter.decoder(_double(1, 3, 150, 210), (_double(1, 256, 10, 14), deep))
    pooled = [_resize(F.adaptive_avg_pool2d(deep, size), (5, 7)) for size in (1, 2, 3, 6)]
    torch.testing.assert_close(calls[0][0][0], torch.stack([deep, *pooled]).sum(dim=0))


@torch.no_grad()
def test_fusion_reads_the_small_features_two_pixels_apart() -> None:
    torch.manual_seed(0)
    fusion = CascadeFeatureFusion(4, 3).eval()
    small, large = torch.randn(1, 4, 9, 9), torch.randn(1, 3, 9, 9)
    moved = small.clone()
    moved[..., 4, 4] += 1
    changed = (fusion(moved, large)[0] != fusion(small, large)[0]).any(dim=1)[0]
    assert changed.nonzero().tolist() == [[row, col] for row in (2, 4, 6) for col in (2, 4, 6)]


@torch.no_grad()
def test_fusion_rectifies_the_sum_alone() -> None:
    """Before its one ReLU a fresh fusion is linear: f(x) - f(-x) is additive."""
    torch.manual_seed(0)
    fusion = CascadeFeatureFusion(4, 3).double().eval()
    small, large = _double(1, 4, 5, 5), _double(1, 3, 9, 9)

    def linear(small: Tensor, large: Tensor) -> Tensor:
        return fusion(small, large)[0] - fusion(-small, -large)[0]

    parts = linear(small, 0 * large) + linear(0 * small, large)
    torch.testing.assert_close(linear(small, large), parts)
    assert (fusion(small, large)[0] >= 0).all()


@torch.no_grad()
def test_auxiliary_heads_read_the_enlarged_small_features(segmenter: Any) -> None:
    decoder = segmenter.decoder
    lows, fusions = _watch(decoder.low), _watch(decoder.fusion_16)
    images, middle, deep = _double(1, 3, 97, 161), _double(1, 256, 7, 11), _double(1, 1024, 4, 6)
    _, extra = decoder(images, (middle, deep))
    aux_8, aux_16 = decoder.aux
    torch.testing.assert_close(extra["aux_16"], aux_16(_resize(lows[0][1], (7, 11))))
    torch.testing.assert_close(extra["aux_8"], aux_8(_resize(fusions[0][1][0], (13, 21))))
    assert extra["main"].shape[-2:] == (26, 42)
    for moved, names in (
        ((images + 1, middle, deep), ["main"]),
        ((images, middle + 1, deep), ["main", "aux_8"]),
        ((images, middle, deep + 1), ["main", "aux_8", "aux_16"]),
    ):
        _, other = decoder(moved[0], moved[1:])
        assert [name for name in extra if not torch.equal(extra[name], other[name])] == names


@torch.no_grad()
def test_each_head_is_guided_at_its_own_size(segmenter: Any) -> None:
    labels = torch.randint(NUM_CLASSES, (2, 64, 96))
    labels[:, :20] = IGNORED
    prediction = segmenter(_double(2, 3, 64, 96))
    losses = segmenter.segmentation_losses(prediction, labels)
    rows = {"main": (4, 1.0), "aux_8": (8, 0.4), "aux_16": (16, 0.16)}
    assert list(losses) == list(rows)
    for name, (step, weight) in rows.items():
        logits, small = prediction.extra[name], labels[:, ::step, ::step]
        chosen = logits.log_softmax(dim=1).gather(1, small[:, None] % NUM_CLASSES)[:, 0]
        assert losses[name][0] == weight
        torch.testing.assert_close(losses[name][1], -chosen[small != IGNORED].mean())


def test_other_encoders_are_refused() -> None:
    with pytest.raises(JobError, match=r"model.encoder: .*icnet_resnet50.*resnet50"):
        build_segmenter({"architecture": "icnet", "encoder": "resnet50"}, NUM_CLASSES)
