"""Batch norm over too few values for bf16 is warned of, by domain."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from adapt.check.norms import LEAST_VALUES, norm_findings, norm_values
from adapt.models import build_segmenter
from tests.check.subjects import subject
from tests.networks import tiny_model


def warnings(folder: Path, *overrides: str, gpus: int = 1, method: str = "minent") -> list[str]:
    """The warnings of a BiSeNet, which normalises global averages: one value an image."""
    model = json.dumps(tiny_model("bisenet", "resnet18"))
    weights = ", weight_ent: [0.001]" if method == "minent" else ""
    common = [f"model={model}", f"method={{name: {method}{weights}}}", "train.precision=bf16"]
    sizes = [f"{key}.{size}" for key in ("source", "target") for size in SIZES]
    job = subject(folder, "packed", *common, *sizes, *overrides, profile={"gpus": gpus})
    found = list(norm_findings(job))
    assert all(one.ok and one.what == "batch norm" for one in found)
    return [one.found for one in found]


FOUR = ("source.batch_size=4", "target.batch_size=4")
SIZES = ("size_hw=[64,96]", "batch_size=2")


def test_norms_over_two_values_are_warned_of_by_domain(tmp_path: Path) -> None:
    source, target = warnings(tmp_path)
    assert source.startswith(
        "warning: 3 of 35 norms see 2 values a channel of 2 source images of 64x96 in bf16: "
    )
    assert "2 target images of 64x96" in target
    assert len(warnings(tmp_path, method="source_only")) == 1, "the target is not seen"
    (mixed,) = warnings(tmp_path, "source.batch_size=3", "source.size_hw=[16,16]", "target=null",
                        method="source_only")  # fmt: skip
    assert "see 3 values a channel of 3 source images of 16x16" in mixed


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "gpus", "domains"),
    [
        (["train.precision=fp32"], 1, []),
        (["source.batch_size=1"], 1, ["target"]),
        (["source.batch_size=4"], 1, ["target"]),
        (["source.augment.crop_hw=[16,16]"], 1, ["source", "target"]),
        ([*FOUR], 2, ["source", "target"]),
        ([*FOUR, "train.accumulate=2"], 1, ["source", "target"]),
        ([*FOUR, "train.sync_batch_norm=true"], 2, []),
        (["source.batch_size=3"], 2, []),  # does not fit the ranks, which is another line
    ],
)  # fmt: skip
def test_images_that_a_norm_sees_at_once_are_counted(
    overrides: list[str], gpus: int, domains: list[str], tmp_path: Path
) -> None:
    found = warnings(tmp_path, *overrides, gpus=gpus)
    assert [key for key in ("source", "target") if any(key in one for one in found)] == domains


def test_the_values_are_those_of_each_norms_map() -> None:
    torch.manual_seed(0)
    values = {
        "architecture": "deeplab_v2",
        "encoder": "resnet18",
        "weights": "none",
        "norm": "train",
    }
    with torch.device("meta"):
        segmenter = build_segmenter(values | {"output_stride": 32, "norm": "train"}, num_classes=4)
    maps = [(32, 48), *[(16, 24)] * 4, *[(8, 12)] * 5, *[(4, 6)] * 5, *[(2, 3)] * 5]
    assert sorted(norm_values(segmenter, 2, (64, 96))) == sorted(2 * h * w for h, w in maps)
    assert norm_values(segmenter, 2, (64, 96)), "a second look is as good"
    frozen = build_segmenter(values | {"norm": "frozen"}, num_classes=4)
    assert norm_values(frozen.to("meta"), 2, (64, 96)) == []


def gradient(count: int, seed: int, precision: torch.dtype) -> torch.Tensor:
    """Of a convolution, a norm over `count` values a channel, and ReLU, four times."""
    torch.manual_seed(seed)
    weights = [(torch.randn(256, 256, 1, 1) / 128**0.5).requires_grad_() for _ in range(4)]
    features = torch.randn(1, 256, 1, count).relu()
    with torch.autocast("cpu", dtype=precision, enabled=precision != torch.float32):
        for weight in weights:
            features = F.conv2d(features, weight)
            features = F.relu(F.batch_norm(features, None, None, training=True))
    (features.float() * torch.randn(1, 256, 1, count)).sum().backward()
    return torch.cat([weight.grad.flatten() for weight in weights if weight.grad is not None])


def test_bf16_computes_gradients_from_the_least_number_of_values_on() -> None:
    def likeness(count: int) -> float:
        pairs = [
            (gradient(count, seed, torch.bfloat16), gradient(count, seed, torch.float32))
            for seed in range(4)
        ]
        return sum(float(F.cosine_similarity(*pair, 0)) for pair in pairs) / len(pairs)

    assert likeness(2) < 0.5
    assert likeness(LEAST_VALUES - 1) < 0.9 < likeness(LEAST_VALUES)
