"""The gap of two domains as numbers with names, from what was observed of both."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from adapt.gap.colour import colour_difference, lightness_shift
from adapt.gap.distances import (
    frechet_distance,
    kernel_distance,
    proxy_a_distance,
    standardised,
)
from adapt.gap.divergence import jensen_shannon
from adapt.gap.frequencies import low_share, spectrum_difference, suggested_beta
from adapt.gap.observe import ImageFacts, NetworkFacts, PredictionFacts

_PRESENT = 1e-3
"""Least share of a class whose place in the picture is compared."""


class ImageGap(NamedTuple):
    """Of the pixels. `colour` is Delta E of the mean colours, `lightness` the earth mover's
    distance in L*, `texture` and `detail` Jensen-Shannon divergences in bits of local binary
    patterns and of detail by row, `sharpness` target's over source's, `spectrum` the mean
    difference of log10 amplitudes, `low_frequencies` the share of it at FDA's frequencies, `beta`
    the value of FDA's that covers them."""

    colour: float
    lightness: float
    contrast: float
    texture: float
    sharpness: float
    detail: float
    spectrum: float
    low_frequencies: float
    beta: float


class LayerGap(NamedTuple):
    """Of the features of a stage: proxy A-distance in [0, 2], kernel distance, Frechet distance a
    channel; `halves` has the same of two halves of the source, in this order."""

    layer: str
    a_distance: float
    kernel: float
    frechet: float
    halves: tuple[float, float, float]


class PredictionGap(NamedTuple):
    """Of the predictions: entropy and share of confident pixels of both domains, Jensen-Shannon
    divergences in bits of class shares and of the classes' places in the picture, the shares by
    class: of the source's labels, of the confident predictions of source and target."""

    entropy: tuple[float, float]
    confident: tuple[float, float]
    classes: float
    places: float
    label_shares: tuple[float, ...]
    source_shares: tuple[float, ...]
    target_shares: tuple[float, ...]


class NetworkGap(NamedTuple):
    """Of one network, shallow to deep."""

    layers: tuple[LayerGap, ...]
    predictions: PredictionGap | None


def image_gap(source: ImageFacts, target: ImageFacts, least: float) -> ImageGap:
    """The gap of the pixels; `least` is the log10 difference at which a band counts for `beta`."""
    means = [facts.colour.mean(dim=0) for facts in (source, target)]
    return ImageGap(
        colour=colour_difference(means[0][:3], means[1][:3]),
        lightness=lightness_shift(source.lightness, target.lightness),
        contrast=(means[1][3] / means[0][3].clamp(min=1e-9)).item(),
        texture=jensen_shannon(source.patterns, target.patterns),
        sharpness=(target.sharpness.median() / source.sharpness.median().clamp(min=1e-12)).item(),
        detail=jensen_shannon(source.detail, target.detail),
        spectrum=spectrum_difference(source.spectrum, target.spectrum),
        low_frequencies=low_share(source.spectrum, target.spectrum),
        beta=suggested_beta(source.spectrum, target.spectrum, least),
    )


def network_gap(
    source: NetworkFacts, target: NetworkFacts, reductions: Sequence[int], labels: Tensor
) -> NetworkGap:
    """The gap for a network, with the source's labels by class and row, (K, 8)."""
    count = len(reductions)
    layers = tuple(
        layer_gap(f"stage {number + 1} of {count}, 1/{reduction}", *features)
        for number, (reduction, *features) in enumerate(
            zip(reductions, source.features, target.features, strict=True)
        )
    )
    if source.predictions is None or target.predictions is None:
        return NetworkGap(layers, None)
    return NetworkGap(layers, prediction_gap(source.predictions, target.predictions, labels))


def layer_gap(layer: str, source: Tensor, target: Tensor) -> LayerGap:
    """The distances of the features of a stage, (N, C) and (M, C)."""
    return LayerGap(layer, *_distances(source, target), _distances(source[::2], source[1::2]))


def _distances(source: Tensor, target: Tensor) -> tuple[float, float, float]:
    one, other = standardised(source, target)
    channels = one.shape[1]
    return (
        proxy_a_distance(one, other),
        kernel_distance(one, other),
        frechet_distance(one, other) / channels,
    )


def prediction_gap(
    source: PredictionFacts, target: PredictionFacts, labels: Tensor
) -> PredictionGap:
    """The gap of the predictions, with the source's labels by class and row, (K, 8)."""
    by_class = [one.sum(dim=1) for one in (labels, source.pixels, target.pixels)]
    shares = [tuple((one / one.sum().clamp(min=1e-12)).tolist()) for one in by_class]
    return PredictionGap(
        entropy=(source.entropy, target.entropy),
        confident=(source.confident, target.confident),
        classes=jensen_shannon(by_class[0], by_class[2]),
        places=class_places(labels, target.pixels),
        label_shares=shares[0],
        source_shares=shares[1],
        target_shares=shares[2],
    )


def class_places(source: Tensor, target: Tensor) -> float:
    """Pixels by class and row, (K, 8) twice -> the Jensen-Shannon divergence in bits of a class's
    rows, in the mean over the classes that both show, by their share; NaN without one."""
    shares = [one.sum(dim=1) / one.sum().clamp(min=1e-12) for one in (source, target)]
    both = torch.minimum(*shares)
    shown = (both >= _PRESENT).nonzero().flatten().tolist()
    if not shown:
        return float("nan")
    apart = sum(both[one].item() * jensen_shannon(source[one], target[one]) for one in shown)
    return apart / both[shown].sum().item()


def plain(value: Any) -> Any:
    """A gap as JSON has it: tuples with names become mappings, NaN null."""
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return {name: plain(one) for name, one in value._asdict().items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, dict):
        return {name: plain(one) for name, one in value.items()}
    return None if isinstance(value, float) and value != value else value
