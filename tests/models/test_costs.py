"""Parameters and multiply-accumulates against counts by hand, and groups against the whole."""

from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor, nn

from adapt.models import ARCHITECTURES, ENCODERS
from adapt.models.costs import (
    LayerGroup,
    encoder_cost,
    encoder_without_memory,
    layer_groups,
    measure,
    segmenter_cost,
    segmenter_without_memory,
)

SIZE_HW = (64, 128)
HW = SIZE_HW[0] * SIZE_HW[1]


class Applied(nn.Module):
    """Whatever a function computes."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, features: Tensor) -> Tensor:
        return self.function(features)


def pixels_squared(images: Tensor) -> Tensor:
    """(B, 3, H, W) -> (B, 3, 3): a product of matrices for each image."""
    pixels = images.flatten(2)
    return pixels @ pixels.transpose(1, 2)


@pytest.mark.parametrize(
    ("layers", "macs"),
    [
        ([nn.Conv2d(3, 8, 3, padding=1)], 3 * 8 * 9 * HW),
        ([nn.Conv2d(3, 8, (1, 7), padding="same", bias=False)], 3 * 8 * 7 * HW),
        ([nn.Conv2d(3, 8, 3, stride=2, padding=1)], 3 * 8 * 9 * HW // 4),
        ([nn.Conv2d(3, 8, 3, padding=6, dilation=6)], 3 * 8 * 9 * HW),
        ([nn.Conv2d(3, 8, 3)], 3 * 8 * 9 * (SIZE_HW[0] - 2) * (SIZE_HW[1] - 2)),
        ([nn.Conv2d(3, 6, 3, padding=1, groups=3)], 6 * 9 * HW),
        ([nn.ConvTranspose2d(3, 8, 2, 2)], 3 * 8 * 4 * HW),
        ([nn.ConvTranspose2d(3, 8, 3, 2, 1, 1)], 3 * 8 * 9 * HW),
        ([nn.ConvTranspose2d(3, 6, 4, 2, 1, groups=3)], 6 * 16 * HW),
        ([nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 5)], 3 * 5),
        ([nn.Linear(SIZE_HW[1], 7, bias=False)], 7 * 3 * HW),
        ([Applied(pixels_squared), nn.Linear(3, 3, bias=False)], 3 * 3 * HW + 3 * 3 * 3),
        ([Applied(lambda images: torch.einsum("bchw,bdhw->bcd", images, images)), nn.Linear(3, 1)],
         3 * 3 * HW + 3 * 3),
        ([nn.BatchNorm2d(3), nn.ReLU(), nn.Upsample(scale_factor=2, mode="bilinear")], 0),
    ],
    ids=str,
)  # fmt: skip
def test_multiply_accumulates_by_hand(layers: list[nn.Module], macs: int) -> None:
    for device in ("cpu", "meta"):
        network = nn.Sequential(*layers).to(device)
        assert measure(network, SIZE_HW)[network].macs == macs, device


class Named(nn.Module):
    """Children by name, called by a function."""

    def __init__(
        self, run: Callable[["Named", Tensor], object], children: Mapping[str, nn.Module]
    ) -> None:
        super().__init__()
        self.run = run
        for name, child in children.items():
            self.add_module(name, child)

    def forward(self, images: Tensor) -> object:
        return self.run(self, images)


def conv(in_channels: int, out_channels: int) -> nn.Conv2d:
    """A 1x1 convolution without bias: as many products a pixel as parameters."""
    return nn.Conv2d(in_channels, out_channels, 1, bias=False)


def groups_of(network: nn.Module) -> list[LayerGroup]:
    groups = layer_groups({"part": network}, measure(network.to("meta"), SIZE_HW))
    assert sum(group.parameters for group in groups) == parameters(network)
    return list(groups)


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def group(name: str, weights: int, *shapes: tuple[int, ...]) -> LayerGroup:
    """A group of 1x1 convolutions at full size."""
    return LayerGroup(f"part{name}", weights, weights * HW, shapes)


def full(channels: int) -> tuple[int, int, int]:
    return (channels, *SIZE_HW)


def test_a_list_of_blocks_is_divided_and_a_block_is_not() -> None:
    def run(self: Named, images: Tensor) -> Tensor:
        for block in self.blocks:
            images = block(images)
        return self.last(images)

    blocks = nn.ModuleList([nn.Sequential(conv(3, 4), nn.ReLU()), conv(4, 5)])
    network = Named(run, {"blocks": blocks, "pool": nn.MaxPool2d(2), "last": conv(5, 2)})
    assert groups_of(network) == [
        group(".blocks.0", 12, full(4)),
        group(".blocks.1", 20, full(5)),
        group(".last", 10, full(2)),
    ]


def test_a_head_of_blocks_and_a_classifier_is_divided() -> None:
    head = nn.Sequential(nn.Sequential(conv(3, 4)), nn.Dropout(), conv(4, 2))
    stem = nn.Sequential(conv(3, 3), nn.ReLU())
    stage = nn.Sequential(nn.Sequential(conv(3, 3)), nn.Sequential(conv(3, 3)))
    network = nn.Sequential(stem, stage, head)
    assert groups_of(network) == [
        group(".0", 9, full(3)),
        group(".1", 18, full(3)),
        group(".2.0", 12, full(4)),
        group(".2.2", 8, full(2)),
    ]


def test_wrappers_are_seen_through() -> None:
    network = nn.Sequential(nn.Sequential(nn.Sequential(conv(3, 4), conv(4, 2))))
    assert groups_of(network) == [group(".0.0.0", 12, full(4)), group(".0.0.1", 8, full(2))]
    single = nn.Sequential(nn.Sequential(conv(3, 4)))
    assert groups_of(single) == [group(".0.0", 12, full(4))]


def test_what_a_part_does_itself_comes_under_its_own_name() -> None:
    def run(self: Named, images: Tensor) -> Tensor:
        return self.first(images) * self.weights.sum() + pixels_squared(images).sum()

    network = Named(run, {"first": conv(3, 4)})
    network.weights = nn.Parameter(torch.ones(6))
    own = LayerGroup("part", 6, 9 * HW, (full(4),))
    assert groups_of(network) == [group(".first", 12, full(4)), own]


def test_shared_modules_count_each_run_and_resting_ones_none() -> None:
    def run(self: Named, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        return self.shared(images), [self.shared(images), self.shared(images[:, :, ::2])]

    network = Named(run, {"shared": conv(3, 4), "unused": nn.Sequential(conv(3, 3))})
    half = (4, SIZE_HW[0] // 2, SIZE_HW[1])
    shared = LayerGroup("part.shared", 12, 12 * HW * 5 // 2, (full(4), half))
    assert groups_of(network) == [shared, LayerGroup("part.unused.0", 9, 0, ())]


def test_outputs_of_several_tensors_have_several_shapes() -> None:
    pair = Named(lambda self, images: (self.one(images), [images]), {"one": conv(3, 4)})
    network = Named(lambda self, images: self.pair(images)[0], {"pair": pair, "other": conv(3, 1)})
    assert groups_of(network)[0] == group(".pair", 12, full(4), full(3))


def test_measuring_leaves_no_hooks_and_counts_in_evaluation_mode() -> None:
    network = nn.Sequential(conv(3, 4), nn.Dropout())
    runs = measure(network, SIZE_HW)
    before = dict(runs)
    network(torch.zeros(1, 3, 8, 8))
    assert runs == before and not network.training


def test_deeplab_v2_costs_what_the_papers_programs_do() -> None:
    values = {"architecture": "deeplab_v2", "encoder": "resnet101", "aux": False}
    cost = segmenter_cost(segmenter_without_memory(values, 19), (512, 1024))
    assert cost.parameters == 43_901_068
    head = 4 * 2048 * 19 * 9 * 64 * 128
    assert sum(one.macs for one in cost.groups if one.name.startswith("decoder")) == head
    assert [one.name for one in cost.groups if one.name.startswith("encoder")] == [
        f"encoder.backbone.{name}"
        for name in ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4")
    ]


def test_a_bottleneck_resnet_by_hand() -> None:
    """ResNet-50's stem and first stage, from the table of its paper, at 64 x 128."""
    cost = encoder_cost(encoder_without_memory("resnet50", 32), SIZE_HW)
    by_name = {one.name.rpartition(".")[2]: one for one in cost.groups}
    assert by_name["conv1"].macs == 3 * 64 * 49 * HW // 4
    first = 64 * 64 + 64 * 64 * 9 + 64 * 256 + 64 * 256
    others = 2 * (256 * 64 + 64 * 64 * 9 + 64 * 256)
    assert by_name["layer1"].macs == (first + others) * HW // 16
    assert by_name["layer4"].shapes == ((2048, 2, 4),)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_groups_of_every_architecture_sum_to_the_whole(architecture: str) -> None:
    demands = ARCHITECTURES[architecture].demands
    own = demands.encoders or demands.equal_strides
    small = {} if own else {"encoder": "resnet18", "output_stride": 32}
    segmenter = segmenter_without_memory({"architecture": architecture, **small}, 5)
    cost = segmenter_cost(segmenter, SIZE_HW)
    assert cost.parameters == parameters(segmenter) > 0
    assert cost.macs == measure(segmenter, SIZE_HW)[segmenter].macs > 0
    assert sum(one.parameters for one in cost.groups) == cost.parameters
    assert sum(one.macs for one in cost.groups) == cost.macs
    assert all(one.parameters > 0 and one.macs >= 0 and one.shapes for one in cost.groups)
    state = segmenter.state_dict()
    for one in cost.groups:
        assert any(key.startswith(f"{one.name}.") for key in state), one.name
    assert {"encoder", "decoder"} <= {one.name.partition(".")[0] for one in cost.groups}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [*ENCODERS, "vgg16_bn", "densenet121", "mobilenetv2_100", "convnext_atto"]
)
def test_groups_of_encoders_sum_to_the_whole(name: str) -> None:
    stride = {"caffe": 8, "unet": 16, "frrn_a": 16}
    encoder = encoder_without_memory(name, stride.get(name, stride.get(name.partition("_")[0], 32)))
    cost = encoder_cost(encoder, SIZE_HW)
    assert len(cost.groups) >= len(encoder.channels)
    assert sum(one.parameters for one in cost.groups) == cost.parameters == parameters(encoder)
    assert sum(one.macs for one in cost.groups) == cost.macs > 0
