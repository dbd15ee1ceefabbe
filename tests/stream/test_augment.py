"""Augmentation: image and labels move together, the same draw gives the same sample."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from adapt.batch import IGNORED, Sample
from adapt.stream.augment import CROPS, AugmentConfig, WantedClass, change, draw_changes


def sample(height: int = 40, width: int = 60) -> Sample:
    """Labels that can be read off the image: every pixel's label is its red value."""
    labels = torch.arange(height * width).reshape(height, width).remainder(200).to(torch.uint8)
    return Sample(torch.stack([labels, labels, labels]), labels)


def run(config: AugmentConfig, seed: int = 0, given: Sample | None = None) -> Sample:
    before = given or sample()
    return change(before, draw_changes(before, config, np.random.default_rng(seed)))


def test_the_default_changes_nothing() -> None:
    before, after = sample(), run(AugmentConfig())
    assert torch.equal(before.image, after.image)
    assert before.labels is not None and after.labels is not None
    assert torch.equal(before.labels, after.labels)


@pytest.mark.parametrize("seed", range(5))
def test_flip_and_crop_move_image_and_labels_together(seed: int) -> None:
    after = run(AugmentConfig(flip=0.5, crop_hw=(20, 30)), seed)
    assert after.labels is not None
    assert after.image.shape == (3, 20, 30) and torch.equal(after.image[0], after.labels)


def test_flip_mirrors() -> None:
    after = run(AugmentConfig(flip=1.0))
    assert torch.equal(after.image, sample().image.flip(-1))


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("scale", [(0.5, 0.6), (1.5, 2.0)])
def test_zoom_keeps_the_size_and_the_labels_under_their_pixels(
    seed: int, scale: tuple[float, float]
) -> None:
    bands = (torch.arange(40) // 10 * 60)[:, None].expand(40, 60).to(torch.uint8).contiguous()
    after = run(AugmentConfig(scale=scale), seed, Sample(bands.expand(3, 40, 60), bands))
    assert after.labels is not None and after.labels.shape == (40, 60)
    inside = after.labels != IGNORED
    difference = (after.image[0].int() - after.labels.int()).abs()[inside]
    assert (difference < 30).float().mean() > 0.85


def test_what_lies_outside_the_image_is_ignored() -> None:
    after = run(AugmentConfig(crop_hw=(60, 80)))
    assert after.labels is not None
    outside = after.labels == IGNORED
    assert outside.sum() == 60 * 80 - 40 * 60
    assert not after.image[:, outside].any()


def test_colour_touches_only_the_image() -> None:
    config = AugmentConfig(brightness=0.5, contrast=0.5, saturation=0.5, hue=0.2, blur=1.0)
    image = torch.randint(0, 256, (3, 40, 60), dtype=torch.uint8)
    before = Sample(image, sample().labels)
    after = run(config, 3, before)
    assert before.labels is not None and after.labels is not None
    assert torch.equal(after.labels, before.labels) and after.image.dtype == torch.uint8
    assert not torch.equal(after.image, image)


def test_one_draw_gives_one_sample_and_labels_may_be_absent() -> None:
    config = AugmentConfig(flip=0.5, scale=(0.7, 1.5), crop_hw=(20, 20), brightness=0.3, hue=0.1)
    assert torch.equal(run(config, 4).image, run(config, 4).image)
    assert not torch.equal(run(config, 4).image, run(config, 5).image)
    unlabelled = Sample(sample().image, None)
    assert torch.equal(run(config, 4, unlabelled).image, run(config, 4).image)
    assert run(config, 4, unlabelled).labels is None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"scale": (2.0, 1.0)}, "expected 0 < low <= high"),
        ({"crop_hw": (0, 5)}, "expected two positive sizes"),
        (
            {"largest_class_share": 0.75},
            "largest_class_share: expected 1 without crop_hw, got 0.75",
        ),
    ],
)
def test_wrong_ranges_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        AugmentConfig.model_validate(fields)


