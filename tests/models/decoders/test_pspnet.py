"""What PSPNet promises beyond the contract of architectures: averages over four grids."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adapt.models import build_segmenter
from adapt.models.decoders.pspnet import PSPNetConfig, PyramidPooling
from tests.networks import random_stages

torch.set_num_threads(1)
NUM_CLASSES = 5


@pytest.fixture(scope="module")
def pspnet() -> Any:
    torch.manual_seed(0)
    values = {"architecture": "pspnet", "encoder": "resnet18", "weights": "none"}
    return build_segmenter(values, NUM_CLASSES).eval()


def _stages(segmenter: Any, height: int = 64, width: int = 96) -> list[Tensor]:
    return random_stages(segmenter, (height, width), batch=2)


def _averages(features: Tensor, bins: int) -> Tensor:
    """Of cells; cell i of n covers the rows from floor(i h / n) up to ceil((i + 1) h / n)."""
    height, width = features.shape[-2:]
    rows = [slice(i * height // bins, -(-(i + 1) * height // bins)) for i in range(bins)]
    columns = [slice(i * width // bins, -(-(i + 1) * width // bins)) for i in range(bins)]
    cells = [[features[..., row, column].mean((2, 3)) for column in columns] for row in rows]
    return torch.stack([torch.stack(row, dim=-1) for row in cells], dim=-2)


@torch.no_grad()
def test_pyramid_pooling_by_hand() -> None:
    torch.manual_seed(0)
    pooling = PyramidPooling(8).eval()
    features = torch.randn(2, 8, 12, 17)
    levels = [features]
    for bins, (conv, norm, _) in zip((1, 2, 3, 6), pooling.projections, strict=True):
        assert conv.weight.shape == (2, 8, 1, 1)
        nn.init.uniform_(norm.running_var, 0.5, 1.5)
        projected = F.relu(norm(F.conv2d(_averages(features, bins), conv.weight)))
        levels.append(F.interpolate(projected, (12, 17), mode="bilinear", align_corners=True))
    torch.testing.assert_close(pooling(features), torch.cat(levels, dim=1))


def test_main_reads_the_deepest_stage_and_aux_the_one_before(pspnet: Any) -> None:
    stages = _stages(pspnet)
    heads, _ = pspnet.decoder(torch.empty(1, 3, 64, 96), tuple(stages))
    for logits, expected in zip(heads, (stages[-1], stages[-2]), strict=True):
        gradients = torch.autograd.grad(logits.sum(), stages, allow_unused=True)
        read = [stage for stage, one in zip(stages, gradients, strict=True) if one is not None]
        assert len(read) == 1 and read[0] is expected


def test_every_main_logit_sees_the_whole_image(pspnet: Any) -> None:
    stages = _stages(pspnet)
    (main, aux), _ = pspnet.decoder(torch.empty(1, 3, 64, 96), tuple(stages))
    for logits, stage, everywhere in ((main, stages[-1], True), (aux, stages[-2], False)):
        (gradient,) = torch.autograd.grad(logits[0, 0, 0, 0], stage)
        assert bool(gradient[0].any(dim=0).all()) == everywhere
        assert not gradient[1].any()


@torch.no_grad()
def test_dropout_takes_whole_maps_before_the_classifier(pspnet: Any) -> None:
    torch.manual_seed(0)
    seen: list[Tensor] = []
    classifier = [one for one in pspnet.decoder.main.modules() if isinstance(one, nn.Conv2d)][-1]
    hook = classifier.register_forward_pre_hook(lambda _, given: seen.append(*given))
    stages = tuple(_stages(pspnet))
    pspnet.decoder.train()(torch.empty(1, 3, 64, 96), stages)
    pspnet.decoder.eval()(torch.empty(1, 3, 64, 96), stages)
    hook.remove()
    in_training, in_evaluation = (~maps.flatten(2).any(dim=2) for maps in seen)
    assert seen[0].shape[1] == 512
    assert in_training.float().mean().item() == pytest.approx(0.1, abs=0.03)
    assert not in_evaluation.any()


def test_losses_have_the_papers_weights(pspnet: Any) -> None:
    with torch.no_grad():
        prediction = pspnet(torch.randn(1, 3, 64, 64))
    losses = pspnet.segmentation_losses(prediction, torch.zeros(1, 64, 64, dtype=torch.int64))
    assert {name: weight for name, (weight, _) in losses.items()} == {"main": 1.0, "aux": 0.4}
    for logits, (_, loss) in zip(prediction.logits, losses.values(), strict=True):
        torch.testing.assert_close(loss, -logits.log_softmax(dim=1)[:, 0].mean())


@torch.no_grad()
def test_logits_are_resized_with_aligned_corners(pspnet: Any) -> None:
    images = torch.randn(1, 3, 65, 97)
    prediction = pspnet(images)
    low, _ = pspnet.decoder(images, prediction.features)
    assert low[0].shape[-2:] == (9, 13)
    for logits, small in zip(prediction.logits, low, strict=True):
        torch.testing.assert_close(logits[..., ::8, ::8], small)


def test_defaults_are_the_authors() -> None:
    config = PSPNetConfig()
    assert (config.encoder, config.output_stride) == ("resnet101s", 8)
