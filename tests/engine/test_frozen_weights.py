"""Frozen weights in bf16: the same steps in less memory, and float32 for everybody else."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from adapt.batch import Batch
from adapt.checkpoint.snapshot import in_float32, in_memory
from adapt.engine.engine import Engine
from adapt.engine.frozen_weights import FrozenWeights, narrowed
from adapt.engine.sgd import SGDConfig
from adapt.engine.train_config import TrainConfig
from adapt.errors import JobError
from adapt.methods import build_method
from adapt.methods.moving_average import MovingAverage, MovingAverageConfig
from adapt.methods.pinned import Pinned, with_pinned
from adapt.models import build_segmenter
from adapt.models.segmenter import Segmenter
from tests.networks import SURE

torch.set_num_threads(1)
HW = (64, 64)


def segmenter() -> Segmenter:
    """Its encoder is frozen."""
    torch.manual_seed(3)
    model = {"architecture": "deeplab_v2", "encoder": "test_resnet", "output_stride": 16}
    made = build_segmenter({**model, "weights": "none", "norm": "frozen"}, 4)
    made.encoder.requires_grad_(False)
    return made


def engine(method: str, **train: Any) -> Engine:
    built = build_method({"name": method, **SURE.get(method, {})}, segmenter())
    settings = TrainConfig(steps=4, precision="bf16", **train)
    return Engine(built, settings, SGDConfig(), torch.device("cpu"))


def step(one: Engine, seed: int = 1) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(seed)
    source, target = torch.randn(2, 2, 3, *HW, generator=random)
    labels = torch.randint(4, (2, *HW), generator=random)
    return one.step(Batch(source, labels, ("a", "b")), Batch(target, None, ("a", "b")))


@pytest.mark.parametrize("method", ["source_only", "dacs"])
def test_steps_are_the_same_bit_for_bit(method: str) -> None:
    narrow, wide = (
        engine(method, frozen_weights=held, ema={"alpha": 0.9}) for held in ("bf16", "fp32")
    )
    for seed in (1, 2):
        expected, found = step(wide, seed), step(narrow, seed)
        assert all(torch.equal(found[name], value) for name, value in expected.items())
    for (name, one), other in zip(
        narrow.modules().named_parameters(), wide.modules().parameters(), strict=True
    ):
        rounded = other.to(one.dtype)
        assert torch.equal(one, rounded), name
        assert (one.dtype == torch.bfloat16) == (one.ndim == 4 and "encoder" in name), name


def test_a_teacher_holds_no_frozen_weights_of_its_own_and_moves_in_float32() -> None:
    one = engine("dacs", frozen_weights="bf16")
    teacher, student = one.method.teacher_network(), one.method.segmenter
    assert teacher is not None
    for name, parameter in student.named_parameters():
        own = teacher.get_parameter(name)
        assert (own is parameter) == name.startswith("encoder."), name
        assert not own.requires_grad
        if not name.startswith("encoder."):
            assert own.dtype == torch.float32
    bytes_once = sum(p.nbytes for p in student.encoder.parameters())
    both = {id(p): p.nbytes for p in [*teacher.encoder.parameters(), *student.parameters()]}
    assert sum(both.values()) - bytes_once == sum(p.nbytes for p in student.decoder.parameters())


def test_an_average_of_what_learns_is_not_shared() -> None:
    student = segmenter().requires_grad_(True)
    average = MovingAverage(MovingAverageConfig(alpha=0.5), student)
    average.share(student)
    assert not {id(p) for p in average.parameters()} & {id(p) for p in student.parameters()}
    assert len(average.moving()) == len(list(student.parameters()))
    assert FrozenWeights(nn.ModuleList([average])).parameters == []


def test_a_pinned_foundation_encoder_is_held_in_bf16() -> None:
    one = engine("source_only")
    foundation = segmenter().encoder
    one.method.add_module("pinned", Pinned(foundation, "distillation"))
    frozen = narrowed(with_pinned(one.method))
    convolutions = [m.weight for m in foundation.modules() if isinstance(m, nn.Conv2d)]
    assert {id(weight) for weight in convolutions} < {id(held) for held in frozen.parameters}
    assert {weight.dtype for weight in convolutions} == {torch.bfloat16}
    with frozen.widened(one.method.segmenter):
        assert {weight.dtype for weight in convolutions} == {torch.bfloat16}, "it is not used"


def test_a_network_is_used_in_float32_and_narrow_again_then() -> None:
    one = engine("source_only", frozen_weights="bf16")
    images = torch.randn(1, 3, *HW)
    weight = one.frozen.parameters[0]
    with one.used("student") as network, torch.no_grad():
        assert weight.dtype == torch.float32
        network.eval()(images)
    assert weight.dtype == torch.bfloat16
    with pytest.raises(RuntimeError), torch.no_grad():
        one.method.segmenter(images)


def test_what_is_saved_resumes_exactly_and_is_float32_for_everybody() -> None:
    one, other = (engine("dacs", frozen_weights="bf16") for _ in range(2))
    step(one)
    state = in_memory(one.state_dict())
    other.load_state_dict(state)
    step(one, 2), step(other, 2)
    for key, value in one.method.state_dict().items():
        assert torch.equal(other.method.state_dict()[key], value), key
    weights = in_float32(one.networks()["student"].state_dict())
    assert {value.dtype for value in weights.values()} <= {torch.float32, torch.int64}
    segmenter().load_weights(weights)


def test_optimizers_hold_state_of_what_learns_alone() -> None:
    one = engine("source_only", frozen_weights="bf16")
    step(one)
    learning = {id(p) for p in one.method.parameters() if p.requires_grad}
    assert {id(p) for p in one.optimizers["segmenter"].state} == learning


def test_where_nothing_is_frozen_or_steps_are_not_rounded_it_is_refused() -> None:
    with pytest.raises(
        JobError, match=r"^train.frozen_weights: expected fp32 in a job all of whose"
    ):
        narrowed(segmenter().requires_grad_(True))
    with pytest.raises(JobError, match=r"train.frozen_weights: expected fp32 with precision fp32"):
        TrainConfig.from_values({"frozen_weights": "bf16"}, "train")
