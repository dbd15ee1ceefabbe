"""What DeepLabV3 promises beyond the contract of architectures: torchvision's outputs from its
weights, rates that follow the output stride, and multi-grid.
"""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.segmentation import deeplabv3_resnet50

from adapt.errors import JobError
from adapt.models import build_segmenter
from adapt.models.decoders.deeplab_v3 import AtrousSpatialPyramidPooling, DeepLabV3Config

torch.set_num_threads(1)
NUM_CLASSES = 5


def _build(**changes: Any) -> Any:
    torch.manual_seed(0)
    values = {"architecture": "deeplab_v3", "encoder": "resnet18", "weights": "none", **changes}
    return build_segmenter(values, NUM_CLASSES).eval()


def _torchvisions() -> nn.Module:
    """torchvision's network, with statistics, gammas and betas of its own."""
    torch.manual_seed(1)
    options = {"weights": None, "weights_backbone": None, "aux_loss": True}
    with torch.device("meta"):
        network = deeplabv3_resnet50(num_classes=NUM_CLASSES, **options).eval().double()
    for module in network.to_empty(device="cpu").modules():
        if isinstance(module, nn.Conv2d):
            module.reset_parameters()
        elif isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.running_var):
                nn.init.uniform_(tensor, 0.5, 1.5)
            for tensor in (module.bias, module.running_mean):
                nn.init.normal_(tensor, std=0.3)
    return network


def _renamed(own: list[str], torchvisions: dict[str, Tensor]) -> dict[str, Tensor]:
    """The encoder's by name, the heads' by position: main, then auxiliary."""
    encoder = {
        f"encoder.{name}": tensor for name, tensor in torchvisions.items() if "backbone" in name
    }
    heads = [tensor for name, tensor in torchvisions.items() if "backbone" not in name]
    return encoder | dict(zip(own[len(encoder) :], heads, strict=True))


@torch.no_grad()
def test_torchvisions_weights_give_torchvisions_outputs() -> None:
    theirs = _torchvisions()
    with torch.device("meta"):
        ours = _build(encoder="resnet50", output_stride=8, multi_grid=None)
    ours.double().to_empty(device="cpu")
    ours.load_weights(_renamed(list(ours.state_dict()), theirs.state_dict()))
    images = torch.randn(1, 3, 9, 297, dtype=torch.float64)  # 38 columns of features: rate 36 fits
    expected = theirs(images)
    for found, name in zip(ours(images).logits, ("out", "aux"), strict=True):
        assert expected[name].std() > 1e-3
        torch.testing.assert_close(found, expected[name], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("output_stride", "rates"), [(32, (3, 6, 9)), (16, (6, 12, 18)), (8, (12, 24, 36))]
)
@torch.no_grad()
def test_rates_follow_the_output_stride(output_stride: int, rates: tuple[int, ...]) -> None:
    """A single lit pixel shines where the kernels' nine taps lie, and nowhere else."""
    torch.manual_seed(0)
    pyramid = AtrousSpatialPyramidPooling(1, output_stride).eval()
    features = torch.zeros(1, 1, 79, 79)
    features[..., 39, 39] = 1
    for branch, rate in zip(pyramid.branches, (0, *rates), strict=True):
        rows, columns = branch(features)[0].any(dim=0).nonzero().unbind(dim=1)
        taps = {39 - rate, 39, 39 + rate}
        assert set(rows.tolist()) == set(columns.tolist()) == taps
        assert len(rows) == len(taps) ** 2


