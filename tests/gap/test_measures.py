"""The measures of a gap, by hand and in closed form."""

from math import nan

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from adapt.gap.colour import (
    LIGHTNESS_BINS,
    colour_difference,
    colour_statistics,
    lab,
    lightness_counts,
    lightness_shift,
)
from adapt.gap.distances import (
    frechet_distance,
    kernel_distance,
    nearest,
    proxy_a_distance,
    standardised,
)
from adapt.gap.divergence import jensen_shannon, kullback_leibler
from adapt.gap.frequencies import (
    EDGES,
    low_share,
    radial_amplitude,
    spectrum_difference,
    suggested_beta,
)
from adapt.gap.measures import class_places, image_gap, layer_gap, plain
from adapt.gap.observe import ImageFacts, ImageObserver, class_rows
from adapt.gap.texture import detail_by_row, in_rows, pattern_counts, sharpness


def one_colour(*rgb: int) -> Tensor:
    return torch.tensor(rgb, dtype=torch.uint8)[:, None, None].expand(3, 4, 4)


@pytest.mark.parametrize(
    ("rgb", "expected"),
    [
        ((255, 255, 255), (100, 0, 0)),
        ((0, 0, 0), (0, 0, 0)),
        ((255, 0, 0), (53.24, 80.09, 67.20)),
        ((0, 0, 255), (32.30, 79.19, -107.86)),
        ((5, 5, 5), (1.37, 0, 0)),
    ],
)
def test_lab_of_known_colours(rgb: tuple[int, int, int], expected: tuple[float, ...]) -> None:
    found = lab(one_colour(*rgb))[:, 0, 0].tolist()
    assert found == pytest.approx(expected, abs=0.02)


def test_colour_statistics_and_their_differences() -> None:
    half = torch.cat([one_colour(0, 0, 0), one_colour(255, 255, 255)], dim=1)
    statistics = colour_statistics(lab(half))
    assert statistics.tolist() == pytest.approx([50, 0, 0, 50, 0, 0], abs=0.02)
    assert colour_difference(torch.tensor([10.0, 3, 0]), torch.tensor([10.0, 0, 4])) == 5


def test_the_shift_of_lightness_is_how_far_it_moves() -> None:
    counts = torch.zeros(3, LIGHTNESS_BINS)
    counts[0, 10], counts[1, 20], counts[2, 10], counts[2, 20] = 4, 400, 7, 7
    assert lightness_shift(counts[0], counts[1]) == pytest.approx(20)
    assert lightness_shift(counts[0], counts[2]) == pytest.approx(10)
    assert lightness_counts(lab(one_colour(254, 254, 254))).argmax() == LIGHTNESS_BINS - 1


def test_divergences_by_hand() -> None:
    one, other = torch.tensor([0.5, 0.5]), torch.tensor([0.25, 0.75])
    assert kullback_leibler(one, other) == pytest.approx(0.5 - 0.5 * np.log2(1.5))
    assert jensen_shannon(torch.tensor([3.0, 0]), torch.tensor([0, 7.0])) == pytest.approx(1)
    assert jensen_shannon(torch.tensor([3.0, 1]), torch.tensor([30.0, 10])) == pytest.approx(0)
    assert np.isnan(jensen_shannon(torch.zeros(2), torch.ones(2)))


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99)), min_size=2, max_size=9))
def test_a_divergence_is_symmetric_and_between_0_and_1(pairs: list[tuple[int, int]]) -> None:
    one, other = torch.tensor(pairs, dtype=torch.float64).T
    if one.sum() and other.sum():
        found = jensen_shannon(one, other)
        assert -1e-9 <= found <= 1 + 1e-9
        assert found == pytest.approx(jensen_shannon(other, one), abs=1e-12)


def test_patterns_of_a_flat_image_a_step_and_a_point() -> None:
    assert pattern_counts(torch.ones(5, 6)).tolist() == [0] * 8 + [12, 0]
    step = (torch.arange(6) >= 3).float().expand(5, 6)  # its light side has five light neighbours
    assert pattern_counts(step).tolist() == [0, 0, 0, 0, 0, 3, 0, 0, 9, 0]
    point = torch.zeros(3, 3)
    point[1, 1] = 1
    assert pattern_counts(point).tolist() == [1, *[0] * 9]
    cross = torch.tensor([[0.0, 1, 0], [1, 0.5, 1], [0, 1, 0]])
    assert pattern_counts(cross).tolist() == [*[0] * 9, 1]


