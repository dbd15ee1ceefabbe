"""The parts of self-training, each against its formula: draws, teacher, labels, mixing, masks."""

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adapt.batch import IGNORED, Batch, PixelFormat
from adapt.config.validation import validate
from adapt.errors import JobError
from adapt.losses import weighted_cross_entropy
from adapt.methods.block_masks import block_mask
from adapt.methods.class_mix import class_mix, pasted_pixels
from adapt.methods.draws import Draws
from adapt.methods.fda import charbonnier_entropy
from adapt.methods.feature_distance import FeatureDistance, FeatureDistanceConfig
from adapt.methods.fourier import with_low_amplitudes_of
from adapt.methods.pseudo_labels import PseudoLabelConfig, PseudoLabels, pseudo_labels
from adapt.methods.strong_augmentation import (
    StrongAugmentationConfig,
    network_input,
    strongly_augmented,
    unit_rgb,
)
from adapt.methods.teacher import Teacher, TeacherConfig
from adapt.models import build_segmenter
from tests.networks import SHARES, tiny_model, varied_network

CAFFE = PixelFormat(mean=(104.0, 117.0, 123.0), std=(1.0, 1.0, 1.0), bgr=True)
TIMM = PixelFormat(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


def batch(seed: int, size: int = 2, size_hw: tuple[int, int] = (32, 48), classes: int = 5) -> Batch:
    random = torch.Generator().manual_seed(seed)
    images = torch.rand(size, 3, *size_hw, generator=random)
    labels = torch.randint(classes, (size, *size_hw), generator=random)
    return Batch(images, labels, tuple(f"{seed}/{row}" for row in range(size)))


def test_draws_follow_from_seed_purpose_and_key_alone() -> None:
    one = Draws(7).of_sample("mask", "a").random(4)
    assert (Draws(7).of_sample("mask", "a").random(4) == one).all()
    others = (
        Draws(8).of_sample("mask", "a"),
        Draws(7).of_sample("mix", "a"),
        Draws(7).of_sample("mask", "b"),
        Draws(7).of_step("mask"),
    )
    assert all((other.random(4) != one).any() for other in others)


@pytest.mark.parametrize("alpha", [0.0, 0.6, 0.999])
def test_teacher_is_a_moving_average_after_a_ramp(alpha: float) -> None:
    student = varied_network(3).double()
    teacher = Teacher(TeacherConfig(alpha=alpha), PseudoLabelConfig(), student)
    expected = student.decoder.classifier.weight.detach().clone()
    for step in (1, 2, 3, 4):
        with torch.no_grad():
            student.decoder.classifier.weight.add_(step)
        teacher.follow(student, step)
        share = min(1 - 1 / (step + 1), alpha)
        expected = share * expected + (1 - share) * student.decoder.classifier.weight.detach()
        found = teacher.network.decoder.classifier.weight
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
        assert not found.requires_grad


def teacher_and_student(**config: Any) -> tuple[Teacher, Any]:
    torch.manual_seed(1)
    student = build_segmenter({**tiny_model("unet"), "norm": "train"}, 4)
    return Teacher(TeacherConfig(**config), PseudoLabelConfig(), student).train(), student.train()


@pytest.mark.parametrize("norm", ["batch", "running"])
def test_teacher_s_norms_read_what_the_config_says(norm: str) -> None:
    teacher, student = teacher_and_student(norm=norm)
    before = [buffer.clone() for buffer in student.buffers()]
    student(batch(1, size_hw=(64, 64)).images)
    teacher.follow(student, 1)
    pairs = list(zip(teacher.network.buffers(), student.buffers(), before, strict=True))
    moved = [
        torch.equal(own, (old + new) / 2) for own, new, old in pairs if own.is_floating_point()
    ]
    kept = [torch.equal(own, old) for own, new, old in pairs if own.is_floating_point()]
    assert all(moved if norm == "running" else kept)
    norms = [m for m in teacher.network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert {one.training for one in norms} == {norm == "batch"}


def test_teacher_has_no_dropout_and_no_gradient() -> None:
    torch.manual_seed(1)
    student = build_segmenter({**tiny_model("pspnet"), "norm": "train"}, 4)
    assert any(isinstance(module, nn.Dropout | nn.Dropout2d) for module in student.modules())
    teacher = Teacher(TeacherConfig(), PseudoLabelConfig(), student).train()
    images = batch(1, size_hw=(64, 64)).images
    one, other = teacher.probabilities(images), teacher.probabilities(images)
    torch.testing.assert_close(one, other)
    assert not one.requires_grad
    torch.testing.assert_close(one.sum(dim=1), torch.ones(2, 64, 64))


def test_a_mirroring_teacher_answers_alike_for_both_images() -> None:
    teacher, _ = teacher_and_student(mirror=True, norm="running")
    images = batch(1, size_hw=(64, 64)).images
    mirrored = teacher.probabilities(images.flip(-1))
    torch.testing.assert_close(teacher.probabilities(images), mirrored.flip(-1))


def probabilities() -> Tensor:
    """Two images of 2 x 2 pixels: sure of class 1 on 3 pixels, and of class 0 on 1 of them."""
    sure = torch.tensor([[[0.9, 0.9], [0.9, 0.4]], [[0.1, 0.6], [0.45, 0.5]]])
    return torch.stack([1 - sure, sure], dim=1)


@pytest.mark.parametrize(
    ("quality", "weights"),
    [
        ("batch", [[[0.5] * 2] * 2] * 2),
        ("image", [[[0.75] * 2] * 2, [[0.25] * 2] * 2]),
        ("pixel", [[[1.0, 1.0], [1.0, 0.0]], [[1.0, 0.0], [0.0, 0.0]]]),
    ],
)
def test_weights_of_pseudo_labels(quality: Any, weights: list[Any]) -> None:
    config = PseudoLabelConfig(threshold=0.8, quality=quality)
    (found,) = pseudo_labels([probabilities()], config)
    assert found.labels.tolist() == [[[1, 1], [1, 0]], [[0, 1], [0, 0]]]
    assert found.weights.tolist() == weights


def test_the_quality_of_a_batch_is_that_of_all_its_parts() -> None:
    parts = probabilities().split(1)
    found = pseudo_labels(parts, PseudoLabelConfig(threshold=0.8))
    assert [one.weights.unique().tolist() for one in found] == [[0.5], [0.5]]


@pytest.mark.parametrize(
    ("threshold", "last"), [(0.95, [[1.0, 0.0], [0.0, 0.0]]), (0.58, [[1.0, 1.0], [0.0, 0.0]])]
)
def test_a_hard_class_counts_where_it_is_surer_than_its_mean(
    threshold: float, last: list[list[float]]
) -> None:
    """Class 0 has .6 .9 .55 .5, class 1 .9 .9 .9 .6: means .6375 and .825."""
    config = PseudoLabelConfig(threshold=threshold, quality="class")
    first = [[1.0, 1.0], [1.0, 1.0 if threshold < 0.6 else 0.0]]
    for parts in ([probabilities()], probabilities().split(1)):
        found = torch.cat([one.weights for one in pseudo_labels(parts, config)])
        assert found.tolist() == [first, last]


def test_margins_do_not_count_but_the_quality_is_that_of_the_whole_image() -> None:
    certain = torch.zeros(1, 2, 20, 10)
    certain[:, 0, :10], certain[:, 0, 10:] = 1.0, 0.5
    certain[:, 1, 10:] = 0.5
    config = PseudoLabelConfig(margins=(0.1, 0.25, 0.2, 0.0))
    weights = pseudo_labels([certain], config)[0].weights[0]
    expected = torch.zeros(20, 10)
    expected[2:15, 2:] = 0.5
    assert torch.equal(weights, expected)


def test_half_of_an_image_s_own_classes_is_pasted() -> None:
    labels = torch.full((3, 4, 6), IGNORED)
    labels[0, :, 0], labels[0, :, 1], labels[0, 0, 2] = 4, 2, 0
    labels[1, 1, 1] = 3
    picked = set()
    for seed in range(40):
        pasted = pasted_pixels(labels, 5, ["a", "b", "c"], Draws(seed))
        assert not (pasted & (labels == IGNORED)).any()
        chosen = [set(labels[row][pasted[row]].tolist()) for row in range(3)]
        assert [len(one) for one in chosen] == [2, 1, 0]  # of 3, 1 and no classes
        for row, classes in enumerate(chosen):
            for train_id in classes:
                assert pasted[row][labels[row] == train_id].all()
        picked.add(frozenset(chosen[0]))
    assert picked == {frozenset(pair) for pair in ((0, 2), (0, 4), (2, 4))}


def test_mixed_images_have_the_source_where_pasted_and_the_target_elsewhere() -> None:
    source, target = batch(1, size=1), batch(2, size=3)
    pseudo = PseudoLabels(torch.full((3, 32, 48), 7), torch.full((3, 32, 48), 0.25))
    mixed = class_mix(source, target, pseudo, 5, Draws(3))
    keys = [f"1/0 2/{row}" for row in range(3)]
    assert source.labels is not None
    pasted = pasted_pixels(source.labels.expand(3, -1, -1), 5, keys, Draws(3))
    assert pasted.any() and not pasted.all()
    assert torch.equal(mixed.weights, torch.where(pasted, 1.0, 0.25))
    assert torch.equal(mixed.labels, torch.where(pasted, source.labels, 7))
    images = torch.where(pasted[:, None], source.images, target.images)
    assert torch.equal(mixed.images, images)


@pytest.mark.parametrize("size_hw", [(20, 60), (40, 30)])
def test_a_source_of_another_size_is_cut_or_padded(size_hw: tuple[int, int]) -> None:
    source, target = batch(1, size_hw=size_hw), batch(2)
    pseudo = PseudoLabels(torch.full((2, 32, 48), 7), torch.zeros(2, 32, 48))
    mixed = class_mix(source, target, pseudo, 5, Draws(3))
    assert mixed.images.shape == target.images.shape
    outside = torch.ones(32, 48, dtype=torch.bool)
    outside[: size_hw[0], : size_hw[1]] = False
    assert (mixed.labels[:, outside] == 7).all() and (mixed.labels[:, ~outside] != 7).any()


def test_masks_hide_whole_blocks_in_their_share() -> None:
    one = batch(1, size=4, size_hw=(130, 200))
    mask = block_mask(one, 8, 0.7, Draws(1))
    assert mask.shape == (4, 1, 130, 200) and set(mask.unique().tolist()) == {0.0, 1.0}
    blocks = F.unfold(mask[..., :128, :], 8, stride=8)
    assert ((blocks == blocks[:, :1]).all(dim=1)).all()
    assert mask.mean().item() == pytest.approx(0.3, abs=0.03)
    assert not torch.equal(mask[0], mask[1])


@pytest.mark.parametrize("pixels", [SHARES, CAFFE, TIMM])
def test_a_network_s_input_becomes_rgb_and_back(pixels: PixelFormat) -> None:
    rgb = batch(1).images
    torch.testing.assert_close(unit_rgb(network_input(rgb, pixels), pixels), rgb)
    first = network_input(rgb, pixels)[0, 0, 0, 0]
    red_or_blue = rgb[0, 2, 0, 0] * 255 if pixels.bgr else rgb[0, 0, 0, 0]
    torch.testing.assert_close(first, (red_or_blue - pixels.mean[0]) / pixels.std[0])


def augmented(seed: int, **config: Any) -> Tensor:
    one = batch(1, size=6)
    settings = StrongAugmentationConfig(**config)
    return strongly_augmented(one.images, SHARES, settings, one.keys, Draws(seed), "test")


def test_augmentation_that_is_off_changes_nothing() -> None:
    off = augmented(1, jitter_chance=0, blur_chance=0)
    torch.testing.assert_close(off, batch(1, size=6).images)


@pytest.mark.parametrize("chance", ["jitter_chance", "grey_chance", "blur_chance"])
@pytest.mark.parametrize("decided_per", ["batch", "image"])
def test_changes_are_decided_for_the_batch_or_for_each_image(decided_per: str, chance: str) -> None:
    seen = {"blur_sigma_px": (1.0, 1.15), "decided_per": decided_per}  # less is nearly nothing
    kinds = set()
    for seed in range(12):
        off = dict.fromkeys(("jitter_chance", "grey_chance", "blur_chance"), 0.0)
        found = augmented(seed, **seen, **{**off, chance: 0.5})
        differ = (found - batch(1, size=6).images).abs().amax(dim=(1, 2, 3)) > 1e-3
        kinds.add(int(differ.sum()))
    assert kinds == {0, 6} if decided_per == "batch" else len(kinds) > 2


def test_strength_varies_from_image_to_image_and_stays_in_range() -> None:
    one = Batch(torch.full((2, 3, 32, 48), 0.5), None, ("a", "b"))
    config = StrongAugmentationConfig(jitter_chance=1, blur_chance=0)
    found = strongly_augmented(one.images, SHARES, config, one.keys, Draws(2), "test")
    assert not torch.allclose(found[0], found[1])
    assert found.min() >= 0.4 - 1e-6 and found.max() <= 0.6 + 1e-6


def test_brightness_and_hue_may_have_strengths_of_their_own() -> None:
    config = StrongAugmentationConfig(jitter=0.8, brightness=0.1, hue=0.4)
    assert config.strengths == (0.1, 0.8, 0.8, 0.4)
    one = Batch(torch.full((2, 3, 32, 48), 0.5), None, ("a", "b"))
    config = StrongAugmentationConfig(jitter=0, brightness=1.0, jitter_chance=1, blur_chance=0)
    found = strongly_augmented(one.images, SHARES, config, one.keys, Draws(2), "test")
    spread = found.flatten(start_dim=1)
    torch.testing.assert_close(spread.amax(dim=1), spread.amin(dim=1))  # grey stays grey
    assert (found - 0.5).abs().max() > 0.1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"jitter": 0.6},
            "jitter: expected at most 0.5.* got 0.6 without hue. Fix: write hue: 0.5",
        ),
        ({"blur_sigma_px": [3.0, 1.0]}, r"expected the least sigma first.*Fix: write \[1.0, 3.0\]"),
    ],
)
def test_strengths_that_mean_nothing_are_refused(values: Any, message: str) -> None:
    with pytest.raises(JobError, match=message):
        validate(StrongAugmentationConfig, values)


