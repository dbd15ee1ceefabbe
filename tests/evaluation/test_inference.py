"""Views, windows and ensembles, on a network whose logits are worked out by hand."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from adapt.batch import PixelFormat
from adapt.config.validation import validate
from adapt.data.packed.codecs import resize_image
from adapt.data.packed.packed_split import PackedSplit
from adapt.errors import JobError
from adapt.evaluation import inference
from adapt.evaluation.inference import (
    WHOLE_IMAGE,
    EnsembleMember,
    InferenceConfig,
    OwnSize,
    ViewLogits,
    class_map,
    decoded,
    members_of,
    predict,
    predictions,
    sliding_windows,
)
from adapt.models import build_segmenter
from adapt.models.layers import resize
from adapt.models.segmenter import Decoder, Segmenter
from storage.shards.cache import ShardCache
from storage.stores import Stores
from tests.networks import SHARES, Untouched, network

CPU = torch.device("cpu")
BGR = SHARES._replace(bgr=True)


class LeftSide(Decoder):
    """Logits are the channels; the first is higher by 1 where the network sees the left half."""

    align_corners = True

    def __init__(self, halves: bool) -> None:
        super().__init__()
        self.halves = halves

    def forward(
        self, images: Tensor, features: tuple[Tensor, ...]
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        logits = features[0].clone()
        if self.halves:
            logits[:, 0, :, : logits.shape[-1] // 2] += 1
        return [logits, torch.full_like(logits, torch.nan)], {}


def shown(pixels: PixelFormat = SHARES, halves: bool = False) -> Segmenter:
    return network(LeftSide(halves), 3, pixels)


def seen_by(segmenter: Segmenter) -> list[Tensor]:
    assert isinstance(segmenter.encoder, Untouched)
    return segmenter.encoder.seen


def noise(height: int = 24, width: int = 36) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.randint(256, (3, height, width), generator=generator, dtype=torch.uint8)


def smooth(height: int = 24, width: int = 36) -> Tensor:
    rows, columns = torch.arange(height)[:, None], torch.arange(width)[None]
    return torch.stack([5 * rows + columns, 3 * columns + rows, rows + columns]).to(torch.uint8)


def logits_of(
    segmenter: Segmenter, image: Tensor, views: InferenceConfig, size_hw: tuple[int, int]
) -> Tensor:
    return predict([EnsembleMember(segmenter)], image, size_hw, CPU, views)


@torch.no_grad()
def test_no_views_are_one_pass_bit_for_bit() -> None:
    """Of the papers' network: main head, resized once from the decoder's own size."""
    torch.manual_seed(3)
    config = {"architecture": "deeplab_v2", "encoder": "caffe_resnet14", "weights": "none"}
    segmenter = build_segmenter(config, 5).eval()
    image = noise(33, 65)
    mean = torch.tensor([104.00698793, 116.66876762, 122.67891434])[:, None, None]
    expected = segmenter((image.flip(0) - mean)[None], (50, 70)).logits[0][0]
    got = logits_of(segmenter, image, WHOLE_IMAGE, (50, 70))
    assert got.shape == (5, 50, 70) and got.dtype == torch.float32
    assert torch.equal(got, expected)
    fits = InferenceConfig(window_hw=(33, 100))
    assert torch.equal(logits_of(segmenter, image, fits, (50, 70)), expected)


def test_the_size_asked_for_is_reached_by_the_architecture_s_resizing() -> None:
    image = smooth()
    expected = resize(image[None] / 255, (48, 50), align_corners=True)[0]
    assert torch.equal(logits_of(shown(), image, WHOLE_IMAGE, (48, 50)), expected)


def test_a_mirrored_view_is_mirrored_back_and_averaged() -> None:
    """The bonus of 1 for the left half of what the network sees falls on each half once."""
    segmenter, image = shown(halves=True), noise()
    got = logits_of(segmenter, image, InferenceConfig(flip=True), (24, 36))
    expected = image / 255
    expected[0] += 0.5
    torch.testing.assert_close(got, expected)
    first, second = seen_by(segmenter)
    assert torch.equal(first.flip(-1), second) and not torch.equal(first, second)


def test_scaled_views_are_averaged_at_the_size_asked_for() -> None:
    segmenter, image = shown(), smooth()
    views = InferenceConfig(scales=(0.5, 1.0, 1.75))
    got = logits_of(segmenter, image, views, (30, 40))
    assert [tuple(view.shape[-2:]) for view in seen_by(segmenter)] == [(12, 18), (24, 36), (42, 63)]
    each = [resize(view, (30, 40), align_corners=True)[0] for view in seen_by(segmenter)]
    torch.testing.assert_close(got, sum(each) / 3)


@pytest.mark.parametrize("scale", [0.5, 0.75, 1.6])
def test_a_scaled_image_is_pillow_s_up_to_a_grey_level(scale: float) -> None:
    """Where no value leaves 0 to 255 on the way; Pillow cuts those off twice."""
    segmenter, image = shown(), noise() // 3 + 80
    logits_of(segmenter, image, InferenceConfig(scales=(scale,)), (8, 8))
    (seen,) = seen_by(segmenter)
    size_hw = (round(24 * scale), round(36 * scale))
    pillow = resize_image(image.permute(1, 2, 0).numpy(), size_hw)
    difference = (255 * seen[0]).permute(1, 2, 0).numpy() - pillow
    assert np.abs(difference).max() < 1.01


def test_a_scaled_image_stays_within_the_grey_levels() -> None:
    segmenter, image = shown(), 255 * (noise() > 127)
    logits_of(segmenter, image.to(torch.uint8), InferenceConfig(scales=(1.6,)), (8, 8))
    (seen,) = seen_by(segmenter)
    assert seen.min() == 0 and seen.max() == 1


def test_a_tiny_scale_leaves_a_pixel() -> None:
    segmenter = shown()
    logits_of(segmenter, noise(4, 8), InferenceConfig(scales=(0.01,)), (4, 8))
    assert tuple(seen_by(segmenter)[0].shape[-2:]) == (1, 1)


def test_windows_are_averaged_where_they_overlap_then_resized() -> None:
    """Windows of 36 columns, 24 apart, over 60: each overlap's first half has seen a left side."""
    segmenter, image = shown(halves=True), noise(24, 60)
    got = logits_of(segmenter, image, InferenceConfig(window_hw=(24, 36)), (24, 60))
    assert len(seen_by(segmenter)) == 2
    bonus = torch.zeros(60)
    bonus[0:18] = 1
    bonus[24:36] = 0.5  # left in the second window, right in the first
    bonus[36:42] = 1
    expected = image / 255
    expected[0] += bonus
    torch.testing.assert_close(got, expected)
    larger = logits_of(segmenter, image, InferenceConfig(window_hw=(24, 36)), (31, 75))
    torch.testing.assert_close(larger, resize(expected[None], (31, 75), align_corners=True)[0])


