"""A batch in parts trains as one batch does, however unevenly ignored pixels are spread."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from adapt.batch import IGNORED, Batch
from adapt.config.validation import validate
from adapt.counts import counted_together, shared_count
from adapt.engine.engine import Engine
from adapt.engine.sgd import SGDConfig
from adapt.engine.train_config import MEANS, TrainConfig
from adapt.methods import METHODS, build_method
from adapt.models import ARCHITECTURES, build_segmenter
from adapt.models.pixel_loss import LossConfig
from adapt.models.segmenter import Segmenter
from tests.networks import SURE, tiny_model

torch.set_num_threads(1)
HW, NUM_CLASSES, BATCH = (32, 64), 4, 4
PIXELS = torch.tensor([[40, 30, 20, 10], [10, 0, 50, 40]])
LOSSES: dict[str, dict[str, Any]] = {
    "plain": {},
    "balanced": {"class_weights": "balanced"},
    "listed": {"class_weights": [0.0, 0.2, 7.0, 1.0]},
    "hardest": {"hardest": 0.3},
    "both": {"class_weights": "balanced", "hardest": 0.25},
}


def _labels() -> Tensor:
    """The first image counts all of its pixels, the second few, the third none."""
    labels = torch.randint(NUM_CLASSES, (BATCH, *HW), generator=torch.Generator().manual_seed(1))
    labels[1, :, 3:] = IGNORED
    labels[2] = IGNORED
    labels[3, ::2] = IGNORED
    return labels


def _network(architecture: str, loss: dict[str, Any]) -> Segmenter:
    torch.manual_seed(3)
    segmenter = build_segmenter({**tiny_model(architecture), "norm": "frozen"}, NUM_CLASSES)
    segmenter.set_loss(validate(LossConfig, loss, "loss"), PIXELS)
    return segmenter.double()


def _engine(method: str, loss: dict[str, Any], **train: Any) -> Engine:
    built = build_method({"name": method, **SURE.get(method, {})}, _network("deeplab_v2", loss))
    built.observe_source(PIXELS)
    return Engine(built.double(), TrainConfig(steps=4, **train), SGDConfig(), torch.device("cpu"))


def _gradients(engine: Engine) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    random, keys = torch.Generator().manual_seed(2), tuple("abcd")
    source, target = torch.randn(2, BATCH, 3, *HW, generator=random, dtype=torch.float64)
    labels = _labels().flip(0) if type(engine.method).labels_target() else None
    logged = engine.step(Batch(source, _labels(), keys), Batch(target, labels, keys))
    named = engine.method.named_parameters()
    return logged, {name: one.grad for name, one in named if one.grad is not None}


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["plain", "both"])
@pytest.mark.parametrize("method", METHODS)
def test_parts_make_the_gradient_of_the_whole_batch(method: str, loss: str) -> None:
    logged, whole = _gradients(_engine(method, LOSSES[loss]))
    logged_in_parts, in_parts = _gradients(_engine(method, LOSSES[loss], accumulate=4))
    assert whole.keys() == in_parts.keys()
    for name, gradient in whole.items():
        torch.testing.assert_close(in_parts[name], gradient, rtol=1e-10, atol=1e-13, msg=name)
    for name, value in logged.items():
        torch.testing.assert_close(logged_in_parts[name], value, rtol=1e-10, atol=1e-13, msg=name)


def test_the_papers_mean_of_means_is_another() -> None:
    _, whole = _gradients(_engine("source_only", {}))
    _, means = _gradients(_engine("source_only", {}, accumulate=4, accumulate_mean="parts"))
    name = "decoder.heads.0.branches.0.bias"
    gradient, other = whole[f"segmenter.{name}"], means[f"segmenter.{name}"]
    assert float((gradient - other).norm() / gradient.norm()) > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architectures_losses_add_up(architecture: str) -> None:
    """Each head's, and those of side outputs: a part of the batch after the other."""
    segmenter, labels = _network(architecture, {}).eval(), _labels()
    with torch.no_grad():
        images = torch.randn(BATCH, 3, *HW, dtype=torch.float64)
        parts = [segmenter(images[row : row + 1]) for row in range(BATCH)]
        whole = segmenter(images)
    for name, values in LOSSES.items():
        segmenter.set_loss(validate(LossConfig, values, "loss"), PIXELS)
        expected = segmenter.segmentation_losses(whole, labels)
        chunks = labels.chunk(BATCH)
        with counted_together(chunks):
            pairs = zip(parts, chunks, strict=True)
            found = [segmenter.segmentation_losses(*pair) for pair in pairs]
        for head, (_, loss) in expected.items():
            mean = torch.stack([one[head][1] for one in found]).mean()
            assert mean.item() == pytest.approx(loss.item(), rel=1e-10), (name, head)


def test_labels_that_are_no_part_are_counted_alone() -> None:
    count: Callable[[Tensor], Tensor] = torch.count_nonzero
    parts = [torch.ones(1, 2, 2), torch.zeros(1, 2, 2)]
    with counted_together(parts):
        assert float(shared_count(parts[0], count)) == 2.0
        assert float(shared_count(parts[0].clone(), count)) == 4.0
    assert float(shared_count(parts[0], count)) == 4.0


def test_the_table_has_a_row_for_every_choice() -> None:
    schema = TrainConfig.model_json_schema()["properties"]["accumulate_mean"]
    assert set(schema["enum"]) == set(MEANS)
