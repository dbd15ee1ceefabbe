"""What DFN alone promises: attention on shallow features, deep supervision, the border network."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adapt.batch import IGNORED
from adapt.losses import border_loss, label_borders
from adapt.models import build_segmenter
from adapt.models.decoders.dfn import ChannelAttention

torch.set_num_threads(1)
NUM_CLASSES, NO_IMAGES = 5, torch.empty(0)
HEADS = ["main", "aux_8", "aux_16", "aux_32"]
NEIGHBOURS = ((1, 0), (-1, 0), (0, 1), (0, -1))


@pytest.fixture(scope="module")
def segmenter() -> Any:
    torch.manual_seed(0)
    values = {"architecture": "dfn", "encoder": "resnet18", "weights": "none"}
    return build_segmenter(values, NUM_CLASSES).eval()


@pytest.fixture
def stages(segmenter: Any) -> list[Tensor]:
    """Those of an image of 64 x 96."""
    torch.manual_seed(1)
    described = zip(segmenter.encoder.channels, segmenter.encoder.reductions, strict=True)
    return [torch.randn(1, channels, 64 // one, 96 // one) for channels, one in described]


def _watch(module: nn.Module) -> list[Any]:
    """Arguments and output of each call to come."""
    calls: list[Any] = []
    module.register_forward_hook(lambda _, args, output: calls.append((args, output)))
    return calls


def _labels() -> Tensor:
    """Rectangles of three classes, some ignored: (3, 24, 40)."""
    torch.manual_seed(2)
    labels = torch.randint(3, (3, 2, 4)).repeat_interleave(12, dim=1).repeat_interleave(10, dim=2)
    labels[:, 5, 33] = 1
    labels[0, :, 18:22], labels[1, 10:], labels[2, :9, :15] = IGNORED, IGNORED, IGNORED
    return labels


def _focal(logits: Tensor, labels: Tensor) -> Tensor:
    """Focal Loss, Eq. 5, with gamma 2 and alpha 0.25, on what is not ignored."""
    borders, p = label_borders(labels), logits.sigmoid()
    losses = torch.where(borders, -0.25 * (1 - p) ** 2 * p.log(), -0.75 * p**2 * (1 - p).log())
    return losses[labels != IGNORED].mean()


@torch.no_grad()
def test_attention_weighs_the_shallow_features_alone() -> None:
    torch.manual_seed(0)
    attention = ChannelAttention(4).double()
    low, high = torch.rand(2, 2, 4, 6, 8, dtype=torch.float64)

    def weights(low: Tensor, high: Tensor) -> Tensor:
        ratios = (attention(low, high) - high) / low
        torch.testing.assert_close(ratios, ratios[..., :1, :1].expand_as(ratios))
        return ratios[..., 0, 0]

    found = weights(low, high)
    assert ((found > 0) & (found < 1)).all()
    waves = torch.arange(8, dtype=torch.float64).sin()
    waves -= waves.mean()
    torch.testing.assert_close(weights(low + waves, high - waves), found)  # averages alone count
    assert (weights(low + 1, high) - found).abs().min() > 1e-4
    assert (weights(low, high + 1) - found).abs().min() > 1e-4


@torch.no_grad()
def test_smooth_network_starts_from_the_images_average(
    segmenter: Any, stages: list[Tensor]
) -> None:
    calls = _watch(segmenter.decoder.smooth[-1].attention)
    segmenter.decoder(NO_IMAGES, stages)
    average = segmenter.decoder.global_context(stages[-1].mean(dim=(2, 3), keepdim=True))
    assert average.any()
    torch.testing.assert_close(calls[0][0][1], average.expand(-1, -1, 2, 3))


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("moved", range(5))
def test_smooth_goes_deep_to_shallow_and_border_shallow_to_deep(
    segmenter: Any, stages: list[Tensor], moved: int
) -> None:
    logits, extra = segmenter.decoder(NO_IMAGES, stages)
    assert [tuple(one.shape[-2:]) for one in logits] == [(16, 24), (8, 12), (4, 6), (2, 3)]
    assert tuple(extra["border"].shape) == (1, 4, 16, 24)
    stages[moved] = stages[moved] + 1
    others, other_extra = segmenter.decoder(NO_IMAGES, stages)
    heads = zip(HEADS, logits, others, strict=True)
    assert [name for name, one, other in heads if not torch.equal(one, other)] == HEADS[:moved]
    differ = (extra["border"] != other_extra["border"]).flatten(start_dim=2).any(dim=2)[0]
    assert differ.tolist() == [0 < moved <= stage for stage in range(1, 5)]  # nobody reads half


@torch.no_grad()
def test_border_network_keeps_a_running_sum(segmenter: Any, stages: list[Tensor]) -> None:
    calls = [_watch(block.after) for block in segmenter.decoder.border]
    segmenter.decoder(NO_IMAGES, stages)
    total: Any = 0
    for block, stage, call in zip(segmenter.decoder.border, stages[1:], calls, strict=True):
        own = F.interpolate(block.before(stage), (16, 24), mode="bilinear")
        torch.testing.assert_close(call[0][0][0], total + own)
        total = call[0][1]


def test_label_borders_by_brute_force() -> None:
    labels = _labels()
    expected = torch.zeros_like(labels, dtype=torch.bool)
    for image, row, column in torch.cartesian_prod(*map(torch.arange, labels.shape)).tolist():
        for y, x in ((row + down, column + right) for down, right in NEIGHBOURS):
            if 0 <= y < 24 and 0 <= x < 40:
                pair = {int(labels[image, row, column]), int(labels[image, y, x])}
                if len(pair) == 2 and IGNORED not in pair:
                    top, left = max(0, row - 3), max(0, column - 3)
                    expected[image, top : row + 4, left : column + 4] = True
    assert torch.equal(label_borders(labels), expected)
    assert 0.2 < expected.float().mean() < 0.8


def test_border_loss_is_the_focal_loss_of_logits_on_counted_pixels() -> None:
    labels = _labels()
    logits = (3 * torch.randn(3, 1, 24, 40, dtype=torch.float64)).requires_grad_()
    loss = border_loss(logits, labels)
    torch.testing.assert_close(loss, _focal(logits[:, 0], labels))
    loss.backward()
    assert torch.equal(logits.grad[:, 0] != 0, labels != IGNORED)


def test_losses_of_four_heads_and_the_sum_of_four_borders(segmenter: Any) -> None:
    labels = _labels()[:1]
    prediction = segmenter(torch.randn(1, 3, 24, 40))
    losses = segmenter.segmentation_losses(prediction, labels)
    weights = {name: weight for name, (weight, _) in losses.items()}
    assert weights == {**dict.fromkeys(HEADS, 1.0), "border": 0.1}
    resized = F.interpolate(prediction.extra["border"], (24, 40), mode="bilinear")
    expected = torch.stack([_focal(logits, labels) for logits in resized.unbind(dim=1)]).sum()
    torch.testing.assert_close(losses["border"][1], expected)

    losses["border"][1].backward()  # shapes the whole encoder, and not the smooth network
    for name, parameter in segmenter.encoder.named_parameters():
        assert not parameter.requires_grad or parameter.grad.any(), name
    reached = {name for name, one in segmenter.decoder.named_parameters() if one.grad is not None}
    assert {name.partition(".")[0] for name in reached} == {"border"}