def test_blur_keeps_the_mean_and_takes_the_edges() -> None:
    board = (torch.arange(64) % 2).float().expand(1, 3, 64, 64).contiguous()
    config = StrongAugmentationConfig(jitter_chance=0, blur_chance=1)
    found = strongly_augmented(board, SHARES, config, ("a",), Draws(3), "test")
    assert found.mean().item() == pytest.approx(0.5, abs=0.02)
    assert found.std() < board.std()


@pytest.mark.parametrize("beta", [0.0, 0.01, 0.05, 0.2])
@pytest.mark.parametrize("size_hw", [(32, 48), (33, 47)])
def test_low_amplitudes_are_exchanged(beta: float, size_hw: tuple[int, int]) -> None:
    source, target = (batch(seed, size_hw=size_hw).images.double() for seed in (1, 2))
    found = with_low_amplitudes_of(target, source, beta)
    reach = {0.01: 1}.get(beta, math.floor(min(size_hw) * beta))
    before, other = np.fft.fft2(source.numpy()), np.fft.fft2(target.numpy())
    amplitude = np.abs(before)
    for rows in (slice(0, reach), slice(size_hw[0] - reach, None)):
        for columns in (slice(0, reach), slice(size_hw[1] - reach, None)):
            if reach:
                amplitude[..., rows, columns] = np.abs(other)[..., rows, columns]
    expected = np.fft.ifft2(amplitude * np.exp(1j * np.angle(before))).real
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)
    if reach:
        means = found.mean(dim=(2, 3)), target.mean(dim=(2, 3))
        torch.testing.assert_close(*means)  # the lowest frequency is the mean