def test_neither_lightness_nor_contrast_changes_patterns() -> None:
    grey = torch.rand(20, 20, generator=torch.Generator().manual_seed(0))
    assert pattern_counts(0.5 * grey + 0.25).tolist() == pattern_counts(grey).tolist()


def test_sharpness_by_hand() -> None:
    assert sharpness(torch.arange(25.0).reshape(5, 5)) == 0
    point = torch.zeros(3, 4)
    point[1, 1] = 1  # the Laplacian is -4 there and 1 beside it
    assert sharpness(point) == pytest.approx(6.25)


def test_detail_lies_where_the_edge_is() -> None:
    grey = torch.zeros(17, 5)
    grey[9:] = 1
    assert detail_by_row(grey).tolist() == [0, 0, 0, 0, 4, 0, 0, 0]
    assert in_rows(torch.ones(2, 16)).tolist() == [[2.0] * 8] * 2


@pytest.mark.parametrize("cycles", [5, 16, 40])
def test_a_wave_is_in_the_band_of_its_frequency(cycles: int) -> None:
    wave = torch.sin(2 * torch.pi * cycles * torch.arange(128) / 128).expand(128, 128)
    bands = radial_amplitude(wave)
    band = int(bands.nan_to_num(nan=-99).argmax())
    assert EDGES[band] < cycles / 128 <= EDGES[band + 1]


def test_spectra_of_small_images_lack_the_lowest_bands() -> None:
    noise = torch.rand(32, 32, generator=torch.Generator().manual_seed(0))
    bands = radial_amplitude(noise)
    assert bands[:2].isnan().all() and bands[-1].isfinite()
    doubled = radial_amplitude(2 * noise)
    assert spectrum_difference(bands, doubled) == pytest.approx(np.log10(2), rel=1e-3)


def test_low_frequencies_and_the_beta_that_covers_them() -> None:
    zero, apart = torch.zeros(11), torch.zeros(11)
    apart[3], apart[10] = 0.3, -0.1  # up to 0.05, and the finest
    assert low_share(zero, apart) == pytest.approx(0.75)
    assert suggested_beta(zero, apart, 0.2) == 0.05
    apart[4] = 0.25
    assert suggested_beta(zero, apart, 0.2) == 0.09
    assert suggested_beta(zero, zero, 0.2) == 0.01
    assert np.isnan(low_share(zero, zero))


def gaussian(mean: float, std: float) -> Tensor:
    """Values with exactly this mean and standard deviation (of samples)."""
    values = torch.linspace(-1, 1, 50, dtype=torch.float64)
    return (mean + std * (values - values.mean()) / values.std())[:, None]


def test_the_frechet_distance_of_gaussians_in_closed_form() -> None:
    assert frechet_distance(gaussian(1, 2), gaussian(4, 6)) == pytest.approx(9 + 16)
    assert frechet_distance(gaussian(1, 2), gaussian(1, 2)) == pytest.approx(0, abs=1e-9)


def test_the_frechet_distance_of_any_covariances_is_that_of_its_formula() -> None:
    random = np.random.default_rng(0)
    one = random.normal(size=(40, 5)) @ random.normal(size=(5, 5))
    other = random.normal(size=(60, 5)) @ random.normal(size=(5, 5)) + 1
    first, second = np.cov(one.T), np.cov(other.T)
    values, vectors = np.linalg.eigh(first)
    root = vectors @ np.diag(np.sqrt(values)) @ vectors.T
    middle = np.sqrt(np.linalg.eigvalsh(root @ second @ root)).sum()
    expected = ((one.mean(0) - other.mean(0)) ** 2).sum() + np.trace(first + second) - 2 * middle
    assert frechet_distance(*map(torch.from_numpy, (one, other))) == pytest.approx(expected)


def test_the_kernel_distance_by_hand_and_of_equal_samples() -> None:
    zeros, ones = torch.zeros(2, 1).double(), torch.ones(2, 1).double()
    assert kernel_distance(zeros, ones) == 1 + 8 - 2
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(800, 4, generator=generator, dtype=torch.float64)
    assert kernel_distance(drawn[:400], drawn[400:]) == pytest.approx(0, abs=0.05)
    assert kernel_distance(drawn[:400], drawn[400:] + 2) > 10