@pytest.mark.parametrize(
    ("length", "window", "stride", "starts"),
    [
        (100, 60, None, [0, 40]),
        (90, 60, None, [0, 30]),  # the last is flush with the border
        (61, 60, 60, [0, 1]),
        (120, 60, 60, [0, 60]),
        (60, 60, None, [0]),
        (50, 60, None, [0]),
        (2048, 769, None, [0, 513, 1026, 1279]),
    ],
)
def test_windows_cover_a_side(
    length: int, window: int, stride: int | None, starts: list[int]
) -> None:
    views = InferenceConfig(
        window_hw=(window, 5), window_stride_hw=None if stride is None else (stride, 5)
    )
    rows = [rows for rows, columns in sliding_windows((length, 5), views)]
    assert [one.start for one in rows] == starts
    assert {one.stop - one.start for one in rows} == {min(window, length)}
    assert rows[-1].stop == length
    across = InferenceConfig(
        window_hw=(5, window), window_stride_hw=None if stride is None else (5, stride)
    )
    assert [columns for _, columns in sliding_windows((5, length), across)] == rows


def test_an_ensemble_sums_weighted_logits_each_in_its_own_pixels() -> None:
    rgb, bgr, image = shown(), shown(BGR), smooth()
    members = [EnsembleMember(rgb, 0.25), EnsembleMember(bgr, 0.75)]
    got = predict(members, image, (24, 36), CPU)
    assert torch.equal(got, 0.25 * (image / 255) + 0.75 * image.flip(0).float())


def test_weights_hold_whatever_the_views() -> None:
    """More views of one member do not outweigh the other."""
    image = smooth()
    views = InferenceConfig(flip=True, scales=(1.0, 1.0))
    members = [EnsembleMember(shown(), 0.25), EnsembleMember(shown(BGR), 0.75)]
    torch.testing.assert_close(
        predict(members, image, (24, 36), CPU, views), predict(members, image, (24, 36), CPU)
    )


