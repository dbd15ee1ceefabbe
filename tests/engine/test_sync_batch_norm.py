"""Synchronised batch norm: N ranks normalise, and learn, as one rank with the whole batch."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from adapt.engine.engine import Engine
from adapt.engine.sgd import SGDConfig
from adapt.engine.sync_batch_norm import SyncBatchNorm
from adapt.engine.train_config import TrainConfig
from adapt.methods import build_method
from adapt.models import build_segmenter
from adapt.models.decoders.deeplab_v2 import DeepLabV2Config
from tests.rank_processes import on_ranks
from tests.test_ranks import GLOBAL_BATCH, batch
from tests.tiers import one_in

STEPS = 2


def train(encoder: str, rows: slice, synced: bool) -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    config = DeepLabV2Config(encoder=encoder, output_stride=16, weights="none", norm="train")
    method = build_method({"name": "advent"}, build_segmenter(config, 4)).double()
    settings = TrainConfig(steps=10, sync_batch_norm=synced)
    engine = Engine(method, settings, SGDConfig(), torch.device("cpu"))
    for step in range(STEPS):
        engine.step(batch(step, rows), batch(100 + step, rows))
    assert engine.bad_steps == []
    return engine.method.state_dict()


def share_of_the_work(rank: int, num_ranks: int, encoder: str, synced: bool) -> Any:
    size = GLOBAL_BATCH // num_ranks
    return train(encoder, slice(rank * size, (rank + 1) * size), synced)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("encoder", "num_ranks"), one_in(3, [("resnet18", 3), ("resnet18", 2), ("efficientnet_b0", 2)])
)
def test_ranks_normalise_as_one(encoder: str, num_ranks: int, tmp_path: Path) -> None:
    expected = train(encoder, slice(None), synced=False)
    for found in on_ranks(num_ranks, tmp_path, share_of_the_work, encoder, True):
        for key, value in expected.items():
            torch.testing.assert_close(found[key], value, rtol=1e-10, atol=1e-10, msg=key)


@pytest.mark.slow
def test_without_it_ranks_differ(tmp_path: Path) -> None:
    expected = train("resnet18", slice(None), synced=False)
    found = on_ranks(2, tmp_path, share_of_the_work, "resnet18", False)[0]
    assert any((found[key] - value).abs().max() > 1e-6 for key, value in expected.items())


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_alone_it_is_batch_norm(affine: bool, dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    norms = [torch.nn.BatchNorm2d(3, affine=affine).to(dtype) for _ in range(2)]
    inputs = torch.randn(4, 3, 5, 6, dtype=dtype)
    with SyncBatchNorm():
        found = norms[0](inputs)
    tolerance = 1e-12 if dtype == torch.float64 else 0.02
    torch.testing.assert_close(found, norms[1](inputs), rtol=tolerance, atol=tolerance)
    for one, other in zip(norms[0].buffers(), norms[1].buffers(), strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def test_running_statistics_are_used_as_ever() -> None:
    norm = torch.nn.BatchNorm2d(3).eval()
    inputs = torch.randn(2, 3, 4, 4)
    with SyncBatchNorm():
        assert torch.equal(norm(inputs), F.batch_norm(inputs, norm.running_mean, norm.running_var))
