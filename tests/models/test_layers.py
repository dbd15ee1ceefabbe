"""The pieces that architectures share: norms of single values, sizes, starts, precision."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adapt.models.layers import (
    BatchNorm,
    FCNHead,
    conv_bn,
    conv_bn_relu,
    dilated_conv,
    full_precision,
    init_convs,
    init_he,
    laid_out_for_step,
    resize,
    resize_to,
)

torch.set_num_threads(1)


def _norm(kind: type[nn.BatchNorm2d], channels: int = 4) -> nn.BatchNorm2d:
    """With statistics, gammas and betas of its own, the same for each kind."""
    generator = torch.Generator().manual_seed(0)
    norm = kind(channels)
    for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
        assert tensor is not None
        nn.init.uniform_(tensor, 0.5, 1.5, generator=generator)
    return norm


def _with_gradient(norm: nn.Module, features: Tensor) -> tuple[Tensor, ...]:
    leaf = features.clone().requires_grad_()
    output = norm(leaf)
    gradients = torch.autograd.grad(output.square().sum(), (leaf, *norm.parameters()))
    return (output.detach(), *gradients)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("shape", [(1, 4, 1, 2), (2, 4, 1, 1), (3, 4, 5, 6)], ids=str)
def test_batch_norm_is_pytorchs_where_there_are_values(
    shape: tuple[int, ...], training: bool
) -> None:
    ours, theirs = _norm(BatchNorm).train(training), _norm(nn.BatchNorm2d).train(training)
    features = torch.randn(shape)
    found, expected = _with_gradient(ours, features), _with_gradient(theirs, features)
    assert all(map(torch.equal, found, expected))
    buffers = zip(ours.buffers(), theirs.buffers(), strict=True)
    assert all(torch.equal(*pair) for pair in buffers)


@pytest.mark.parametrize("training", [False, True])
def test_batch_norm_of_one_value_uses_the_running_statistics_and_leaves_them(
    training: bool,
) -> None:
    ours, reference = _norm(BatchNorm).train(training), _norm(nn.BatchNorm2d).eval()
    before = {key: value.clone() for key, value in ours.state_dict().items()}
    features = torch.randn(1, 4, 1, 1)
    found, expected = _with_gradient(ours, features), _with_gradient(reference, features)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
    assert all(torch.equal(value, before[key]) for key, value in ours.state_dict().items())


def test_pytorchs_batch_norm_refuses_one_value() -> None:
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        nn.BatchNorm2d(4).train()(torch.randn(1, 4, 1, 1))


def test_resize_to_goes_to_the_partners_size_and_leaves_what_has_it() -> None:
    features, partner = torch.randn(1, 3, 4, 5), torch.empty(1, 7, 9, 8)
    for align_corners in (False, True):
        expected = F.interpolate(features, (9, 8), mode="bilinear", align_corners=align_corners)
        assert torch.equal(resize_to(features, partner, align_corners), expected)
    assert resize_to(features, torch.empty(2, 1, 4, 5)) is features


def test_resized_short_floats_are_float32() -> None:
    features = torch.randn(1, 3, 4, 5).bfloat16()
    found = resize(features, (9, 8), align_corners=True)
    assert torch.equal(found, resize(features.float(), (9, 8), align_corners=True))
    assert resize(features.double(), (9, 8), align_corners=True).dtype == torch.float64


@pytest.mark.parametrize("kernel_size", [1, 3, 5, 7])
@pytest.mark.parametrize("dilation", [1, 2, 6])
def test_conv_bn_keeps_the_size(kernel_size: int, dilation: int) -> None:
    features = torch.randn(2, 3, 11, 14)
    block = conv_bn(3, 4, kernel_size, dilation=dilation)
    assert block(features).shape == (2, 4, 11, 14)
    halved = conv_bn(3, 4, kernel_size, stride=2, dilation=dilation)
    assert halved(features).shape == (2, 4, 6, 7)
    assert [name for name, _ in block.named_parameters()] == ["0.weight", "1.weight", "1.bias"]


def test_conv_bn_relu_is_conv_bn_and_a_relu() -> None:
    block = conv_bn_relu(3, 4).eval()
    features = torch.randn(2, 3, 6, 7)
    assert torch.equal(block(features), F.relu(block[1](block[0](features))))


@pytest.mark.parametrize(("channels", "width"), [(64, 16), (2, 1)])
def test_fcn_head_by_hand(channels: int, width: int) -> None:
    head = FCNHead(channels, 5).eval()
    features = torch.randn(2, channels, 6, 7)
    (first, norm, _), dropout, last = head
    assert (first.weight.shape, dropout.p) == ((width, channels, 3, 3), 0.1)
    inner = F.relu(norm(F.conv2d(features, first.weight, padding=1)))
    torch.testing.assert_close(head(features), F.conv2d(inner, last.weight, last.bias))


def test_starts_of_convolutions() -> None:
    torch.manual_seed(0)
    conv, up, norm = nn.Conv2d(64, 96, 3), nn.ConvTranspose2d(64, 96, 2), nn.BatchNorm2d(3)
    nn.init.constant_(norm.bias, 7)
    init_he(nn.Sequential(conv, nn.Sequential(up, norm)))
    for module, fan_in in ((conv, 9 * 64), (up, 4 * 96)):
        assert module.weight.std().item() == pytest.approx((2 / fan_in) ** 0.5, rel=0.02)
        assert module.bias is not None and not module.bias.any()
    assert (norm.bias == 7).all()
    init_convs(conv)
    assert conv.weight.std().item() == pytest.approx(0.01, rel=0.02)
    dilated = dilated_conv(64, 96, dilation=6)
    assert dilated.weight.std().item() == pytest.approx(0.01, rel=0.02)
    assert dilated.bias is not None and dilated(torch.randn(1, 64, 7, 9)).shape == (1, 96, 7, 9)


def test_full_precision_within_a_short_step() -> None:
    values = torch.randn(3, 3)
    expected = values @ values
    with torch.autocast("cpu", torch.bfloat16):
        assert (values @ values).dtype == torch.bfloat16
        with full_precision(values.device):
            assert torch.equal(values @ values, expected)
        assert (values @ values).dtype == torch.bfloat16
    with full_precision(torch.device("meta")):
        assert (values.to("meta") @ values.to("meta")).dtype == torch.float32


def test_images_are_channels_last_under_autocast_alone() -> None:
    images = torch.randn(1, 3, 8, 8)
    assert laid_out_for_step(images) is images
    assert laid_out_for_step(torch.empty(1, 3, 8, 8, device="meta")).is_contiguous()
    with torch.autocast("cpu", torch.bfloat16):
        found = laid_out_for_step(images)
    assert found.is_contiguous(memory_format=torch.channels_last) and torch.equal(found, images)
