"""The moving average of any method: its formula, its buffers, its place in checkpoints."""

import copy

import pytest
import torch

from adapt.engine.engine import Engine
from adapt.engine.sgd import SGDConfig
from adapt.engine.train_config import TrainConfig
from adapt.errors import JobError
from adapt.methods import METHODS
from adapt.methods.moving_average import MovingAverageConfig
from tests.built_methods import built_method, random_batch

ALPHA = 0.6


def engine(method: str = "source_only", alpha: float | None = ALPHA) -> Engine:
    built = built_method(method, model={"norm": "train"})
    ema = None if alpha is None else MovingAverageConfig(alpha=alpha)
    return Engine(
        built.double(), TrainConfig(steps=9, ema=ema), SGDConfig(lr=0.01), torch.device("cpu")
    )


def step(one: Engine, seed: int, bad: bool = False) -> None:
    source = random_batch(seed, labelled=True, size_hw=(32, 32), size=2)
    target = random_batch(100 + seed, labelled=False, size_hw=(32, 32), size=2)
    images = source.images.double()
    if bad:
        images[0, 0, 0, 0] = torch.nan
    one.step(source._replace(images=images), target._replace(images=target.images.double()))


def state(one: Engine, network: str) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in one.networks()[network].state_dict().items()}


def test_weights_and_running_statistics_are_averaged_after_each_step() -> None:
    one = engine()
    expected = state(one, "student")
    for number in (1, 2, 3, 4):
        step(one, number)
        share = min(1 - 1 / (number + 1), ALPHA)
        for key, new in state(one, "student").items():
            if new.is_floating_point():
                expected[key] = share * expected[key] + (1 - share) * new
    found = state(one, "ema")
    assert any("running_mean" in key for key in found)
    for key, value in expected.items():
        if value.is_floating_point():
            torch.testing.assert_close(found[key], value, rtol=1e-12, atol=1e-12, msg=key)


@pytest.mark.parametrize("method", METHODS)
def test_every_teacher_can_be_evaluated(method: str) -> None:
    one = engine(method, alpha=None)
    assert ("ema" in one.networks()) == METHODS[method].has_teacher
    if METHODS[method].has_teacher:
        student, teacher = one.networks().values()
        assert teacher is not student
        assert teacher.state_dict().keys() == student.state_dict().keys()


def test_an_own_average_goes_before_the_teacher() -> None:
    one = engine("dacs")
    assert one.average is not None and one.networks()["ema"] is one.average.network
    assert one.networks()["ema"] is not one.method.teacher_network()


def test_a_refused_step_leaves_the_average_where_it_was() -> None:
    one = engine()
    step(one, 1)
    before = state(one, "ema")
    step(one, 2, bad=True)
    assert len(one.bad_steps) == 1
    for key, value in state(one, "ema").items():
        assert torch.equal(value, before[key]), key


def test_an_average_restored_at_any_step_continues_bit_for_bit() -> None:
    whole = engine()
    kept = []
    for number in range(3):
        kept.append(copy.deepcopy(whole.state_dict()))
        step(whole, number)
    for done, saved in enumerate(kept):
        resumed = engine()
        resumed.load_state_dict(saved)
        for number in range(done, 3):
            step(resumed, number)
        for key, value in state(whole, "ema").items():
            assert torch.equal(value, state(resumed, "ema")[key]), key


def test_a_checkpoint_without_the_average_is_of_another_job() -> None:
    saved = engine(alpha=None).state_dict()
    assert "ema" not in saved, "checkpoints of other jobs stay as they are"
    with pytest.raises(JobError, match="expected a checkpoint of this model and method"):
        engine().load_state_dict(saved)


def test_no_gradient_and_no_optimizer_reaches_it() -> None:
    one = engine()
    step(one, 1)
    average = one.networks()["ema"]
    assert not any(p.requires_grad or p.grad is not None for p in average.parameters())
    moved = {id(p) for g in one.optimizers["segmenter"].param_groups for p in g["params"]}
    assert not moved & {id(p) for p in average.parameters()}


def test_it_does_not_change_what_the_student_learns() -> None:
    one, alone = engine(), engine(alpha=None)
    for number in range(2):
        step(one, number)
        step(alone, number)
    for key, value in state(alone, "student").items():
        assert torch.equal(value, state(one, "student")[key]), key
