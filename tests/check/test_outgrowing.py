"""Which option makes a step fit: the cheapest alone, else the cheapest together."""

from typing import Any

import pytest

from adapt.check import outgrowing
from adapt.check.memory import MARGIN_BYTES, Peak, predicted_bytes
from adapt.check.outgrowing import fitting
from adapt.errors import JobError
from adapt.spec.job_spec import JobSpec
from adapt.spec.loading import parse_spec
from tests.check.test_memory import job_of
from tests.conftest import tiny_values

SAVED = {
    "accumulate": lambda parts: 6 * (1 - 1 / parts),
    "activation_checkpointing": lambda value: 4 * (value == "blocks"),
    "precision": lambda value: 3 * (value == "bf16"),
    "frozen_weights": lambda value: 2 * (value == "bf16"),
}
"""By key of `train`: gigabytes less, of 20."""


def needed(gb: float) -> int:
    return Peak(activations=int(gb * 1e9)).needed


def job(**train: Any) -> JobSpec:
    values = tiny_values("data", "runs")
    values["source"]["batch_size"] = 4
    values["target"] = {**values["target"], "batch_size": 8}
    values["train"] |= train
    return parse_spec(values, "tiny")


@pytest.fixture(autouse=True)
def double(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A prediction by the table above, and what it was asked for."""
    asked: list[dict[str, Any]] = []

    def predicted(job: JobSpec, num_ranks: int, _sizes: object = None) -> Peak:
        asked.append({key: getattr(job.train, key) for key in SAVED})
        assert job.source.batch_size % (num_ranks * job.train.accumulate) == 0
        saved = sum(SAVED[key](value) for key, value in asked[-1].items())
        parts = num_ranks if job.train.parallel == "fsdp2" else 1
        return Peak(activations=int((20 - saved) / parts * 1e9))

    monkeypatch.setattr(outgrowing, "predicted_bytes", predicted)
    return asked


@pytest.mark.parametrize(
    ("train", "gb", "text"),
    [
        ({}, 17.1, "train.accumulate: 2"),
        ({}, 15.6, "train.accumulate: 4"),
        ({"accumulate": 4}, 12, "train.activation_checkpointing: blocks"),
        ({"accumulate": 4}, 9, "train.activation_checkpointing: blocks and train.precision: bf16"),
        (
            {"accumulate": 4},
            10.6,
            "train.precision: bf16 and train.frozen_weights: bf16",
        ),
        ({}, 11.6, "train.accumulate: 4 and train.activation_checkpointing: blocks"),
        (
            {},
            6.6,
            "train.accumulate: 4 and train.activation_checkpointing: blocks and "
            "train.precision: bf16 and train.frozen_weights: bf16",
        ),
        ({}, 5, "train.parallel: fsdp2 and 4 ranks"),
        (
            {},
            3.5,
            "train.activation_checkpointing: blocks and train.precision: bf16 and "
            "train.frozen_weights: bf16 and train.parallel: fsdp2 and 4 ranks",
        ),
        ({}, 0, None),
    ],
)
def test_the_cheapest_option_is_named(train: dict[str, Any], gb: float, text: str | None) -> None:
    found = fitting(job(**train), 1, {}, needed(gb))
    assert (found and found.option.text()) == text
    if found is not None:
        assert MARGIN_BYTES < found.needed <= needed(gb)


def test_parts_are_whole_images_of_each_rank(double: list[dict[str, Any]]) -> None:
    fitting(job(), 2, {}, 0)
    assert {one["accumulate"] for one in double} == {1, 2}
    double.clear()
    fitting(job(), 4, {}, 0)
    assert {one["accumulate"] for one in double} == {1}


def test_options_that_the_job_cannot_have_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(job: JobSpec, *_: object) -> Peak:
        if "blocks" in (job.train.activation_checkpointing, *job.train.frozen_weights):
            raise JobError("train.activation_checkpointing: expected none")
        return Peak(activations=int((20 - 3 * (job.train.precision == "bf16")) * 1e9))

    monkeypatch.setattr(outgrowing, "predicted_bytes", refused)
    found = fitting(job(), 1, {}, needed(17.5))
    assert found is not None and found.option.text() == "train.precision: bf16"


@pytest.mark.slow
def test_what_is_advised_is_what_is_predicted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outgrowing, "predicted_bytes", predicted_bytes)
    values = job_of("bisenet", "source_only", (256, 384), accumulate=2)
    limit = predicted_bytes(values, 1).needed - 1
    found = fitting(values, 1, {}, limit)
    assert found is not None and found.needed <= limit
    assert found.option.values == {"activation_checkpointing": "blocks"}
    assert found.needed == predicted_bytes(found.option.applied(values), 1).needed