def test_charbonnier_entropy() -> None:
    random = torch.Generator().manual_seed(1)
    shares = torch.rand(2, 4, 3, 5, generator=random, dtype=torch.float64)
    shares = shares / shares.sum(dim=1, keepdim=True)
    total = 0.0
    for row in shares.movedim(1, -1).reshape(-1, 4).tolist():
        entropy = -sum(p * math.log(p) for p in row) / math.log(4)
        total += (entropy**2 + 1e-8) ** 1.5
    assert charbonnier_entropy(shares, 1.5).item() == pytest.approx(total / 30, rel=1e-12)


def test_weighted_cross_entropy_is_the_mean_over_all_pixels() -> None:
    logits = torch.tensor([[[[0.0, 2.0]], [[0.0, 0.0]]]], dtype=torch.float64)
    labels = torch.tensor([[[0, IGNORED]]])
    weights = torch.tensor([[[0.5, 1.0]]], dtype=torch.float64)
    found = weighted_cross_entropy(logits, labels, weights)
    assert found.item() == pytest.approx(0.5 * math.log(2) / 2, rel=1e-12)


def distance(**config: Any) -> FeatureDistance:
    return FeatureDistance(FeatureDistanceConfig(**config), varied_network(3))


def test_feature_distance_counts_positions_ruled_by_a_wanted_class() -> None:
    labels = torch.zeros(1, 8, 8, dtype=torch.long)
    labels[0, :4, :4] = 1
    labels[0, 0, :4] = IGNORED  # 12 of 16 pixels are left of class 1
    labels[0, 4:, 4:] = 2
    labels[0, 4, 4:] = 0
    labels[0, 5, 4] = 0  # 11 of 16 are of class 2
    counted = distance(classes=[1, 2]).counted(labels, (2, 2))
    assert counted.tolist() == [[[True, False], [False, False]]]
    every = distance().counted(labels, (2, 2))
    assert every.tolist() == [[[True, True], [True, False]]]


