"""VFM-UDA: three steps against plain code, its changes of images, its masks, its refusals."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from adapt.batch import IGNORED, Batch
from adapt.errors import JobError
from adapt.methods import build_method, check_size
from adapt.methods.block_masks import block_mask
from adapt.methods.draws import Draws
from adapt.methods.vfm_uda import MasksConfig, VFMUDAConfig
from tests.methods.test_self_training import DECAY, LR, MOMENTUM, PlainDACS, batch, engine, steps
from tests.networks import Untouched, varied_network

CLASSES, HW = 4, (32, 48)
STILL = {"jitter_chance": 0, "blur_chance": 0}
BRIGHTER = {
    "jitter": 0,
    "brightness": 0.5,
    "jitter_chance": 1,
    "blur_chance": 0,
    "decided_per": "image",
}
"""Changes that plain code can repeat: each image times a number of its own."""
NEAR = {"rtol": 1e-8, "atol": 1e-8}
"""torchvision's hue, turned by nothing, moves values by 1e-10."""
RECIPE: dict[str, Any] = {
    "name": "vfm_uda",
    "augmentation": STILL,
    "source_augmentation": BRIGHTER,
    "target_augmentation": BRIGHTER,
    "masks": {"block_px": 8, "augmentation": STILL},
    "pseudo_labels": {"threshold": 0.3, "margins": [0.1, 0.25, 0.03, 0.1]},
}


class PlainVFMUDA(PlainDACS):
    """Three steps on one convolution, from the papers."""

    def probabilities(self, images: Tensor) -> Tensor:
        """Averaged with those of the mirror image."""
        found = self.logits(images, self.teacher).softmax(dim=1)
        mirrored = self.logits(images.flip(3), self.teacher).softmax(dim=1)
        return (found + mirrored.flip(3)) / 2

    @staticmethod
    def brighter(one: Batch, draws: Draws, purpose: str) -> Tensor:
        changed = []
        for image, key in zip(one.images, one.keys, strict=True):
            own = draws.of_sample(purpose, key)
            own.random(3)  # what is changed
            changed.append((image * (1 + 0.5 * own.uniform(-1, 1, size=4)[0])).clamp(0, 1))
        return torch.stack(changed)

    def step(self, source: Batch, target: Batch, draws: Draws, number: int) -> None:
        assert source.labels is not None
        bright = self.brighter(source, draws, "source images")
        loss = F.cross_entropy(
            self.logits(bright, self.weight), source.labels, ignore_index=IGNORED
        )
        confidence, pseudo = self.probabilities(target.images).max(dim=1)
        trusted = torch.zeros(HW, dtype=torch.float64)
        trusted[3:24, 1:43] = 1  # of 32 rows 10 and 25 %, of 48 columns 3 and 10 %
        weights = (confidence >= self.threshold).double().mean() * trusted.expand_as(confidence)
        pasted = self.pasted(source, target, draws)
        onto = self.brighter(target, draws, "target images")
        images = torch.where(pasted[:, None], source.images, onto)
        each = F.cross_entropy(
            self.logits(images, self.weight),
            torch.where(pasted, source.labels, pseudo),
            reduction="none",
        )
        loss = loss + (torch.where(pasted, 1.0, weights) * each).mean()
        hidden = target.images * block_mask(target, 8, 0.7, draws)
        each = F.cross_entropy(self.logits(hidden, self.weight), pseudo, reduction="none")
        loss = loss + (weights * each).mean()
        (gradient,) = torch.autograd.grad(loss, self.weight)
        gradient = gradient + DECAY * self.weight.detach()
        self.velocity = gradient if self.velocity is None else MOMENTUM * self.velocity + gradient
        with torch.no_grad():
            self.weight -= LR * self.velocity
            share = min(1 - 1 / (number + 1), self.alpha)
            self.teacher = share * self.teacher + (1 - share) * self.weight


def test_three_steps_are_the_papers() -> None:
    one = engine(RECIPE)
    weight = one.method.segmenter.decoder.classifier.weight
    plain = PlainVFMUDA(weight.detach(), alpha=0.999, threshold=0.3)
    for number, (source, target) in enumerate(steps()):
        logged = one.step(source, target)
        plain.step(source, target, one.method.draws, number + 1)
        torch.testing.assert_close(weight, plain.weight, **NEAR)
        assert logged["masked/main"] > 0
    teacher = one.method.teacher.network.decoder.classifier.weight
    torch.testing.assert_close(teacher, plain.teacher, **NEAR)


def test_defaults_are_the_papers() -> None:
    config = VFMUDAConfig()
    assert config.teacher.mirror and config.teacher.alpha == 0.999
    assert config.pseudo_labels.margins == (0.03, 0.25, 0.03, 0.03)
    assert config.augmentation.decided_per == "image"
    assert config.masks == MasksConfig(unit="pixels", block_px=64, ratio=0.7, weight=1.0)


def seen(method: dict[str, Any]) -> list[Tensor]:
    """The images that the student sees in a step: source, mixed and, where there are, masked."""
    network = varied_network(CLASSES)
    built = build_method({"name": "vfm_uda", "augmentation": STILL, **method}, network.double())
    images: list[Tensor] = []
    built.segmenter.register_forward_hook(lambda _m, inputs, _out: images.append(inputs[0]))
    built.start_step(Draws(5))
    for _ in built.losses(batch(1), batch(2)):
        pass
    return images


def test_tokens_are_the_encoder_s_patches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Untouched, "multiple_px", 16)
    masks = {"unit": "tokens", "augmentation": STILL}
    _, _, masked = seen({"masks": masks})
    blocks = (masked == 0).all(dim=1).unfold(1, 16, 16).unfold(2, 16, 16).flatten(start_dim=3)
    shares = blocks.double().mean(dim=3)
    assert set(shares.flatten().tolist()) == {0.0, 1.0}


def test_without_masks_there_are_two_terms() -> None:
    assert len(seen({"masks": None})) == 2


def test_tokens_need_a_network_with_patches() -> None:
    message = "method.masks.unit: expected pixels with encoder .* no patches, got tokens.* write"
    with pytest.raises(JobError, match=message):
        engine({"name": "vfm_uda", "masks": {"unit": "tokens"}})


def test_blocks_must_be_smaller_than_the_target() -> None:
    config = VFMUDAConfig()
    check_size(config, "source.size_hw", (64, 128))
    check_size(config, "target.size_hw", (65, 128))
    message = (
        r"method.masks.block_px: expected less than .* 64 pixels .* got 64. Fix: write 8, or set "
    )
    message += r"method.masks: {unit: tokens}, a vision transformer's patches, or enlarge target"
    with pytest.raises(JobError, match=message):
        check_size(config, "target.size_hw", (64, 128))
    check_size(VFMUDAConfig(masks=None), "target.size_hw", (64, 128))
    check_size(VFMUDAConfig(masks=MasksConfig(unit="tokens")), "target.size_hw", (64, 128))


@pytest.mark.parametrize("name", ["mic", "masktwins"])
def test_images_are_masked_by_one_method(name: str) -> None:
    message = f"method.host.masks: expected null under {name}, .* got a section.*write host.masks"
    with pytest.raises(JobError, match=message):
        engine({"name": name, "host": {"name": "vfm_uda"}})