@torch.no_grad()
def test_image_pooling_tells_every_pixel_the_average_and_nothing_else() -> None:
    torch.manual_seed(0)
    pyramid = AtrousSpatialPyramidPooling(4, 16).eval()
    joined: list[Tensor] = []
    pyramid.project.register_forward_pre_hook(lambda _, given: joined.append(*given))
    features = torch.randn(2, 4, 9, 11)
    pyramid(features)
    conv, norm, _ = pyramid.image_pooling
    expected = F.relu(norm(conv(features.mean(dim=(2, 3), keepdim=True))))
    assert joined[0].shape[1] == 5 * 256
    torch.testing.assert_close(joined[0][:, -256:], expected.expand(-1, -1, 9, 11))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "dilations"),
    [
        ({"multi_grid": None}, [1, 2, 2]),
        ({}, [2, 4, 8]),
        ({"output_stride": 8}, [4, 8, 16]),
        ({"output_stride": 32}, [1, 2, 4]),
        ({"multi_grid": [1, 3]}, [1, 2, 6]),
        ({"encoder": "vgg16"}, [1, 2, 4]),
        ({"encoder": "vgg16", "output_stride": 8}, [2, 4, 8]),
    ],
)
def test_multi_grid_is_in_units_of_the_last_stage(
    changes: dict[str, Any], dilations: list[int]
) -> None:
    with torch.device("meta"):
        segmenter = _build(**{"encoder": "resnet50", **changes})
        stages = segmenter.encoder(torch.empty(1, 3, 64, 96))
    convs = [one for one in segmenter.encoder.modules() if isinstance(one, nn.Conv2d)]
    last = [conv for conv in convs if conv.kernel_size == (3, 3)][-3:]
    assert [conv.dilation for conv in last] == [(one, one) for one in dilations]
    step = changes.get("output_stride", 16)
    assert stages[-1].shape[-2:] == (64 // step, 96 // step)


@torch.no_grad()
def test_multi_grid_changes_the_last_stage_alone() -> None:
    images = torch.randn(1, 3, 64, 64)
    unequal, equal = (_build(multi_grid=units).encoder(images) for units in ((1, 2, 4), None))
    same = [torch.equal(*stages) for stages in zip(unequal, equal, strict=True)]
    assert same == [True, True, True, True, False]


def test_one_image_trains_and_leaves_the_average_without_statistics() -> None:
    segmenter = _build(norm="train").train()
    before = {key: value.clone() for key, value in segmenter.state_dict().items()}
    prediction = segmenter(torch.randn(1, 3, 64, 64))
    losses = segmenter.segmentation_losses(prediction, torch.zeros(1, 64, 64, dtype=torch.int64))
    assert {name: weight for name, (weight, _) in losses.items()} == {"main": 1.0, "aux": 0.5}
    sum(weight * loss for weight, loss in losses.values()).backward()
    moved = {
        key
        for key, value in segmenter.state_dict().items()
        if key.endswith("running_mean") and not torch.equal(value, before[key])
    }
    still = {key for key in before if key.endswith("running_mean")} - moved
    assert still == {"decoder.main.0.image_pooling.1.running_mean"}
    assert segmenter.decoder.main[0].image_pooling[0].weight.grad.any()


def test_heads_read_the_deepest_stage_and_the_one_before() -> None:
    segmenter = _build()
    stages = [
        torch.randn(1, width, 64 // step, 64 // step, requires_grad=True)
        for width, step in zip(
            segmenter.encoder.channels, segmenter.encoder.reductions, strict=True
        )
    ]
    heads, _ = segmenter.decoder(torch.empty(1, 3, 64, 64), tuple(stages))
    for logits, expected in zip(heads, (4, 3), strict=True):
        gradients = torch.autograd.grad(logits.sum(), stages, allow_unused=True)
        assert [level for level, one in enumerate(gradients) if one is not None] == [expected]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"multi_grid": []}, "model.multi_grid: expected a list of at least 1 and of at most 4"),
        ({"multi_grid": [1, 0, 2]}, "model.multi_grid.1: expected a positive integer, got 0"),
        ({"multi_grid": [1] * 18}, "model.multi_grid: "),
        ({"output_stride": 4}, "model.output_stride: .*8, 16 or 32, got 4"),
    ],
)
def test_what_does_not_fit_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(JobError, match=message):
        _build(**changes)


def test_defaults_are_the_papers() -> None:
    config = DeepLabV3Config()
    assert (config.output_stride, config.multi_grid) == (16, (1, 2, 4))
    assert "multi_grid" in config.described
