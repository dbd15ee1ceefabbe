"""What U-Net promises beyond the contract of architectures: the paper's two paths and their joins.

Its encoder stands for all that train from scratch, and so do its messages about weights.
"""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adapt.errors import JobError
from adapt.models import build_encoder, build_segmenter
from adapt.models.segmenter import Segmenter
from tests.networks import random_stages

torch.set_num_threads(1)
NUM_CLASSES = 5
WIDTHS = (64, 128, 256, 512, 1024)


def _build(**changes: Any) -> Segmenter:
    torch.manual_seed(0)
    values = {"architecture": "unet", "weights": "none", **changes}
    return build_segmenter(values, NUM_CLASSES).eval()


@pytest.fixture(scope="module")
def unet() -> Segmenter:
    segmenter = _build()
    for name, parameter in segmenter.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter)
    return segmenter


def _stages(segmenter: Segmenter, height: int = 32, width: int = 48) -> list[Tensor]:
    return random_stages(segmenter, (height, width), draw=torch.rand)


def _read(logits: Tensor, features: Sequence[Tensor]) -> list[bool]:
    gradients = torch.autograd.grad(logits.sum(), features, retain_graph=True, allow_unused=True)
    return [gradient is not None for gradient in gradients]


def _two_convs(features: Tensor, convs: nn.Module, width: int) -> Tensor:
    pair = [conv for conv in convs.modules() if isinstance(conv, nn.Conv2d)]
    assert [conv.out_channels for conv in pair] == [width, width]
    for conv in pair:
        features = F.relu(F.conv2d(features, conv.weight, conv.bias, padding=1))
    return features


@torch.no_grad()
def test_contracting_path_is_the_papers(unet: Any) -> None:
    features = torch.randn(1, 3, 32, 48)
    found = unet.encoder(features)
    assert len(found) == len(WIDTHS)
    for level, (stage, width) in enumerate(zip(found, WIDTHS, strict=True)):
        pooled = F.max_pool2d(features, 2) if level else features
        features = _two_convs(pooled, unet.encoder.stages[level], width)
        torch.testing.assert_close(stage, features)


@torch.no_grad()
def test_expanding_path_joins_the_skip_and_then_what_comes_up(unet: Any) -> None:
    *skips, features = stages = _stages(unet)
    paths = zip(unet.decoder.ups, unet.decoder.joins, skips[::-1], strict=True)
    for up, join, skip in paths:
        assert up.weight.shape == (2 * skip.shape[1], skip.shape[1], 2, 2)
        doubled = F.conv_transpose2d(features, up.weight, up.bias, stride=2)
        features = _two_convs(torch.cat([skip, doubled], dim=1), join, skip.shape[1])
    expected = unet.decoder.classifier(features)
    heads, _ = unet.decoder(torch.empty(1, 3, 32, 48), tuple(stages))
    torch.testing.assert_close(heads[0], expected)


def test_has_the_papers_23_convolutions_with_biases_and_no_batch_norm() -> None:
    with torch.device("meta"):
        modules = list(_build(aux=False).modules())
    convs = [one for one in modules if isinstance(one, nn.Conv2d | nn.ConvTranspose2d)]
    assert sorted(conv.kernel_size[0] for conv in convs) == [1, *4 * [2], *18 * [3]]
    assert all(conv.bias is not None for conv in convs)
    assert not [one for one in modules if isinstance(one, nn.modules.batchnorm._BatchNorm)]


def test_each_head_reads_the_stages_from_its_size_down(unet: Any) -> None:
    stages = _stages(unet)
    (main, aux), _ = unet.decoder(torch.empty(1, 3, 32, 48), tuple(stages))
    assert _read(main, stages) == [True, True, True, True, True]
    assert _read(aux, stages) == [False, False, True, True, True]
    assert (main.shape[-2:], aux.shape[-2:]) == ((32, 48), (8, 12))


