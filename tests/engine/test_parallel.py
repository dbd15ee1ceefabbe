"""Sharded networks learn as whole ones do, and can be used, saved and loaded as such."""

from typing import Any

import pytest
import torch

from adapt.batch import Batch
from adapt.engine.adamw import AdamWConfig
from adapt.engine.engine import Engine
from adapt.engine.parallel import large_networks
from adapt.engine.sgd import SGDConfig
from adapt.engine.train_config import TrainConfig
from adapt.methods import build_method
from adapt.methods.distillation import Distillation, DistillationConfig
from adapt.methods.moving_average import MovingAverageConfig
from adapt.models import build_encoder, build_segmenter
from adapt.ranks import local_part
from tests.conftest import small_method
from tests.networks import SURE, TEACHER
from tests.rank_processes import on_ranks
from tests.test_ranks import GLOBAL_BATCH, batch

CASES: dict[str, dict[str, Any]] = {
    "advent": {
        "method": "advent",
        "optim": {"adam": "legacy", "sgd_multiplicity": "official"},
        "encoder": "caffe_resnet14",
        "train": {"clip_norm": 0.5},
    },
    "daformer": {
        "method": "daformer",
        "optim": {"name": "adamw"},
        "train": {"ema": MovingAverageConfig(alpha=0.6)},
    },
    "synced": {
        "method": "source_only",
        "norm": "train",
        "train": {
            "accumulate": 1,
            "sync_batch_norm": True,
            "activation_checkpointing": "blocks",
        },
    },
    "adapted": {
        "method": "source_only",
        "encoder": "test_vit",
        "optim": {"name": "adamw"},
        "adapters": {"kind": "lora", "rank": 2},
        "train": {"clip_norm": 0.5, "activation_checkpointing": "blocks"},
    },
    "frozen": {
        "method": "dacs",
        "encoder": "test_vit",
        "frozen_encoder": True,
        "train": {"clip_norm": 0.5},
    },
    "bad": {"method": "dacs", "bad_row": 5, "train": {"clip_norm": 1.0}},
    "accumulated": {
        "method": "dacs",
        "optim": {"name": "adamw"},
        "train": {"accumulate": 3, "clip_norm": 0.5},
    },
    "distilled": {
        "method": "advent",
        "distilled": True,
        "train": {"accumulate": 3, "clip_norm": 0.5, "activation_checkpointing": "blocks"},
    },
    "taught": {
        "method": "distil",
        "config": {"teacher": {"model": TEACHER, "uri": "trained"}},
        "optim": {"name": "adamw"},
        "train": {"clip_norm": 0.5, "ema": MovingAverageConfig(alpha=0.6)},
    },
    "taught by one that learns": {
        "method": "distil",
        "distilled": True,
        "optim": {"name": "adamw"},
        "train": {"clip_norm": 0.5},
    },
}
NARROW, AVERAGED = "held in bf16", "held in bf16, averaged"
ROUNDED: dict[str, dict[str, Any]] = {
    NARROW: {
        "method": "dacs",
        "distilled": True,
        "encoder": "test_vit",
        "optim": {"name": "adamw"},
        "adapters": {"kind": "soma", "rank": 2},
        "dtype": torch.float32,
        "train": {
            "precision": "bf16",
            "frozen_weights": "bf16",
            "ema": MovingAverageConfig(alpha=0.6),
        },
    }
}
"""Whose sums over several ranks' images are rounded otherwise than those over one's."""
SHARDED = {"daformer": 4, "distilled": 2, "taught": 3, "taught by one that learns": 4}
"""Large networks: students, their averages, teachers, fixed and foundation encoders."""
STEPS = 3


def engine(case: str, parallel: str) -> Engine:
    given = {**CASES, **ROUNDED}[case]
    torch.manual_seed(3)
    encoder = given.get("encoder", "test_resnet")
    model = {"architecture": "deeplab_v2", "encoder": encoder, "weights": "none"}
    model |= {"output_stride": 8 if encoder.startswith("caffe") else 16}
    model |= {key: given[key] for key in ("adapters", "frozen_encoder") if key in given}
    segmenter = build_segmenter({**model, "norm": given.get("norm", "frozen")}, 4)
    segmenter.start_adapters()
    name, add_ons = given["method"], {}
    if "distilled" in given:
        near = DistillationConfig(encoder="test_resnet", size_hw=(32, 32))
        foundation = build_encoder(near.encoder, 32)
        add_ons = {"distillation": Distillation(near, segmenter, foundation)}
    values = {**small_method(name), **SURE.get(name, {}), **given.get("config", {})}
    method = build_method(values, segmenter, add_ons)
    method.observe_source(torch.tensor([[40, 30, 20, 10], [10, 0, 50, 40]]))
    train = TrainConfig(steps=10, parallel=parallel, **given["train"])
    optim = given.get("optim", {})
    config = (AdamWConfig if "name" in optim else SGDConfig)(**optim)
    return Engine(method.to(given.get("dtype", torch.float64)), train, config, torch.device("cpu"))


