"""The contract of every architecture, a row of ARCHITECTURES each, and whole networks' weights."""

from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import Tensor
from torch._subclasses import FakeTensorMode

from adapt.batch import IGNORED
from adapt.errors import JobError
from adapt.models import ARCHITECTURES, build_segmenter
from adapt.models.decoders.deeplab_v2 import DeepLabV2Config
from adapt.models.segmenter import Segmenter
from adapt.models.weights import check_description, describe, read_description, read_weights
from tests.networks import tiny_model
from tests.tiers import one_in

torch.set_num_threads(1)
NUM_CLASSES = 5
KINDS_OF_ENCODERS = (
    *("vgg11", "resnext50_32x4d", "densenet121", "mobilenetv2_100", "mobilenetv3_small_100"),
    *("tf_efficientnet_lite0", "efficientnet_b0", "convnext_atto", "nasnetalarge"),
    "mit_b0",
)
OF_ANY_ENCODER = [
    name
    for name, row in ARCHITECTURES.items()
    if not row.demands.encoders and not row.demands.equal_strides
]
UNDILATED = ("nasnetalarge", "mit_b0")
SIZES_HW = [(64, 64), (33, 65), (97, 161), (128, 256)]


def _build(architecture: str = "deeplab_v2", **changes: Any) -> Any:
    torch.manual_seed(0)
    return build_segmenter({**tiny_model(architecture), **changes}, NUM_CLASSES)


def _labels(size_hw: tuple[int, int], batch: int = 1) -> Tensor:
    labels = torch.arange(batch * size_hw[0] * size_hw[1]) % NUM_CLASSES
    labels = labels.view(batch, *size_hw)
    labels[:, :2] = IGNORED
    return labels


@pytest.fixture(scope="module", params=ARCHITECTURES)
def segmenter(request: pytest.FixtureRequest) -> Segmenter:
    return _build(request.param)


@pytest.mark.slow
@pytest.mark.parametrize("size_hw", SIZES_HW, ids=str)
@pytest.mark.parametrize("training", [False, True])
def test_any_size_and_a_batch_of_one(
    segmenter: Segmenter, size_hw: tuple[int, int], training: bool
) -> None:
    segmenter.train(training)
    with torch.no_grad():
        prediction = segmenter(torch.randn(1, 3, *size_hw))
    assert len(prediction.logits) == len(segmenter.head_names)
    assert segmenter.head_names[0] == "main"
    for logits in prediction.logits:
        assert logits.shape == (1, NUM_CLASSES, *size_hw)
        assert logits.isfinite().all()
    assert [stage.shape[1] for stage in prediction.features] == list(segmenter.encoder.channels)


@pytest.mark.slow
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_head_at_the_size_of_the_papers_images(name: str) -> None:
    segmenter = _build(name)
    with FakeTensorMode(allow_non_fake_inputs=True):
        prediction = segmenter(torch.empty(1, 3, 512, 1024))
    assert {logits.shape for logits in prediction.logits} == {(1, NUM_CLASSES, 512, 1024)}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "encoder"), one_in(7, product(OF_ANY_ENCODER, KINDS_OF_ENCODERS)))
def test_every_kind_of_encoder_under_every_architecture(name: str, encoder: str) -> None:
    stride = tiny_model(name)["output_stride"]
    stride = 32 if encoder in UNDILATED else stride
    with torch.device("meta"):
        segmenter = _build(name, encoder=encoder, output_stride=stride).train()
        prediction = segmenter(torch.empty(1, 3, 97, 161))
    assert {logits.shape for logits in prediction.logits} == {(1, NUM_CLASSES, 97, 161)}
    for stage, channels in zip(prediction.features, segmenter.encoder.channels, strict=True):
        assert stage.shape[1] == channels


@pytest.mark.slow
def test_every_architecture_can_be_adapted_at_two_levels(segmenter: Segmenter) -> None:
    assert len(segmenter.head_names) >= 2
    assert len(set(segmenter.head_names)) == len(segmenter.head_names)


@pytest.mark.slow
def test_evaluation_is_deterministic_and_leaves_no_trace(segmenter: Segmenter) -> None:
    segmenter.eval()
    before = {key: value.clone() for key, value in segmenter.state_dict().items()}
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        first, second = segmenter(images), segmenter(images)
        alone = segmenter(images[1:])
    for one, other, single in zip(first.logits, second.logits, alone.logits, strict=True):
        assert torch.equal(one, other)
        rounding = 1e-4 * float(single.abs().max())
        torch.testing.assert_close(one[1:], single, rtol=1e-4, atol=rounding)
    assert all(torch.equal(value, before[key]) for key, value in segmenter.state_dict().items())