def test_one_network_is_an_ensemble_of_one() -> None:
    segmenter = shown()
    assert members_of(segmenter) == (EnsembleMember(segmenter, 1.0),)
    assert members_of([EnsembleMember(segmenter, 0.5)]) == (EnsembleMember(segmenter, 0.5),)


def test_of_equal_logits_the_first_class_wins() -> None:
    """As with numpy, which the papers' programs ask; many pixels, so that all code paths run."""
    generator = torch.Generator().manual_seed(1)
    logits = torch.randint(3, (19, 61, 67), generator=generator).float()
    got = class_map(logits)
    np.testing.assert_array_equal(got.numpy(), logits.numpy().argmax(axis=0))
    assert class_map(torch.zeros(19, 40, 40)).max() == 0


def open_tiny(uri: str, tmp_path: Path) -> PackedSplit:
    return PackedSplit(Stores().open(uri), "val", ShardCache(tmp_path / "cache"), None)


def test_samples_come_in_order_with_any_number_of_threads(tiny_uri: str, tmp_path: Path) -> None:
    split = open_tiny(tiny_uri, tmp_path)
    for indices in (range(5), range(1, 5, 2), range(5, 5)):
        for threads in (1, 3):
            got = list(decoded(split, indices, threads))
            assert [number for number, _ in got] == list(indices)
            for number, sample in got:
                assert torch.equal(sample.image, split.read(number).image)
    split.close()


def test_predictions_leave_the_networks_as_they_were(tiny_uri: str, tmp_path: Path) -> None:
    training, evaluating = shown().train(), shown().eval()
    split = open_tiny(tiny_uri, tmp_path)
    members = [EnsembleMember(training), EnsembleMember(evaluating)]
    seen = predictions(members, split, range(5), lambda number, _: (4, 5 + number), CPU)
    first, second = next(seen), next(seen)
    assert not training.training
    assert first.logits.shape == (3, 4, 5) and second.logits.shape == (3, 4, 6)
    assert torch.is_grad_enabled() and not first.logits.requires_grad
    seen.close()
    assert training.training and not evaluating.training
    split.close()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"scales": []}, "scales: expected a list of at least 1, got"),
        ({"scales": [1.0, 0]}, "scales.1: expected a number > 0 and <= 16, got 0"),
        ({"window_hw": [0, 5]}, "window_hw.0: expected .*, got 0"),
        (
            {"window_stride_hw": [5, 5]},
            r"window_stride_hw: expected at most window_hw, got \[5, 5\] with window_hw none",
        ),
        (
            {"window_hw": [9, 4], "window_stride_hw": [5, 5]},
            r"window_stride_hw: .* got \[5, 5\] with window_hw \[9, 4\]",
        ),
    ],
)
def test_wrong_views_are_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(JobError, match=message):
        validate(InferenceConfig, values)


def of_one_view(logits: Tensor, size_hw: tuple[int, int]) -> OwnSize:
    return OwnSize(((1.0, (ViewLogits(logits, True, mirrored=False),)),), size_hw)


@pytest.mark.parametrize("block_bytes", [1, 4 * 96 * 3, 1 << 30])
def test_a_map_of_classes_is_that_of_all_logits_whatever_the_block(
    block_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inference, "BLOCK_BYTES", block_bytes)
    coarse = torch.randn(1, 7, 3, 4, generator=torch.Generator().manual_seed(1))
    coarse[:, 5] = coarse[:, 2]  # ties everywhere: the first wins
    coarse[0, 4, 0, 0] = torch.nan
    found = of_one_view(coarse, (8, 12))
    expected = resize(coarse, (8, 12), align_corners=True)[0]
    assert torch.equal(found.class_maps()[0], class_map(expected))
    assert not (found.class_maps() == 5).any() and (found.class_maps() == 2).any()
    assert not found.finite() and of_one_view(coarse.nan_to_num(), (8, 12)).finite()


def test_auxiliary_heads_are_not_brought_to_the_image_s_size() -> None:
    segmenter = shown().eval()
    alone = segmenter(torch.rand(1, 3, 8, 8), (16, 16), main_alone=True)
    assert [one.shape for one in alone.logits] == [(1, 3, 8, 8)] and alone.extra == {}
    both = segmenter(torch.rand(1, 3, 8, 8), (16, 16))
    assert [one.shape for one in both.logits] == [(1, 3, 16, 16)] * 2