def step(one: Engine, number: int, rows: slice, bad_row: int | None = None) -> Any:
    dtype = next(one.method.segmenter.decoder.parameters()).dtype
    source, target = (
        given._replace(images=given.images.to(dtype))
        for given in (
            batch(number, rows, bad_row if number == 1 else None),
            batch(100 + number, rows),
        )
    )
    return one.mean_over_ranks(one.step(source, Batch(target.images, None, target.keys)))


def trained(rank: int, num_ranks: int, case: str, parallel: str) -> dict[str, Any]:
    size = GLOBAL_BATCH // num_ranks
    rows = slice(rank * size, (rank + 1) * size)
    one = engine(case, parallel)
    logged = [
        step(one, number, rows, CASES.get(case, {}).get("bad_row")) for number in range(STEPS)
    ]
    parts = {p.shape: local_part(p).shape for p in one.method.segmenter.parameters()}
    whole = {}
    for name in one.networks():
        with one.used(name) as network, torch.no_grad():
            for _ in range(1 + rank):  # as evaluations of uneven splits
                images = batch(7, slice(0, 1)).images.to(next(network.decoder.parameters()).dtype)
                whole[name] = network.eval()(images).logits[0]
    state = {
        key: getattr(value, "full_tensor", lambda v=value: v)()
        for key, value in one.modules().state_dict().items()
    }
    return {
        "logged": logged,
        "weights": state,
        "whole": whole,
        "parts": parts,
        "bad": one.bad_steps,
        "sharded": len(large_networks(one.modules())),
    }


def all_cases(rank: int, num_ranks: int) -> Any:
    cases = {case: trained(rank, num_ranks, case, "fsdp2") for case in (*CASES, *ROUNDED)}
    return cases | {AVERAGED: trained(rank, num_ranks, NARROW, "average")}


@pytest.fixture(scope="module")
def on_two_ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return on_ranks(2, tmp_path_factory.mktemp("sharded"), all_cases)


@pytest.mark.slow
@pytest.mark.xdist_group("two sharded ranks")
@pytest.mark.parametrize("case", CASES)
def test_sharded_ranks_learn_as_one(case: str, on_two_ranks: list[dict[str, Any]]) -> None:
    expected = trained(0, 1, case, "average")
    for found in (ranks[case] for ranks in on_two_ranks):
        for key, value in expected["weights"].items():
            torch.testing.assert_close(
                found["weights"][key], value, rtol=1e-10, atol=1e-10, msg=key
            )
        for one, several in zip(expected["logged"], found["logged"], strict=True):
            assert several == pytest.approx(one, rel=1e-10, abs=1e-10, nan_ok=True)
        for name, logits in expected["whole"].items():
            torch.testing.assert_close(found["whole"][name], logits, rtol=1e-10, atol=1e-10)
        assert [number for number, _ in found["bad"]] == [one for one, _ in expected["bad"]]
        assert all(whole[0] >= 2 * part[0] - 1 for whole, part in found["parts"].items())
    assert on_two_ranks[0][case]["sharded"] == SHARDED.get(case, found["sharded"])


@pytest.mark.slow
@pytest.mark.xdist_group("two sharded ranks")
def test_frozen_weights_in_bf16_are_shared_out_as_such(
    on_two_ranks: list[dict[str, Any]],
) -> None:
    for ranks in on_two_ranks:
        found, expected = ranks[NARROW], ranks[AVERAGED]
        assert found["logged"] == [pytest.approx(one, rel=1e-5) for one in expected["logged"]]
        narrow = {key for key, one in found["weights"].items() if one.dtype == torch.bfloat16}
        assert any(key.endswith("qkv.weight") for key in narrow)
        for key, value in expected["weights"].items():
            assert found["weights"][key].dtype == value.dtype, key
            torch.testing.assert_close(found["weights"][key], value, msg=key)
        for name, logits in expected["whole"].items():
            torch.testing.assert_close(found["whole"][name], logits, rtol=1e-4, atol=1e-4)


def test_one_rank_holds_all() -> None:
    one = engine("daformer", "fsdp2")
    assert all(local_part(p) is p for p in one.modules().parameters())