def test_losses_are_a_cross_entropy_a_head_and_what_the_paper_adds(segmenter: Segmenter) -> None:
    segmenter.eval()
    with torch.no_grad():
        prediction = segmenter(torch.randn(1, 3, 64, 64))
        losses = segmenter.segmentation_losses(prediction, _labels((64, 64)))
    assert tuple(losses)[: len(segmenter.head_names)] == segmenter.head_names
    assert losses["main"][0] == 1.0
    for name, (weight, loss) in losses.items():
        assert loss.shape == () and loss.isfinite() and weight > 0, name


@pytest.mark.slow
def test_logits_of_another_size(segmenter: Segmenter) -> None:
    segmenter.eval()
    prediction = segmenter(torch.randn(1, 3, 64, 64), size_hw=(100, 90))
    assert prediction.logits[0].shape == (1, NUM_CLASSES, 100, 90)


@pytest.mark.slow
def test_gradient_reaches_every_trainable_parameter(segmenter: Segmenter) -> None:
    segmenter.train().zero_grad()
    prediction = segmenter(torch.randn(2, 3, 64, 64))
    losses = segmenter.segmentation_losses(prediction, _labels((64, 64), batch=2))
    torch.stack([weight * loss for weight, loss in losses.values()]).sum().backward()
    for name, parameter in segmenter.named_parameters():
        reached = parameter.grad is not None and bool(parameter.grad.any())
        assert reached == parameter.requires_grad, name


def test_parameter_groups_are_all_that_trains_once_each(segmenter: Segmenter) -> None:
    groups = segmenter.parameter_groups()
    assert list(groups) == ["encoder", "head"]
    grouped = [id(parameter) for group in groups.values() for parameter in group]
    trainable = [id(p) for p in segmenter.parameters() if p.requires_grad]
    assert sorted(grouped) == sorted(trainable)


@pytest.mark.slow
def test_finite_where_all_labels_are_ignored(segmenter: Segmenter) -> None:
    segmenter.train().zero_grad()
    losses = segmenter.segmentation_losses(
        segmenter(torch.randn(1, 3, 64, 64)), torch.full((1, 64, 64), IGNORED)
    )
    torch.stack([weight * loss for weight, loss in losses.values()]).sum().backward()
    for parameter in segmenter.parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all()


@pytest.mark.slow
def test_bf16_trains_on_float32_losses_near_full_precision(segmenter: Segmenter) -> None:
    segmenter.eval().zero_grad()  # without dropout
    images, labels = torch.randn(2, 3, 64, 64), _labels((64, 64), batch=2)
    expected = segmenter.segmentation_losses(segmenter(images), labels)
    with torch.autocast("cpu", torch.bfloat16):
        prediction = segmenter(images)
        losses = segmenter.segmentation_losses(prediction, labels)
    assert {logits.dtype for logits in prediction.logits} == {torch.float32}
    for name, (_, loss) in losses.items():
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, expected[name][1], rtol=0.1, atol=0.05)
    torch.stack([weight * loss for weight, loss in losses.values()]).sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in segmenter.parameters())


def test_a_single_deepest_pixel_trains(segmenter: Segmenter) -> None:
    segmenter.train()
    prediction = segmenter(torch.randn(1, 3, 32, 32))
    losses = segmenter.segmentation_losses(prediction, _labels((32, 32)))
    torch.stack([weight * loss for weight, loss in losses.values()]).sum().backward()
    assert all(logits.isfinite().all() for logits in prediction.logits)
    assert all(module.training for module in segmenter.decoder.modules())