@pytest.mark.parametrize("classes", [[3], [0, -1], [6, 7, 11]])
def test_classes_that_the_job_does_not_have_are_refused(classes: list[int]) -> None:
    with pytest.raises(JobError, match=r"feature_distance.classes: expected .* 0 to 2, got \["):
        distance(classes=classes)


def test_feature_distance_is_the_mean_over_what_counts() -> None:
    images, labels = torch.zeros(1, 3, 2, 2), torch.tensor([[[0, 1], [IGNORED, 1]]])
    features = torch.tensor([3.0, 4.0, 0.0]).view(1, 3, 1, 1).expand(1, 3, 2, 2).clone()
    features[0, :, 0, 1] *= 2
    weight, value = distance(classes=[1], weight=0.25)(images, labels, features)
    assert (weight, value.item()) == (0.25, pytest.approx((10 + 5) / 2))
    _, none = distance(classes=[2])(images, labels, features.requires_grad_())
    none.backward()
    assert none.item() == 0 and features.grad is not None and not features.grad.any()


def test_the_first_encoder_stays_as_it_was() -> None:
    torch.manual_seed(1)
    student = build_segmenter({**tiny_model("unet"), "norm": "train"}, 4).train()
    kept = FeatureDistance(FeatureDistanceConfig(), student).train()
    images = batch(1, size_hw=(64, 64)).images
    before = [tensor.clone() for tensor in kept.state_dict().values()]
    features = student.eval()(images).features[-1]
    _, value = kept(images, torch.zeros(2, 64, 64, dtype=torch.long), features)
    assert value.item() == pytest.approx(0, abs=1e-5)
    after = kept.state_dict().values()
    assert all(torch.equal(old, new) for old, new in zip(before, after, strict=True))
