"""The engine: accumulation, ranks, precision, state."""

import copy
from typing import Any

import pytest
import torch

from adapt.batch import Batch
from adapt.engine.device import prepare_device
from adapt.engine.engine import Engine
from adapt.engine.sgd import SGDConfig
from adapt.engine.train_config import TrainConfig
from adapt.errors import JobError
from adapt.methods import METHODS, build_method
from adapt.models import build_segmenter
from adapt.models.decoders.deeplab_v2 import DeepLabV2Config
from tests.conftest import small_method
from tests.networks import NEEDED

HW = (64, 64)


def engine(method: str = "advent", **train: Any) -> Engine:
    torch.manual_seed(3)
    config = DeepLabV2Config(encoder="test_resnet", output_stride=16, weights="none", norm="frozen")
    values = {**small_method(method), **NEEDED.get(method, {})}
    built = build_method(values, build_segmenter(config, 4))
    built.observe_source(torch.tensor([[40, 30, 20, 10], [10, 0, 50, 40]]))
    return Engine(built, TrainConfig(steps=10, **train), SGDConfig(), torch.device("cpu"))


def batch(seed: int, labelled: bool = True, size: int = 2) -> Batch:
    random = torch.Generator().manual_seed(seed)
    images = torch.randn(size, 3, *HW, generator=random)
    labels = torch.randint(0, 4, (size, *HW), generator=random) if labelled else None
    return Batch(images, labels, tuple(map(str, range(size))))


def weights(one: Engine) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in one.method.state_dict().items()}


def assert_equal(one: Engine, other: Engine, tolerance: float = 0.0) -> None:
    for key, value in weights(one).items():
        torch.testing.assert_close(
            value, other.method.state_dict()[key], rtol=tolerance, atol=tolerance, msg=key
        )


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_step_logs_every_loss_and_moves_every_network(method: str) -> None:
    one = engine(method)
    before = weights(one)
    logged = one.step(batch(1), batch(2, labelled=METHODS[method].labels_target()))
    assert one.step_count == 1 and logged and all(value.ndim == 0 for value in logged.values())
    after = weights(one)
    for name, parameter in one.method.named_parameters():
        if parameter.requires_grad:
            assert not torch.equal(before[name], after[name]), name


