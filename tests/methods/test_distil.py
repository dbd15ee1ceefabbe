"""Distillation into a small student: three steps against plain code, both kinds of teacher."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from adapt.batch import IGNORED, Batch, PixelFormat
from adapt.config.validation import validate
from adapt.engine.engine import Engine
from adapt.engine.sgd import SGDConfig
from adapt.engine.train_config import TrainConfig
from adapt.errors import JobError
from adapt.methods import build_method, check_size
from adapt.methods.distil import Distil, DistilConfig, divergence
from adapt.methods.teacher_network import TeacherNetworkConfig
from adapt.models import ModelSection
from adapt.models.segmenter import Segmenter
from tests.methods.test_self_training import DECAY, LR, MOMENTUM, batch, steps
from tests.networks import TEACHER, ByColour, network, varied_network

CLASSES, HW = 4, (32, 48)
STILL = {"jitter_chance": 0, "blur_chance": 0}
OTHER_PIXELS = PixelFormat(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.2), bgr=False)
TEMPERATURE, THRESHOLD = 2.0, 0.3
LEARNING = {
    "trained_by": {"name": "dacs", "augmentation": STILL, "pseudo_labels": {"threshold": 0}}
}


def teacher(seed: int = 9) -> Segmenter:
    torch.manual_seed(seed)
    return network(ByColour(CLASSES), CLASSES, OTHER_PIXELS)


def engine(
    seed: int = 9, accumulate: int = 1, kind: dict[str, Any] | None = None, **config: Any
) -> Engine:
    """A student on RGB from 0 to 1, a teacher on standardised images; frozen unless `kind` says
    how it learns."""
    values = {
        "name": "distil",
        "teacher": {"model": TEACHER, **({"uri": "trained"} if kind is None else kind)},
        "temperature": TEMPERATURE,
        "pseudo_labels": {"threshold": THRESHOLD},
        "augmentation": STILL,
        **config,
    }
    student = varied_network(CLASSES).double()
    method = build_method(values, student, teacher=teacher(seed))
    optim = SGDConfig(lr=LR, head_lr_factor=1, weight_decay=DECAY, momentum=MOMENTUM, power=0)
    train = TrainConfig(steps=3, accumulate=accumulate)
    return Engine(method.double(), train, optim, torch.device("cpu"))


def logits(images: Tensor, weight: Tensor) -> Tensor:
    coarse = F.conv2d(images - 0.5, weight, stride=2)
    return F.interpolate(coarse, size=HW, mode="bilinear", align_corners=True)


def plain_divergence(own: Tensor, aim: Tensor) -> Tensor:
    """sum of p log(p / q) of both softened, the mean over pixels times the square."""
    p = aim ** (1 / TEMPERATURE) / (aim ** (1 / TEMPERATURE)).sum(dim=1, keepdim=True)
    q = (own / TEMPERATURE).exp() / (own / TEMPERATURE).exp().sum(dim=1, keepdim=True)
    return (p * (p / q).log()).sum(dim=1).mean() * TEMPERATURE**2


def teacher_probabilities(images: Tensor, weight: Tensor) -> Tensor:
    mean, std = (
        torch.tensor(value, dtype=torch.float64).view(3, 1, 1) for value in OTHER_PIXELS[:2]
    )
    return logits((images - mean) / std, weight).softmax(dim=1)


def test_the_divergence_is_the_formula() -> None:
    torch.manual_seed(1)
    own, aim = torch.randn(2, 4, 3, 5).double(), torch.randn(2, 4, 3, 5).double().softmax(dim=1)
    found = divergence(own, aim, TEMPERATURE)
    torch.testing.assert_close(found, plain_divergence(own, aim), rtol=1e-12, atol=1e-12)
    assert divergence(aim.log(), aim, 3.0).item() == pytest.approx(0, abs=1e-12)
    certain = F.one_hot(torch.zeros(1, 2, 2, dtype=torch.long), 4).movedim(-1, 1).float()
    assert divergence(own[:1, :, :2, :2].bfloat16(), certain, 1.0).dtype == torch.float32
    assert divergence(own[:1, :, :2, :2], certain.double(), 1.0).isfinite()


@pytest.mark.parametrize("accumulate", [1, 2])
def test_three_steps_are_the_formulas(accumulate: int) -> None:
    one = engine(accumulate=accumulate, mirror=True)
    learned = one.method.segmenter.decoder.classifier.weight
    weight, velocity = learned.detach().clone().requires_grad_(), None
    of_teacher = teacher().decoder.classifier.weight.detach().double()
    for source, target in steps():
        one.step(source, target)
        assert source.labels is not None
        total = F.cross_entropy(logits(source.images, weight), source.labels, ignore_index=IGNORED)
        aims = []
        for images in (source.images, target.images):
            mirrored = teacher_probabilities(images.flip(3), of_teacher).flip(3)
            aims.append((teacher_probabilities(images, of_teacher) + mirrored) / 2)
            total = total + plain_divergence(logits(images, weight), aims[-1])
        confidence, labels = aims[1].max(dim=1)
        quality = (confidence >= THRESHOLD).double().mean()
        each = F.cross_entropy(logits(target.images, weight), labels, reduction="none")
        total = total + quality * each.mean()
        (gradient,) = torch.autograd.grad(total, weight)
        gradient = gradient + DECAY * weight.detach()
        velocity = gradient if velocity is None else MOMENTUM * velocity + gradient
        with torch.no_grad():
            weight -= LR * velocity
        torch.testing.assert_close(learned, weight, rtol=1e-10, atol=1e-12)


def test_a_teacher_that_learns_is_trained_as_it_would_be_alone() -> None:
    """By its own method and optimizer, in its own pixels."""
    both = engine(kind=LEARNING)
    alone = build_method({**LEARNING["trained_by"]}, teacher().double())
    optim = SGDConfig(lr=LR, head_lr_factor=1, weight_decay=DECAY, momentum=MOMENTUM, power=0)
    single = Engine(alone, TrainConfig(steps=3), optim, torch.device("cpu"))
    for source, target in steps():
        logged = both.step(source, target)
        single.step(standardised(source), standardised(target))
    assert isinstance(both.method, Distil) and both.method.trainer is not None
    for key, value in single.method.state_dict().items():
        found = both.method.trainer.state_dict()[key]
        torch.testing.assert_close(found, value, rtol=1e-10, atol=1e-12, msg=key)
    assert {"teacher/segmentation/main", "teacher/mix/main", "taught/main"} < logged.keys()
    average = both.method.trainer.teacher_network()
    assert both.networks()["teacher"] is average and "ema" not in both.networks()


def standardised(one: Batch) -> Batch:
    mean, std = (
        torch.tensor(value, dtype=torch.float64).view(3, 1, 1) for value in OTHER_PIXELS[:2]
    )
    return one._replace(images=(one.images - mean) / std)


def test_a_teacher_that_learns_has_rates_of_its_own() -> None:
    one = engine(kind={**LEARNING, "lr_factor": 0.5})
    assert list(one.optimizers) == ["segmenter", "teacher"]
    rates = {group["base_lr"] for group in one.optimizers["teacher"].param_groups}
    assert rates == {0.5 * LR}


@pytest.mark.parametrize("kind", [None, LEARNING], ids=["frozen", "learning"])
def test_a_resumed_job_is_the_same_bit_for_bit(kind: dict[str, Any] | None) -> None:
    whole, first, second = (engine(kind=kind) for _ in range(3))
    for source, target in steps():
        whole.step(source, target)
    first.step(*steps()[0])
    second.load_state_dict(first.state_dict())
    for source, target in steps()[1:]:
        second.step(source, target)
    for key, value in whole.method.state_dict().items():
        assert torch.equal(second.method.state_dict()[key], value), key


@pytest.mark.parametrize("kind", [None, LEARNING], ids=["frozen", "learning"])
def test_a_refused_step_moves_nothing(kind: dict[str, Any] | None) -> None:
    one = engine(kind=kind)
    before = {key: value.clone() for key, value in one.method.state_dict().items()}
    source, target = steps()[0]
    target.images[0, 0, 0, 0] = torch.nan
    one.step(source, target)
    assert len(one.bad_steps) == 1
    for key, value in one.method.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_a_frozen_teacher_is_in_no_checkpoint_and_is_known_by_its_sha256() -> None:
    one = engine()
    keys = [key for key in one.method.state_dict() if not key.startswith("segmenter.")]
    assert keys == ["pinned.sha256"] and one.method.teacher_is_fixed
    assert one.networks()["teacher"] is one.method.teaching_network()
    message = "method.teacher: expected the weights that the run began with"
    with pytest.raises(JobError, match=message):
        engine(seed=8).load_state_dict(one.state_dict())


def test_clipping_counts_the_teacher_apart() -> None:
    one = engine(kind=LEARNING)
    one.train_config = one.train_config.model_copy(update={"clip_norm": 1e-9})
    before = {name: p.detach().clone() for name, p in one.method.named_parameters()}
    one.step(*steps()[0])
    for name, parameter in one.method.named_parameters():
        assert (parameter - before[name]).abs().max() <= 2 * LR * DECAY * before[name].abs().max()


def agreement(one: Engine) -> float:
    """Share of pixels that student and teacher name alike."""
    shown, teaching = batch(900), one.method.teaching_network()
    assert teaching is not None
    wanted = teaching(standardised(shown).images).logits[0].argmax(dim=1)
    found = one.method.segmenter(shown.images).logits[0].argmax(dim=1)
    return (found == wanted).double().mean().item()


@pytest.mark.parametrize("part", ["weight_labels", "weight_target"])
def test_each_part_moves_the_student_to_its_teacher(part: str) -> None:
    """On the target alone, where no label is known."""
    weights = dict.fromkeys(("weight_source", "weight_labels", "weight_target"), 0.0)
    one = engine(**{**weights, part: 1.0}, pseudo_labels={"threshold": 0})
    unlabelled = batch(1)._replace(labels=torch.full((2, *HW), IGNORED))
    before = agreement(one)
    for seed in range(30):
        one.step(unlabelled, batch(seed, labelled=False))
    assert agreement(one) > before + 0.1


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"uri": "x", "trained_by": {"name": "dacs"}}, "trained_by: expected null for a teacher"),
        (
            {"trained_by": {"name": "advent"}},
            "trained_by.name: expected a known name, got 'advent'",
        ),
        ({"trained_by": 3}, "trained_by: expected keys and values or null, got 3"),
        ({"uri": ""}, "uri: expected a text with a length of at least 1 or null, got ''"),
    ],
)
def test_teachers_that_cannot_be_are_refused_by_key(section: dict[str, Any], message: str) -> None:
    values = {"name": "distil", "teacher": {"model": TEACHER, **section}}
    with pytest.raises(JobError, match=f"method.teacher.{message}"):
        build_method(values, varied_network(CLASSES))


def test_a_teacher_that_learns_needs_what_its_method_needs() -> None:

    section = TeacherNetworkConfig(model=validate(ModelSection, TEACHER, "model"))
    assert section.trained_by is not None and section.trained_by.name == "vfm_uda"
    with pytest.raises(JobError, match=r"method.teacher.trained_by.masks.block_px: expected less"):
        check_size(DistilConfig(teacher=section), "target.size_hw", (64, 64))
