"""Blocks that compute again in the backward pass: the same numbers bit for bit, in less memory."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from adapt.batch import Batch
from adapt.engine.activation_checkpointing import checkpoint_blocks
from adapt.engine.engine import Engine
from adapt.engine.sgd import SGDConfig
from adapt.engine.train_config import TrainConfig
from adapt.errors import JobError
from adapt.methods import build_method
from adapt.models import build_encoder, build_segmenter
from adapt.models.encoders.encoder import Encoder
from tests.networks import SURE, Untouched
from tests.rank_processes import on_ranks
from tests.test_ranks import GLOBAL_BATCH, batch

torch.set_num_threads(1)
HW = (64, 64)


def trained(encoder: str, method: str = "source_only", **train: Any) -> dict[str, Tensor]:
    """Networks and losses after two steps."""
    torch.manual_seed(3)
    model = {"architecture": "deeplab_v2", "encoder": encoder, "weights": "none", "norm": "train"}
    stride = {"caffe_resnet14": 8}.get(encoder, 16)
    segmenter = build_segmenter({**model, "output_stride": stride}, 4)
    built = build_method({"name": method, **SURE.get(method, {})}, segmenter)
    engine = Engine(built, TrainConfig(steps=4, **train), SGDConfig(), torch.device("cpu"))
    random, logged = torch.Generator().manual_seed(1), {}
    for step in range(2):
        source, target = torch.randn(2, 2, 3, *HW, generator=random)
        labels = torch.randint(4, (2, *HW), generator=random)
        keys = ("a", "b")
        found = engine.step(Batch(source, labels, keys), Batch(target, None, keys))
        logged |= {f"{step}/{name}": value for name, value in found.items()}
    return {**engine.method.state_dict(), **logged}


@pytest.mark.parametrize(
    ("encoder", "method", "train"),
    [
        ("test_resnet", "dacs", {}),
        ("test_resnet", "source_only", {"precision": "bf16", "accumulate": 2}),
        ("caffe_resnet14", "source_only", {}),
        ("mobilenetv3_small_100", "source_only", {}),
        ("test_convnext", "source_only", {}),
        ("test_vit", "source_only", {}),
        ("densenet121", "source_only", {}),
    ],
)
def test_networks_train_the_same_bit_for_bit(
    encoder: str, method: str, train: dict[str, Any]
) -> None:
    expected = trained(encoder, method, **train)
    found = trained(encoder, method, activation_checkpointing="blocks", **train)
    assert expected.keys() == found.keys()
    for key, value in expected.items():
        assert torch.equal(found[key], value), key


class Block(nn.Module):
    """Draws dropout, moves statistics, has a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Dropout(0.5), nn.Hardswish()
        )
        self.runs = 0

    def forward(self, features: Tensor) -> Tensor:
        self.runs += 1
        return features + self.layers(features)


class Blocks(Untouched):
    """A stage of two blocks."""

    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__(build_encoder("test_resnet", 16).pixels)
        self.layers = nn.ModuleList(blocks)

    def blocks(self) -> list[nn.Module]:
        return list(self.layers)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        for block in self.layers:
            images = block(images)
        return (images,)


def two_blocks() -> Blocks:
    torch.manual_seed(1)
    return Blocks(Block(), Block())


def test_dropout_is_drawn_once_and_statistics_move_once() -> None:
    found = {}
    for checkpointed in (False, True):
        encoder = two_blocks()
        if checkpointed:
            checkpoint_blocks(encoder)
        torch.manual_seed(2)
        images = torch.randn(2, 3, 8, 8)
        encoder(images)[0].square().sum().backward()
        gradients = [parameter.grad for parameter in encoder.parameters()]
        found[checkpointed] = [*gradients, *encoder.buffers(), torch.rand(1)]
        assert [block.runs for block in encoder.layers] == [1 + checkpointed] * 2
        assert int(encoder.layers[0].layers[1].num_batches_tracked) == 1
    for expected, one in zip(found[False], found[True], strict=True):
        assert expected is not None and torch.equal(expected, one)


def test_nothing_is_computed_again_without_gradients() -> None:
    encoder = two_blocks()
    checkpoint_blocks(encoder)
    with torch.no_grad():
        encoder(torch.randn(1, 3, 8, 8))
    assert [block.runs for block in encoder.layers] == [1, 1]


class Counting(Block):
    """Moves a buffer that is no batch norm's."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, features: Tensor) -> Tensor:
        self.get_buffer("seen").add_(1)
        return super().forward(features)


def test_other_moving_buffers_are_refused() -> None:
    encoder = Blocks(Counting())
    checkpoint_blocks(encoder)
    expected = (
        r"^train.activation_checkpointing: expected blocks in which batch norm alone moves its "
        r"statistics, got Counting, which would move others twice$"
    )
    with pytest.raises(JobError) as raised:
        encoder(torch.randn(1, 3, 8, 8))[0].sum().backward()
    assert raised.match(expected[:-1]) and raised.value.fix.endswith("checkpointing: none")


@pytest.mark.parametrize("name", ["vgg16_bn", "caffe_vgg16"])
def test_single_layers_are_refused(name: str) -> None:
    with torch.device("meta"):
        encoder: Encoder = build_encoder(name, 8)
    with pytest.raises(JobError, match=r"expected none with encoder '.*vgg16.*', which has no bl"):
        checkpoint_blocks(encoder)


def synced(rank: int, num_ranks: int, checkpointing: str) -> dict[str, Tensor]:
    size = GLOBAL_BATCH // num_ranks
    rows = slice(rank * size, (rank + 1) * size)
    torch.manual_seed(3)
    model = {"architecture": "deeplab_v2", "encoder": "test_resnet", "output_stride": 16}
    segmenter = build_segmenter({**model, "weights": "none", "norm": "train"}, 4)
    method = build_method({"name": "source_only"}, segmenter).double()
    settings = TrainConfig(
        steps=9, sync_batch_norm=num_ranks > 1, activation_checkpointing=checkpointing
    )
    engine = Engine(method, settings, SGDConfig(), torch.device("cpu"))
    for step in range(2):
        engine.step(batch(step, rows), None)
    return engine.method.state_dict()


@pytest.mark.slow
def test_ranks_that_normalise_together_do_so_the_second_time_too(tmp_path: Path) -> None:
    expected = synced(0, 1, "none")
    for found in on_ranks(2, tmp_path, synced, "blocks"):
        for key, value in expected.items():
            torch.testing.assert_close(found[key], value, rtol=1e-10, atol=1e-10, msg=key)