@torch.no_grad()
def test_dropout_at_the_end_of_the_contracting_path_alone(unet: Any) -> None:
    seen: list[Tensor] = []
    parts = (unet.decoder.ups[0], unet.decoder.joins[0], unet.decoder.joins[-1])
    hooks = [part.register_forward_pre_hook(lambda _, given: seen.append(*given)) for part in parts]
    stages = tuple(torch.ones_like(stage) for stage in _stages(unet))
    unet.decoder.train()(torch.empty(1, 3, 32, 48), stages)
    unet.decoder.eval()
    for hook in hooks:
        hook.remove()
    deepest, *joins = seen
    assert set(deepest.unique().tolist()) == {0.0, 2.0}
    assert (deepest == 0).float().mean().item() == pytest.approx(0.5, abs=0.05)
    assert all((joined[:, : joined.shape[1] // 2] == 1).all() for joined in joins)


@pytest.mark.parametrize("encoder", ["resnet18", "vgg11"])
def test_any_encoder_whose_stages_halve_takes_its_place(encoder: str) -> None:
    with torch.device("meta"):
        segmenter: Any = _build(encoder=encoder, output_stride=32)
        stages = _stages(segmenter, 32, 64)
        (main, aux), _ = segmenter.decoder(torch.empty(1, 3, 32, 64), tuple(stages))
    assert all(_read(main, stages))
    assert _read(aux, stages) == [step >= 4 for step in segmenter.encoder.reductions]
    assert main.shape[-2:] == stages[0].shape[-2:]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"encoder": "resnet18"},
            r"model.output_stride: unet expected each stage half the one before it, got 1/2, "
            r"1/4, 1/8, 1/16, 1/16 .*'resnet18' at output stride 16. Fix: set model.output_str",
        ),
        (
            {"output_stride": 32},
            "model.output_stride: expected 16, the only one of encoder 'unet', got 32",
        ),
        ({"encoder": "resnet18", "output_stride": 8}, "model.output_stride: .* 16 or 32, got 8"),
        (
            {"weights": "imagenet"},
            "model.weights: expected none with encoder 'unet', got imagenet: its paper trains "
            "it from scratch .*set model.weights: none",
        ),
    ],
)
def test_what_does_not_fit_is_named(changes: dict[str, Any], message: str) -> None:
    with torch.device("meta"), pytest.raises(JobError, match=message):
        _build(**changes)


def test_an_encoder_trained_from_scratch_takes_its_own_weights_alone() -> None:
    trained, fresh = (build_encoder("unet", 16) for _ in range(2))
    state = trained.state_dict()
    assert fresh.load(state) == (len(state), ())
    assert all(torch.equal(state[key], value) for key, value in fresh.state_dict().items())
    key = "stages.0.0.weight"
    message = rf"model.weights_uri: expected weights of encoder 'unet', .*missing: {key}"
    with pytest.raises(JobError, match=message):
        fresh.load({name: value for name, value in state.items() if name != key})
    with pytest.raises(JobError, match=r"optim.sgd_multiplicity: .*with encoder 'unet'"):
        fresh.multiplicities()


def test_an_encoder_that_could_be_pretrained_is_asked_how_it_starts() -> None:
    with pytest.raises(JobError, match=r"^model.weights: missing, expected imagenet or none"):
        build_segmenter({"architecture": "unet", "encoder": "resnet18", "output_stride": 32}, 5)


def test_the_auxiliary_head_never_reads_what_the_main_one_does() -> None:
    with torch.device("meta"):
        for encoder, size_hw in (("resnet18", (16, 24)), ("convnext_atto", (8, 12))):
            values = {"encoder": encoder, "output_stride": 32, "weights": "none"}
            segmenter: Any = build_segmenter({"architecture": "unet", **values}, 5)
            images = torch.empty(1, 3, 64, 96)
            (main, aux), _ = segmenter.decoder(images, segmenter.encoder(images))
            assert aux.shape[-2:] == size_hw and main.shape[-1] > aux.shape[-1]