def test_crops_are_drawn_again_until_they_show_the_wanted_class() -> None:
    labels = torch.zeros(80, 80, dtype=torch.uint8)
    labels[:20, :20] = 7
    given = Sample(labels.expand(3, 80, 80), labels)
    config = AugmentConfig(crop_hw=(30, 30), scale=(1.0, 2.0))

    def shown(wanted: WantedClass | None) -> list[int]:
        found = []
        for seed in range(40):
            changes = draw_changes(given, config, np.random.default_rng(seed), wanted)
            after = change(given, changes).labels
            assert after is not None
            found.append(int((after == 7).sum()))
        return found

    alone, wanted = shown(None), shown(WantedClass(7, pixels=100))
    assert sum(pixels > 100 for pixels in wanted) > 1.5 * sum(pixels > 100 for pixels in alone)
    kept = [pair for pair in zip(alone, wanted, strict=True) if pair[0] > 100]
    assert kept and all(before == after for before, after in kept)


@pytest.mark.parametrize("ignored_rows", [0, 40])
def test_crops_are_drawn_again_while_one_class_covers_too_much(ignored_rows: int) -> None:
    """Half of the image is one class; the share is that of the labelled pixels."""
    labels = torch.zeros(80, 80, dtype=torch.uint8)
    labels[:, 40:] = 7
    labels[:ignored_rows] = IGNORED
    given = Sample(labels.expand(3, 80, 80), labels)

    def largest(share: float) -> list[float]:
        config, found = AugmentConfig(crop_hw=(30, 30), largest_class_share=share), []
        for seed in range(40):
            after = change(given, draw_changes(given, config, np.random.default_rng(seed))).labels
            assert after is not None
            pixels = [int((after == train_id).sum()) for train_id in (0, 7)]
            found.append(max(pixels) / max(sum(pixels), 1))
        return found

    free, bounded = largest(1.0), largest(0.75)
    assert sum(share > 0.75 for share in free) > 15 > 5 > sum(share > 0.75 for share in bounded)
    kept = [pair for pair in zip(free, bounded, strict=True) if pair[0] <= 0.75]
    assert kept and all(before == after for before, after in kept)


def test_a_crop_should_show_the_wanted_class_and_not_it_alone() -> None:
    """Left edges from 6 on show enough of the class, those up to 8 no more than 0.8 of it."""
    labels = torch.full((20, 20), 7, dtype=torch.uint8)
    labels[:, :10] = 1
    given = Sample(labels.expand(3, 20, 20), labels)
    config, wanted = AugmentConfig(crop_hw=(20, 10), largest_class_share=0.8), WantedClass(7, 100)
    changes = [draw_changes(given, config, np.random.default_rng(n), wanted) for n in range(40)]
    assert sum(one.window[1] in (6, 7, 8) for one in changes) >= 33


def test_a_wanted_class_that_is_nowhere_ends_after_ten_crops() -> None:
    config, random = AugmentConfig(crop_hw=(8, 8)), np.random.default_rng(1)
    draw_changes(sample(), config, random, WantedClass(250, pixels=0))
    again = np.random.default_rng(1)
    for _ in range(CROPS - 1):  # zoom, top and left of each crop given up
        again.uniform(*np.log((1.0, 1.0)))
        again.integers(0, 32, endpoint=True)
        again.integers(0, 52, endpoint=True)
    draw_changes(sample(), config, again)
    assert again.random() == random.random()


def test_changes_are_drawn_apart_from_being_made() -> None:
    config = AugmentConfig(flip=0.5, scale=(0.7, 1.5), crop_hw=(20, 20), hue=0.1, blur=0.5)
    for seed in range(6):
        changes = draw_changes(sample(), config, np.random.default_rng(seed))
        assert torch.equal(change(sample(), changes).image, run(config, seed).image)
