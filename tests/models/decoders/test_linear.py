"""What the linear head promises beyond the contract: batch norm and one linear map of tokens."""

from typing import Any

import pytest
import torch
from torch import Tensor

from adapt.errors import JobError
from adapt.models import build_segmenter
from adapt.models.decoders.linear import linear_head
from tests.networks import random_stages

torch.set_num_threads(1)
NUM_CLASSES = 5
IMAGE_HW = (32, 48)


def _build(**changes: Any) -> Any:
    torch.manual_seed(0)
    values = {"architecture": "linear", "encoder": "test_vit", "weights": "none"}
    return build_segmenter({**values, **changes}, NUM_CLASSES).eval()


def _heads(segmenter: Any, stages: list[Tensor]) -> list[Tensor]:
    heads, _ = segmenter.decoder(torch.empty(1, 3, *IMAGE_HW), tuple(stages))
    return heads


@torch.no_grad()
def test_logits_by_hand() -> None:
    """Channels 0 and 1 of means 1 and 2, variances 4 and 16; weights 1, -1 and 10, 0; biases 0, 7.

    Token (3, 10): (3 - 1) / 2 = 1, (10 - 2) / 4 = 2, so 1 - 2 = -1 and 10 + 7 = 17.
    """
    head: Any = linear_head(2, 2).eval()
    head[0].eps = 0
    head[0].running_mean.copy_(torch.tensor([1.0, 2.0]))
    head[0].running_var.copy_(torch.tensor([4.0, 16.0]))
    head[1].weight.copy_(torch.tensor([[1.0, -1.0], [10.0, 0.0]])[:, :, None, None])
    head[1].bias.copy_(torch.tensor([0.0, 7.0]))
    tokens = torch.tensor([[3.0, 10.0], [1.0, 2.0]]).T.view(1, 2, 1, 2)
    expected = torch.tensor([[[[-1.0, 0.0]], [[17.0, 7.0]]]])
    torch.testing.assert_close(head(tokens), expected)


@pytest.mark.parametrize(
    ("stages", "reads", "channels"), [("last", [3], 64), ("all", [0, 1, 2, 3], 256)]
)
def test_heads_read_their_stages_alone(stages: str, reads: list[int], channels: int) -> None:
    segmenter = _build(stages=stages)
    features = random_stages(segmenter, IMAGE_HW)
    main, aux = _heads(segmenter, features)
    assert main.shape == aux.shape == (1, NUM_CLASSES, 2, 3)
    for logits, expected in ((main, reads), (aux, [2])):
        gradients = torch.autograd.grad(logits.sum(), features, allow_unused=True)
        assert [level for level, one in enumerate(gradients) if one is not None] == expected
    assert segmenter.decoder.main[0].num_features == channels


def test_a_logit_sees_its_token_alone() -> None:
    segmenter = _build(stages="all")
    features = random_stages(segmenter, IMAGE_HW)
    main, _ = _heads(segmenter, features)
    for gradient in torch.autograd.grad(main[0, 1, 1, 2], features):
        assert gradient[0].any(dim=0).nonzero().tolist() == [[1, 2]]


def test_starts_as_the_program_does() -> None:
    classifier: Any = linear_head(4000, 19)[1]
    assert classifier.weight.std().item() == pytest.approx(0.01, rel=0.02)
    assert not classifier.bias.any()


def test_parameters_are_those_of_its_layers() -> None:
    """Gamma, beta, weights and biases, of either head."""
    decoder = _build(stages="all").decoder
    main, aux = 2 * 256 + 256 * NUM_CLASSES + NUM_CLASSES, 2 * 64 + 64 * NUM_CLASSES + NUM_CLASSES
    assert sum(parameter.numel() for parameter in decoder.parameters()) == main + aux


def test_patches_of_another_size_and_encoders_without_tokens() -> None:
    assert _build(output_stride=14).encoder.reductions == (14, 14, 14, 14)
    with pytest.raises(JobError, match=r"model.encoder: expected a vision transformer, .*resnet18"):
        _build(encoder="resnet18")
    with pytest.raises(JobError, match=r"model.output_stride: expected 14 or 16 or null, got 32"):
        _build(output_stride=32)
    with pytest.raises(JobError, match=r"model.stages: expected .*, got 'two'"):
        _build(stages="two")
