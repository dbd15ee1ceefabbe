"""Caffe's ResNet: every block against torchvision's turned into it, its weights, its optimizer."""

from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor

from adapt.errors import JobError
from adapt.models import build_segmenter
from adapt.models.encoders.caffe_resnet import BLOCKS, CaffeResNet

torch.set_num_threads(1)
SMALL = "caffe_resnet14"


def _state(name: str = SMALL) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {key: torch.randn(value.shape) for key, value in CaffeResNet(name).state_dict().items()}


def _papers_init(prefix: str = "Scale.", name: str = SMALL) -> dict[str, Tensor]:
    """The file that the papers' programs start from: a prefix, an old head, no counters."""
    counted = {k: v for k, v in _state(name).items() if not k.endswith("num_batches_tracked")}
    for branch in range(4):
        counted[f"layer5.conv2d_list.{branch}.weight"] = torch.zeros(21, 2048, 3, 3)
        counted[f"layer5.conv2d_list.{branch}.bias"] = torch.zeros(21)
    return {prefix + key: value for key, value in counted.items()}


def _torchvision_turned_into_caffes(blocks: tuple[int, ...]) -> Any:
    block = torchvision.models.resnet.Bottleneck
    network: Any = torchvision.models.ResNet(block, list(blocks))
    network.maxpool.ceil_mode = True
    layers = (network.layer1, network.layer2, network.layer3, network.layer4)
    for layer, stride, dilation in zip(layers, (1, 2, 1, 1), (1, 1, 2, 4), strict=True):
        for one in layer:
            one.conv1.stride = one.conv2.stride = (1, 1)
            one.conv2.padding = one.conv2.dilation = (dilation, dilation)
        layer[0].conv1.stride = layer[0].downsample[0].stride = (stride, stride)
    return network


def test_all_blocks_compute_what_torchvisions_would_with_caffes_strides() -> None:
    torch.manual_seed(0)
    theirs = _torchvision_turned_into_caffes(BLOCKS["caffe_resnet50"]).double().eval()
    ours = CaffeResNet("caffe_resnet50").double().eval()
    ours.load({k: v for k, v in theirs.state_dict().items() if not k.startswith("fc.")})
    images = torch.randn(1, 3, 50, 67, dtype=torch.float64)
    with torch.no_grad():
        features = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(images))))
        for stage, layer in zip(
            ours(images), ("layer1", "layer2", "layer3", "layer4"), strict=True
        ):
            features = getattr(theirs, layer)(features)
            torch.testing.assert_close(stage, features, rtol=1e-10, atol=1e-10)


def test_starts_as_the_programs_do() -> None:
    torch.manual_seed(0)
    encoder = CaffeResNet(SMALL)
    for name, parameter in encoder.named_parameters():
        if parameter.ndim == 4:
            assert parameter.std().item() == pytest.approx(0.01, rel=0.05), name
            assert abs(parameter.mean().item()) < 5e-4, name
    for norm in encoder.norms():
        assert (norm.weight == 1).all() and (norm.bias == 0).all()
        assert (norm.eps, norm.momentum) == (1e-5, 0.1)


def test_reads_bgr_minus_its_mean() -> None:
    pixels = CaffeResNet(SMALL).pixels
    assert pixels == ((104.00698793, 116.66876762, 122.67891434), (1.0, 1.0, 1.0), True)


@pytest.mark.parametrize("prefix", ["Scale.", "net."])
def test_the_papers_start_is_taken_without_its_old_head(prefix: str) -> None:
    given, encoder = _papers_init(prefix), CaffeResNet(SMALL)
    report = encoder.load(given)
    assert report.loaded == len(given) - 8
    assert set(report.dropped) == {key for key in given if ".layer5." in key}
    for key, value in encoder.state_dict().items():
        if key.endswith("num_batches_tracked"):
            assert value == 0
        else:
            assert torch.equal(value, given[prefix + key]), key


def test_the_papers_start_has_as_many_tensors_as_their_file() -> None:
    with torch.device("meta"):
        given = _papers_init(name="caffe_resnet101")
        assert len(given) == 528
        assert CaffeResNet("caffe_resnet101").load(given).loaded == 520


def _fails(state: dict[str, Tensor], message: str) -> None:
    encoder = CaffeResNet(SMALL)
    before = encoder.conv1.weight.clone()
    with pytest.raises(JobError, match=message):
        encoder.load(state)
    assert torch.equal(encoder.conv1.weight, before)


def test_torchvisions_network_of_the_same_names_is_refused() -> None:
    classifier = {"fc.weight": torch.zeros(1000, 2048), "fc.bias": torch.zeros(1000)}
    _fails(
        {**_state(), **classifier},
        r"model.weights_uri: .*unexpected: fc.weight, fc.bias\).*import-checkpoint.*timm encoder",
    )


def test_a_prefix_alone_is_not_the_papers() -> None:
    state = {f"backbone.{key}": value for key, value in _state().items()}
    _fails(state, "missing: conv1.weight, .* unexpected: backbone.conv1.weight")


def test_a_trained_networks_file_is_refused() -> None:
    head = {"layer6.conv2d_list.0.weight": torch.zeros(19, 2048, 3, 3)}
    _fails({**_state(), **head}, "unexpected: layer6.conv2d_list.0.weight.*import-checkpoint")


def test_another_depth_is_refused() -> None:
    _fails(_state("caffe_resnet50"), "'caffe_resnet14' .*unexpected: layer1.1.conv1.weight")


def test_an_empty_file_is_refused() -> None:
    _fails({}, "missing: conv1.weight, bn1.weight")


def test_multiplicities_are_those_of_the_programs_list() -> None:
    with torch.device("meta"):
        encoder = CaffeResNet("caffe_resnet101")
    found = encoder.multiplicities()
    assert found.keys() == {name for name, _ in encoder.named_parameters()}
    convs = {name: found[name] for name, p in encoder.named_parameters() if p.ndim == 4}
    assert (len(convs), sum(convs.values())) == (104, 314)
    assert convs["conv1.weight"] == 1
    assert {times for name, times in convs.items() if ".conv" in name} == {3}
    assert {times for name, times in convs.items() if "downsample" in name} == {4}


def test_multiplicities_are_a_walk_over_modules() -> None:
    """As the reference tells it: for every module, all parameters below it."""
    encoder = CaffeResNet(SMALL)
    names = {id(parameter): name for name, parameter in encoder.named_parameters()}
    listed: dict[str, int] = {}
    for child in encoder.children():
        for module in child.modules():
            for parameter in module.parameters():
                name = names[id(parameter)]
                listed[name] = listed.get(name, 0) + 1
    assert listed == encoder.multiplicities()


@pytest.mark.parametrize(("norm", "sizes"), [("frozen_affine", (1, 12, 4)), ("train", (3, 36, 12))])
def test_trainable_parameters_by_multiplicity(norm: str, sizes: tuple[int, ...]) -> None:
    values = {"architecture": "deeplab_v2", "encoder": SMALL, "weights": "none", "norm": norm}
    segmenter = build_segmenter(values)
    grouped = segmenter.encoder_parameters_by_multiplicity()
    assert {times: len(group) for times, group in grouped.items()} == dict(
        zip((1, 3, 4), sizes, strict=True)
    )
    ours = sorted(id(parameter) for group in grouped.values() for parameter in group)
    assert ours == sorted(map(id, segmenter.parameter_groups()["encoder"]))
