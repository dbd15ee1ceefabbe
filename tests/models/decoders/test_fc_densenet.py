"""What FC-DenseNet promises beyond the contract of architectures: only new maps go up."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adapt.errors import JobError
from adapt.models import build_segmenter
from adapt.models.encoders.fc_densenet import DenseBlock

torch.set_num_threads(1)
NUM_CLASSES = 5
WENT_UP = {
    "fc_densenet56": [48] * 5,
    "fc_densenet67": [80] * 5,
    "fc_densenet103": [240, 192, 160, 112, 80],
}
"""Channels that enter each transition up: those of its block's new maps."""

STACKS = {"fc_densenet56": 192, "fc_densenet67": 288, "fc_densenet103": 256}
"""Channels that the classifier reads."""


def _build(**changes: Any) -> Any:
    torch.manual_seed(0)
    return build_segmenter({"architecture": "fc_densenet", **changes}, NUM_CLASSES).eval()


@pytest.fixture(scope="module")
def smallest() -> Any:
    return _build(encoder="fc_densenet56")


class Watch:
    """What modules of some kind are given and make within a `with`, in the order they run."""

    def __init__(self, *modules: nn.Module) -> None:
        self.modules = modules
        self.given, self.made = list[Tensor](), list[Tensor]()

    def __enter__(self) -> "Watch":
        self.hooks = [module.register_forward_hook(self._note) for module in self.modules]
        return self

    def __exit__(self, *error: object) -> None:
        for hook in self.hooks:
            hook.remove()

    def _note(self, module: nn.Module, given: tuple[Tensor], made: Tensor) -> None:
        self.given.append(given[0].clone())
        self.made.append(made.clone())


@pytest.mark.parametrize("encoder", WENT_UP)
def test_channels_that_go_up_and_that_the_classifier_reads(encoder: str) -> None:
    with torch.device("meta"):
        segmenter = _build(encoder=encoder)
        ups = [one for one in segmenter.modules() if isinstance(one, nn.ConvTranspose2d)]
        with Watch(*ups, segmenter.decoder.classifier) as watch:
            stages = segmenter.encoder(torch.empty(1, 3, 32, 64))
            segmenter.decoder(torch.empty(1, 3, 32, 64), stages)
    assert [given.shape[1] for given in watch.given] == [*WENT_UP[encoder], STACKS[encoder]]


@torch.no_grad()
def test_a_transition_up_reads_new_maps_and_the_skip_comes_first(smallest: Any) -> None:
    encoder, decoder = smallest.encoder, smallest.decoder
    images = torch.randn(1, 3, 64, 32)
    with Watch(*decoder.ups) as ups, Watch(encoder.blocks[-1], *decoder.blocks) as blocks:
        *skips, _ = encoder(images)
        stages = (*skips, blocks.made[0])
        with Watch(decoder.classifier) as classifier:
            decoder(images, stages)
    for number, skip in enumerate(skips[::-1]):
        assert torch.equal(ups.given[number], blocks.made[number])
        stack = torch.cat([skip, ups.made[number]], dim=1)
        assert torch.equal(blocks.given[number + 1], stack)
    assert torch.equal(classifier.given[0], torch.cat([stack, blocks.made[-1]], dim=1))


@torch.no_grad()
def test_transition_down_convolves_and_then_pools(smallest: Any) -> None:
    encoder = smallest.encoder
    with Watch(*encoder.blocks) as blocks:
        *stacks, _ = encoder(torch.randn(1, 3, 64, 32))
    for number, (norm, _, conv, _) in enumerate(encoder.transitions):
        stack = torch.cat([blocks.given[number], blocks.made[number]], dim=1)
        assert torch.equal(stacks[number], stack)
        assert conv.weight.shape == (stack.shape[1], stack.shape[1], 1, 1)
        expected = F.max_pool2d(conv(F.relu(norm(stack))), 2)
        torch.testing.assert_close(blocks.given[number + 1], expected)


@torch.no_grad()
def test_dense_block_by_hand() -> None:
    torch.manual_seed(0)
    block = DenseBlock(3, growth=4, count=3).eval()
    stack = features = torch.randn(2, 3, 5, 6)
    for norm, _, conv, _ in block.layers:
        nn.init.normal_(norm.running_mean)
        assert conv.kernel_size == (3, 3)
        stack = torch.cat([stack, conv(F.relu(norm(stack)))], dim=1)
    torch.testing.assert_close(block(features), stack[:, 3:])


@torch.no_grad()
def test_every_layer_drops_single_values(smallest: Any) -> None:
    drops = [one for one in smallest.modules() if type(one) is nn.Dropout]
    assert [one.p for one in drops] == [0.2] * (11 * 4 + 5)
    block = DenseBlock(3, growth=4, count=3).train()
    for *_, conv, _ in block.layers:
        nn.init.zeros_(conv.weight)
        nn.init.ones_(conv.bias)
    made = block(torch.randn(1, 3, 40, 40))
    assert set(made.unique().tolist()) == {0.0, 1.25}
    dropped = (made == 0).float().mean(dim=(2, 3))
    torch.testing.assert_close(dropped, torch.full_like(dropped, 0.2), atol=0.05, rtol=0)


def test_starts_from_he_uniform(smallest: Any) -> None:
    convs = [m for m in smallest.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    for conv in convs:
        bound = (6 / conv.weight[0].numel()) ** 0.5
        assert 0.9 * bound < conv.weight.abs().max().item() <= bound
        assert not conv.bias.any()


def test_aux_reads_the_way_up_at_a_quarter(smallest: Any) -> None:
    made = smallest.encoder(torch.randn(1, 3, 32, 64))
    stages = [stage.detach().requires_grad_() for stage in made]
    (main, aux), _ = smallest.decoder(torch.empty(1, 3, 32, 64), tuple(stages))
    assert (main.shape[-2:], aux.shape[-2:]) == ((32, 64), (8, 16))
    gradients = torch.autograd.grad(aux.sum(), stages, allow_unused=True)
    assert [one is not None for one in gradients] == [False, False, True, True, True, True]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder": "densenet121"}, "model.encoder: .* or fc_densenet103, got 'densenet121'"),
        ({"encoder": "resnet18"}, "model.encoder: .* or fc_densenet103, got 'resnet18'"),
        ({"output_stride": 16}, "model.output_stride: .*32, got 16"),
        ({"weights": "imagenet"}, "model.weights: expected none, got 'imagenet'"),
    ],
)
def test_what_does_not_fit_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(JobError, match=message):
        _build(**changes)
