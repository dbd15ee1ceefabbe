"""Two-sided distillation: its loss, three steps against plain code, its frozen encoder."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adapt.batch import IGNORED, Batch, PixelFormat
from adapt.engine.engine import Engine
from adapt.engine.sgd import SGDConfig
from adapt.engine.train_config import TrainConfig
from adapt.errors import JobError
from adapt.methods import build_method
from adapt.methods.distillation import Distillation, DistillationConfig, distillation_loss
from adapt.methods.draws import Draws
from adapt.models.config import SegmenterConfig
from adapt.models.encoders.encoder import Encoder, LoadReport
from adapt.models.segmenter import Segmenter
from tests.networks import SHARES, ByColour

CLASSES, HW = 3, (16, 24)
LR, MOMENTUM, DECAY = 0.05, 0.9, 1e-3
OTHER_PIXELS = PixelFormat(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.2))


class OneConvolution(Encoder):
    """The smallest encoder that learns."""

    output_stride = 1

    def __init__(self, channels: int, stride: int, pixels: PixelFormat) -> None:
        super().__init__()
        self.name, self.pixels = "one convolution", pixels
        self.channels, self.reductions = (channels,), (stride,)
        self.layer = nn.Conv2d(3, channels, stride, stride, bias=False)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return (self.layer(images),)

    def load(self, state: Mapping[str, Tensor]) -> LoadReport:
        self.load_state_dict(state)
        return LoadReport(1, ())

    def multiplicities(self) -> dict[str, int]:
        return {}


def teacher(seed: int = 1) -> OneConvolution:
    torch.manual_seed(seed)
    return OneConvolution(5, 4, OTHER_PIXELS)


def engine(seed: int = 1, accumulate: int = 1, factor: float = 1.0, **config: Any) -> Engine:
    torch.manual_seed(0)
    student = OneConvolution(3, 1, SHARES)
    model = SegmenterConfig(architecture="none", norm="train")
    segmenter = Segmenter(model, student, ByColour(CLASSES), CLASSES)
    settings = DistillationConfig(size_hw=(8, 12), **{"augmentation": None, **config})
    method = build_method(
        {"name": "minent", "weight_ent": [0.0]},
        segmenter,
        {"distillation": Distillation(settings, segmenter, teacher(seed))},
    )
    optim = SGDConfig(lr=LR, head_lr_factor=factor, weight_decay=DECAY, momentum=MOMENTUM, power=0)
    train = TrainConfig(steps=3, accumulate=accumulate)
    return Engine(method.double(), train, optim, torch.device("cpu"))


def batch(seed: int, labelled: bool = True) -> Batch:
    random = torch.Generator().manual_seed(seed)
    images = torch.rand(2, 3, *HW, generator=random, dtype=torch.float64)
    labels = torch.randint(CLASSES, (2, *HW), generator=random)
    return Batch(images, labels if labelled else None, (f"{seed}/0", f"{seed}/1"))


def steps() -> list[tuple[Batch, Batch]]:
    return [(batch(step), batch(100 + step, labelled=False)) for step in range(3)]


def plain_loss(features: Tensor, aim: Tensor) -> Tensor:
    """Position by position, from the paper's formula."""
    total, count = torch.zeros((), dtype=features.dtype), 0
    near = torch.zeros((), dtype=features.dtype)
    for row in range(features.shape[0]):
        for y in range(features.shape[2]):
            for x in range(features.shape[3]):
                a, b = features[row, :, y, x], aim[row, :, y, x]
                total = total + 1 - a @ b / (a.norm() * b.norm())
                gap = (a - b).abs()
                near = near + torch.where(gap < 1, gap * gap / 2, gap - 0.5).mean()
                count += 1
    return 0.1 * near / count + 0.9 * total / count


def test_the_loss_is_the_paper_s() -> None:
    torch.manual_seed(4)
    features, aim = torch.randn(2, 2, 7, 3, 4, dtype=torch.float64).mul(2).unbind()
    found, expected = distillation_loss(features, aim), plain_loss(features, aim)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert distillation_loss(aim, aim).item() == pytest.approx(0, abs=1e-12)
    assert distillation_loss(aim.bfloat16(), aim.bfloat16()).dtype == torch.float32


class Plain:
    """Three steps of a source's cross entropy and of distillation on both domains."""

    def __init__(self, one: Engine) -> None:
        method = one.method
        first, norm, _, second = method.add_ons["distillation"].projection
        parts = [method.segmenter.encoder.layer, method.segmenter.decoder, first, norm, second]
        parameters = [p for part in parts for p in part.parameters()]
        self.values = [p.detach().clone().requires_grad_() for p in parameters]
        self.velocities: list[Tensor] | None = None
        self.of_teacher = teacher().layer.weight.detach().double()
        self.learned = parameters

    def features(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 5, 2, 3), as the teacher's."""
        encoder, _, widen, bias, gain, shift, narrow, last = self.values
        maps = F.conv2d(F.conv2d(images, encoder), widen, bias)
        mean = maps.mean(dim=1, keepdim=True)
        variance = ((maps - mean) ** 2).mean(dim=1, keepdim=True)
        maps = (maps - mean) / (variance + 1e-5).sqrt()
        maps = maps * gain.view(1, -1, 1, 1) + shift.view(1, -1, 1, 1)
        maps = F.conv2d(maps * 0.5 * (1 + torch.erf(maps / 2**0.5)), narrow, last)
        return F.interpolate(maps, size=(2, 3), mode="bilinear", align_corners=False)

    def aim(self, images: Tensor) -> Tensor:
        small = F.interpolate(images, size=(8, 12), mode="bilinear", antialias=True)
        mean, std = (
            torch.tensor(value, dtype=torch.float64).view(3, 1, 1) for value in OTHER_PIXELS[:2]
        )
        return F.conv2d((small - mean) / std, self.of_teacher, stride=4)

    def step(self, source: Batch, target: Batch) -> None:
        assert source.labels is not None
        coarse = F.conv2d(F.conv2d(source.images, self.values[0]) - 0.5, self.values[1], stride=2)
        logits = F.interpolate(coarse, size=HW, mode="bilinear", align_corners=True)
        loss = F.cross_entropy(logits, source.labels, ignore_index=IGNORED)
        for images in (source.images, target.images):
            loss = loss + 0.1 * plain_loss(self.features(images), self.aim(images))
        gradients = torch.autograd.grad(loss, self.values)
        decayed = [g + DECAY * v.detach() for g, v in zip(gradients, self.values, strict=True)]
        if self.velocities is None:
            self.velocities = decayed
        else:
            pairs = zip(self.velocities, decayed, strict=True)
            self.velocities = [MOMENTUM * old + new for old, new in pairs]
        with torch.no_grad():
            for value, velocity in zip(self.values, self.velocities, strict=True):
                value -= LR * velocity