def test_the_a_distance_of_separable_and_of_equal_sets() -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(200, 3, generator=generator, dtype=torch.float64)
    apart = drawn + torch.tensor([20.0, 0, 0])
    assert proxy_a_distance(*standardised(drawn, apart)) == 2
    assert proxy_a_distance(*standardised(drawn[:100], drawn[100:])) < 0.5
    few = proxy_a_distance(*standardised(drawn, apart[:15]))
    assert few > 1.9, "both domains count alike, whatever their sizes"


def test_more_channels_than_images_separate_nothing_that_was_not_seen() -> None:
    drawn = torch.randn(60, 500, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert proxy_a_distance(*standardised(drawn[:30], drawn[30:])) < 0.8


def test_standardised_sets_have_mean_0_and_deviation_1_together() -> None:
    one, other = standardised(torch.tensor([[1.0, 5], [2, 5]]), torch.tensor([[5.0, 5], [8, 5]]))
    both = torch.cat([one, other])
    assert both.mean(dim=0).tolist() == pytest.approx([0, 0])
    assert both.std(dim=0, correction=0).tolist() == pytest.approx([1, 0])


def test_the_nearest_source_image_of_each_target_image() -> None:
    source = torch.tensor([[1.0, 0], [0, 2]])
    distances, numbers = nearest(source, torch.tensor([[0.0, 5], [3, 0], [-1, 0]]))
    assert numbers.tolist() == [1, 0, 1]
    assert distances.tolist() == pytest.approx([0, 0, 1])


def test_pixels_by_class_and_row() -> None:
    labels = torch.tensor([[0, 1]] * 8 + [[255, 1]] * 8)
    counted = torch.ones_like(labels) > 0
    counted[15] = False
    found = class_rows(labels, counted, 2)
    assert found.tolist() == [[2] * 4 + [0] * 4, [2] * 7 + [1]]


def test_places_of_classes_count_by_their_share() -> None:
    source, target = torch.zeros(2, 3, 8, dtype=torch.float64)
    source[0, 0], target[0, 7] = 50, 50  # another place: 1 bit
    source[1, 3], target[1, 3] = 150, 150  # the same place
    source[2, 2] = 30  # of the source alone
    expected = (50 / 230) / (50 / 230 + 150 / 230)
    assert class_places(source, target) == pytest.approx(expected)
    assert np.isnan(class_places(source, torch.zeros(3, 8)))


def facts(images: list[Tensor]) -> ImageFacts:
    observer = ImageObserver()
    for image in images:
        observer.add(image)
    return observer.facts()


def test_the_gap_of_images_is_nothing_to_themselves_and_sees_light_and_blur() -> None:
    generator = torch.Generator().manual_seed(0)
    images = [torch.randint(0, 200, (3, 40, 60), generator=generator).byte() for _ in range(3)]
    same = image_gap(facts(images), facts(images), 0.1)
    assert same[:2] == (0, 0) and same.contrast == same.sharpness == 1
    assert same.texture == same.detail == pytest.approx(0) and same.spectrum == 0
    lighter = image_gap(facts(images), facts([image + 50 for image in images]), 0.1)
    assert lighter.colour > 10 and lighter.lightness > 10 and lighter.detail < 0.001
    blurred = [
        torch.nn.functional.avg_pool2d(image.float(), 5, 1, 2, count_include_pad=False).byte()
        for image in images
    ]
    soft = image_gap(facts(images), facts(blurred), 0.1)
    assert soft.sharpness < 0.2 and soft.texture > 0.01 and soft.spectrum > 0.1


def test_a_layer_is_compared_with_two_halves_of_the_source() -> None:
    drawn = torch.randn(80, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    gap = layer_gap("stage 1", drawn[:40], drawn[40:] + 9)
    assert gap.a_distance == 2 and gap.kernel > 1 and 3 < gap.frechet < 4.1
    assert gap.halves[0] < 1 and gap.halves[1] < 0.5 and gap.halves[2] < 1


def test_gaps_as_json() -> None:
    gap = layer_gap("stage 1", torch.zeros(10, 1), torch.ones(10, 1))
    assert plain(gap)["layer"] == "stage 1"
    assert plain({"one": (nan, 1.0)}) == {"one": [None, 1.0]}