@pytest.mark.slow
def test_a_file_of_its_weights_is_its_own(segmenter: Segmenter, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file(segmenter.state_dict(), path, metadata=describe(segmenter.config, NUM_CLASSES))
    described = read_description(path)
    assert described is not None
    check_description(described, segmenter.config, NUM_CLASSES)
    fresh = _build(segmenter.config.architecture)
    fresh.load_weights(read_weights(path))
    for key, value in segmenter.state_dict().items():
        assert torch.equal(fresh.state_dict()[key], value), key


@pytest.mark.parametrize(
    ("norm", "statistics_move", "affine_trains"),
    [("train", True, True), ("frozen_affine", True, False), ("frozen", False, False)],
)
def test_norms(norm: str, statistics_move: bool, affine_trains: bool) -> None:
    segmenter = _build(norm=norm).eval().train()
    bn = next(segmenter.encoder.norms())
    before = bn.running_mean.clone()
    segmenter(torch.randn(2, 3, 64, 64))
    assert (not torch.equal(bn.running_mean, before)) == statistics_move
    assert bn.weight.requires_grad == bn.bias.requires_grad == affine_trains


def test_load_weights_takes_a_whole_network_back() -> None:
    trained, fresh = _build(), _build()
    torch.nn.init.normal_(trained.decoder.heads[0].branches[0].weight)
    fresh.load_weights(trained.state_dict())
    for key, value in trained.state_dict().items():
        assert torch.equal(fresh.state_dict()[key], value), key


def test_load_weights_names_what_misfits() -> None:
    state = _build().state_dict()
    key = "decoder.heads.0.branches.0.weight"
    wrong = {**state, key: state[key][:, :3], "stranger": state[key]}
    del wrong["encoder.backbone.conv1.0.weight"]
    with pytest.raises(JobError) as caught:
        _build().load_weights(wrong)
    message = str(caught.value)
    assert "model: expected weights of deeplab_v2 on test_resnet with 5 classes" in message
    assert "missing: encoder.backbone.conv1.0.weight" in message
    assert "unexpected: stranger" in message
    channels = state[key].shape[1]
    assert f"misshaped: {key} [5, 3, 3, 3] instead of [5, {channels}, 3, 3]" in message


def test_load_weights_says_plainly_that_the_classes_are_others() -> None:
    state = build_segmenter(_build().config, num_classes=16).state_dict()
    expected = r"expected weights for 5 classes, got 16 \(decoder.heads.0.branches.0.weight\)"
    with pytest.raises(JobError, match=expected):
        _build().load_weights(state)


def test_load_weights_refuses_a_head_that_does_not_exist() -> None:
    state = _build().state_dict()
    with pytest.raises(JobError, match=r"unexpected: decoder.heads.1.branches.0.weight"):
        _build(aux=False).load_weights(state)


def test_weights_uri_without_its_weights_is_refused() -> None:
    config = DeepLabV2Config(encoder="resnet18", weights_uri="file:///weights.pth")
    with pytest.raises(ValueError, match="must be read and passed"):
        build_segmenter(config, NUM_CLASSES)


def test_given_encoder_weights_are_taken() -> None:
    state = _build(encoder="resnet18").encoder.backbone.state_dict()
    state = {key: torch.full_like(value, 2) for key, value in state.items()}
    config = DeepLabV2Config(encoder="resnet18", weights_uri="file:///weights.pth")
    segmenter: Any = build_segmenter(config, NUM_CLASSES, encoder_weights=state)
    assert (segmenter.encoder.backbone.conv1.weight == 2).all()


def test_unknown_architecture_names_the_known_ones() -> None:
    config = DeepLabV2Config(weights="none").model_copy(update={"architecture": "deeplab_2"})
    with pytest.raises(JobError, match=r"model.architecture: .*did you mean 'deeplab_v2'"):
        build_segmenter(config, NUM_CLASSES)


def test_plain_values_make_the_network_that_their_config_makes() -> None:
    values = {"architecture": "deeplab_v2", "encoder": "resnet18", "weights": "none", "aux": False}
    segmenter = build_segmenter(values)
    assert segmenter.config == DeepLabV2Config(encoder="resnet18", weights="none", aux=False)
    assert segmenter.num_classes == 19


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, r"model.architecture: missing, expected one of bisenet, .*unet"),
        ({"architecture": "gcn", "output_stride": 8}, "model.output_stride: .* 32, got 8"),
        ({"architecture": "deeplab_2"}, "model.architecture: .*did you mean 'deeplab_v2'"),
        ({"architecture": "deeplab_v2", "aspp_branches": 3}, "model.aspp_branches: .*got 3"),
        ({"architecture": "deeplab_v2", "aux": "yes"}, "model.aux: .*got 'yes'"),
        (
            {"architecture": "deeplab_v2", "encodre": "x"},
            "model.encodre: unknown key, .*did you mean 'encoder'",
        ),
    ],
)
def test_plain_values_that_make_none_are_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(JobError, match=message):
        build_segmenter(values)


def test_config_refuses_other_branch_counts() -> None:
    with pytest.raises(ValidationError):
        DeepLabV2Config(aspp_branches=3)  # type: ignore[arg-type]  # the point of the test


def test_bf16_steps_keep_channels_last_through_the_encoder() -> None:
    """oneDNN's bf16 convolutions are several times slower otherwise."""
    segmenter = build_segmenter(tiny_model("deeplab_v2"), 4)
    with torch.autocast("cpu", torch.bfloat16):
        prediction = segmenter(torch.randn(2, 3, 64, 64))
    assert all(
        one.is_contiguous(memory_format=torch.channels_last) and not one.is_contiguous()
        for one in (*prediction.features, *prediction.logits)
    )