def test_accumulation_computes_the_same_step() -> None:
    whole, parts = engine("minent"), engine("minent", accumulate=2)
    logged = whole.step(batch(1), batch(2, labelled=False))
    in_parts = parts.step(batch(1), batch(2, labelled=False))
    assert_equal(whole, parts, tolerance=2e-6)
    for name, value in logged.items():
        torch.testing.assert_close(value, in_parts[name], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_bf16_trains_and_stays_near_fp32() -> None:
    single, half = engine(), engine(precision="bf16")
    for step in range(2):
        a = single.step(batch(step), batch(9, labelled=False))
        b = half.step(batch(step), batch(9, labelled=False))
    for name, value in a.items():
        assert abs(float(value - b[name])) < 0.15 * max(1.0, float(value)), name


def test_clipping_bounds_the_update() -> None:
    free, clipped = engine("source_only"), engine("source_only", clip_norm=1e-6)
    start = weights(free)
    free.step(batch(1), None)
    clipped.step(batch(1), None)
    moved = [
        sum(float((p.detach() - start[name]).norm()) for name, p in one.method.named_parameters())
        for one in (free, clipped)
    ]
    assert moved[1] < 0.2 * moved[0]


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_going_on_from_a_state_is_bit_identical(method: str) -> None:
    whole, labelled = engine(method), METHODS[method].labels_target()
    for step in range(2):
        whole.step(batch(step), batch(10 + step, labelled))
    state = copy.deepcopy(whole.state_dict())
    resumed = engine(method)
    resumed.load_state_dict(state)
    for step in range(2, 4):
        a = whole.step(batch(step), batch(10 + step, labelled))
        b = resumed.step(batch(step), batch(10 + step, labelled))
        assert all(torch.equal(a[name], b[name]) for name in a)
    assert_equal(whole, resumed)


def test_another_methods_state_is_refused() -> None:
    state = engine("adaptsegnet").state_dict()
    with pytest.raises(JobError, match="expected a checkpoint of this model and method"):
        engine("source_only").load_state_dict(state)


def test_the_rate_follows_the_schedule() -> None:
    one = engine("source_only")
    rates = []
    for step in range(3):
        one.step(batch(step), None)
        rates.append(one.optimizers["segmenter"].param_groups[0]["lr"])
    assert rates == pytest.approx([2.5e-4 * (1 - step / 10) ** 0.9 for step in range(3)])


def test_the_cpu_flushes_denormals() -> None:
    if torch.cuda.is_available():
        pytest.skip("on a machine with a GPU the device is the GPU")
    assert prepare_device(0).type == "cpu"
    assert float(torch.tensor(1e-39) * 1.0) == 0.0


def poisoned(seed: int) -> Batch:
    bad = batch(seed)
    bad.images[0, 0, 0, 0] = torch.nan
    return Batch(bad.images, bad.labels, ("good.png", "bad.png"))


def trained_norms(method: str, **train: Any) -> Engine:
    """An engine whose batch norm keeps running statistics."""
    torch.manual_seed(3)
    config = DeepLabV2Config(encoder="resnet18", output_stride=16, weights="none", norm="train")
    built = build_method({"name": method}, build_segmenter(config, 4))
    return Engine(built, TrainConfig(steps=10, **train), SGDConfig(), torch.device("cpu"))


def test_a_step_that_is_not_finite_moves_nothing_and_names_its_samples(
    caplog: pytest.LogCaptureFixture,
) -> None:
    one = trained_norms("minent")
    one.step(batch(1), batch(2, labelled=False))
    before = weights(one)
    momentum = copy.deepcopy(one.optimizers["segmenter"].state_dict())
    one.step(poisoned(3), batch(4, labelled=False))
    assert all(torch.equal(value, before[key]) for key, value in weights(one).items())
    after = one.optimizers["segmenter"].state_dict()["state"]
    for key, value in momentum["state"].items():
        assert torch.equal(value["momentum_buffer"], after[key]["momentum_buffer"])
    assert one.step_count == 2 and one.bad_steps == [(1, ("good.png", "bad.png", "0", "1"))]
    assert "step 2 is refused, segmentation/" in caplog.text and "bad.png" in caplog.text
    one.step(batch(5), batch(6, labelled=False))
    assert one.step_count == 3
    assert any(not torch.equal(value, before[key]) for key, value in weights(one).items())


def test_a_gradient_that_is_not_finite_is_refused_too() -> None:
    one = engine("source_only")
    parameter = next(p for p in one.method.parameters() if p.requires_grad)
    hook = parameter.register_hook(lambda gradient: gradient * torch.inf)
    one.step(batch(1), None)
    hook.remove()
    assert [step for step, _ in one.bad_steps] == [0]


def test_too_many_bad_steps_end_the_job_with_their_list() -> None:
    one = engine("source_only", max_bad_steps=1)
    one.step(poisoned(1), None)
    state = copy.deepcopy(one.state_dict())
    resumed = engine("source_only", max_bad_steps=1)
    resumed.load_state_dict(state)
    resumed.step(poisoned(2), None)
    with pytest.raises(JobError, match=r"max_bad_steps: expected at most 1 .* got 2") as ended:
        resumed.settle()
    assert "step 1: good.png, bad.png\n  step 2: good.png, bad.png" in str(ended.value)


def test_a_state_of_before_bad_steps_were_kept_is_taken() -> None:
    state = engine("source_only").state_dict()
    del state["bad_steps"]
    resumed = engine("source_only")
    resumed.step(poisoned(1), None)
    resumed.load_state_dict({**state, "rng": {"cpu": torch.get_rng_state(), "cuda": []}})
    assert resumed.bad_steps == []


def test_figures_for_the_log_are_not_rounded() -> None:
    exact = {"loss": torch.tensor(1 / 3, dtype=torch.float64), "pixels": torch.tensor(2**24 + 1)}
    found = engine("source_only").mean_over_ranks(exact)
    assert found == {"loss": 1 / 3, "pixels": 2**24 + 1}


def test_dropout_follows_from_seed_and_step_alone() -> None:
    def drawn(seed: int, step: int) -> float:
        one = engine("source_only")
        one._seed, one.step_count = seed, step
        one.step(batch(1), None)
        return float(torch.rand(()))

    assert drawn(1, 5) == drawn(1, 5)
    assert len({drawn(1, 5), drawn(1, 6), drawn(2, 5)}) == 3