@pytest.mark.parametrize("accumulate", [1, 2])
def test_three_steps_are_the_paper_s(accumulate: int) -> None:
    one = engine(accumulate=accumulate)
    plain = Plain(one)
    for source, target in steps():
        logged = one.step(source, target)
        plain.step(source, target)
        for found, expected in zip(plain.learned, plain.values, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    assert {"distillation/source", "distillation/target"} < logged.keys()


def test_the_student_alone_sees_changed_images() -> None:
    weakly = {"jitter": 0.5, "jitter_chance": 1, "blur_chance": 0}
    one = engine(augmentation=weakly, weight_source=0.0)
    seen: dict[str, list[Tensor]] = {"student": [], "teacher": []}
    distillation = one.method.add_ons["distillation"]
    for name, encoder in (
        ("student", one.method.segmenter.encoder),
        ("teacher", distillation.teacher.network),
    ):
        encoder.register_forward_hook(
            lambda _m, inputs, _out, name=name: seen[name].append(inputs[0])
        )
    target = batch(2)
    one.method.start_step(Draws(3))
    (term,) = distillation.losses(one.method.segmenter, batch(1), target, Draws(3))
    assert list(term.logged) == ["distillation/target"]
    assert (seen["student"][0] - target.images).abs().max() > 0.01
    mean, std = (
        torch.tensor(value, dtype=torch.float64).view(3, 1, 1) for value in OTHER_PIXELS[:2]
    )
    shown = seen["teacher"][0] * std + mean
    clean = F.interpolate(target.images, size=(8, 12), mode="bilinear", antialias=True)
    torch.testing.assert_close(shown, clean)


def test_without_a_target_there_is_one_side() -> None:
    one = engine()
    names = [
        list(term.logged)
        for term in one.method.add_ons["distillation"].losses(
            one.method.segmenter, batch(1), None, Draws(0)
        )
    ]
    assert names == [["distillation/source"]]


def test_the_projection_learns_at_the_head_s_rate_in_a_group_of_its_own() -> None:
    groups = engine(factor=10.0).optimizers["segmenter"].param_groups
    rates = {group["name"]: group["base_lr"] for group in groups}
    assert rates == {"encoder": LR, "head": 10 * LR, "distillation": 10 * LR}
    assert sum(p.numel() for p in groups[-1]["params"]) == 12 * 3 + 12 + 24 + 5 * 12 + 5


def test_the_frozen_encoder_is_in_no_checkpoint_and_never_changes() -> None:
    one = engine()
    frozen = one.method.add_ons["distillation"].teacher.network
    before = frozen.layer.weight.clone()
    assert before.dtype == torch.float64 and not frozen.training
    one.step(*steps()[0])
    assert torch.equal(frozen.layer.weight, before) and frozen.layer.weight.grad is None
    keys = [key for key in one.method.state_dict() if key.startswith("add_ons.")]
    assert [key for key in keys if "teacher" in key] == ["add_ons.distillation.teacher.sha256"]


def test_a_resumed_job_is_the_same_bit_for_bit() -> None:
    whole, first, second = engine(), engine(), engine()
    for source, target in steps():
        whole.step(source, target)
    first.step(*steps()[0])
    second.load_state_dict(first.state_dict())
    for source, target in steps()[1:]:
        second.step(source, target)
    for key, value in whole.method.state_dict().items():
        assert torch.equal(second.method.state_dict()[key], value), key


def test_a_checkpoint_with_another_frozen_encoder_is_refused() -> None:
    state = engine().state_dict()
    message = (
        "distillation: expected the weights that the run began with, of sha256 [0-9a-f]{12}, got "
        "others, of [0-9a-f]{12}. Fix: name the first ones again"
    )
    with pytest.raises(JobError, match=message):
        engine(seed=2).load_state_dict(state)


def test_a_refused_step_moves_nothing() -> None:
    one = engine()
    before = {key: value.clone() for key, value in one.method.state_dict().items()}
    source, target = steps()[0]
    target.images[0, 0, 0, 0] = torch.nan
    one.step(source, target)
    assert len(one.bad_steps) == 1
    for key, value in one.method.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_clipping_counts_the_projection() -> None:
    one = engine()
    one.train_config = one.train_config.model_copy(update={"clip_norm": 1e-6})
    before = {name: p.detach().clone() for name, p in one.method.named_parameters()}
    one.step(*steps()[0])
    for name, parameter in one.method.named_parameters():
        assert (parameter - before[name]).abs().max() < LR * (1e-5 + DECAY * 2), name
