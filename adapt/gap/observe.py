"""Observers of a domain's images, one after the other: of the pixels, of an encoder's features, of
a network's predictions. Nothing is kept of an image but numbers."""

from typing import NamedTuple

import torch
from torch import Tensor

from adapt.evaluation.inference import upload
from adapt.evaluation.pictures import entropy_map
from adapt.gap.colour import colour_statistics, lab, lightness_counts
from adapt.gap.frequencies import radial_amplitude
from adapt.gap.texture import ROWS, detail_by_row, in_rows, pattern_counts, sharpness
from adapt.models.layers import enlarged
from adapt.models.segmenter import Segmenter
from adapt.stream.feed import normalise

CONFIDENT = 0.9
"""Least probability of a prediction that counts among the class shares."""
ENTROPY_BINS = 20


class ImageFacts(NamedTuple):
    """Of the pixels of a domain's images: colour statistics (N, 6), lightness counts (50,),
    patterns (10,), sharpness (N,), log10 amplitude by band (11,), detail by row (8,)."""

    colour: Tensor
    lightness: Tensor
    patterns: Tensor
    sharpness: Tensor
    spectrum: Tensor
    detail: Tensor


class PredictionFacts(NamedTuple):
    """Of the predictions of a domain's images: confident pixels by class and eighth of the height
    (K, 8), pixels by entropy (20,), mean entropy and share of confident pixels, both in [0, 1]."""

    pixels: Tensor
    entropy_counts: Tensor
    entropy: float
    confident: float


class NetworkFacts(NamedTuple):
    """Of a network: the features of each stage (N, C), means over the image, shallow to deep, and
    its predictions where its head is trained."""

    features: tuple[Tensor, ...]
    predictions: PredictionFacts | None


class ImageObserver:
    """Takes images (3, H, W) uint8 on their device."""

    def __init__(self) -> None:
        self._rows: list[tuple[Tensor, ...]] = []

    def add(self, image: Tensor) -> None:
        """Measure an image."""
        colours = lab(image)
        grey = colours[0] / 100
        self._rows.append(
            (
                colour_statistics(colours),
                lightness_counts(colours),
                pattern_counts(grey),
                torch.tensor(sharpness(grey), dtype=torch.float64),
                radial_amplitude(grey),
                detail_by_row(grey),
            )
        )

    def facts(self) -> ImageFacts:
        """The facts of all images."""
        colour, light, patterns, sharp, spectra, detail = map(
            torch.stack, zip(*self._rows, strict=True)
        )
        by_image = (light, patterns, detail)
        lightness, pattern, rows = (
            (one / one.sum(dim=1, keepdim=True).clamp(min=1e-12)).sum(dim=0) for one in by_image
        )
        return ImageFacts(colour, lightness, pattern, sharp, spectra.nanmean(dim=0), rows)


class NetworkObserver:
    """Takes images (3, H, W) uint8 on the network's device; `predicts` where its head is
    trained."""

    def __init__(self, segmenter: Segmenter, predicts: bool) -> None:
        self.segmenter, self._predicts = segmenter, predicts
        self._features: list[list[Tensor]] = []
        classes = segmenter.num_classes
        self._pixels = torch.zeros(classes, ROWS, dtype=torch.float64)
        self._entropy_counts = torch.zeros(ENTROPY_BINS, dtype=torch.float64)
        self._sums, self._count = torch.zeros(2, dtype=torch.float64), 0

    @torch.no_grad()
    def add(self, image: Tensor) -> None:
        """Compute an image."""
        images = normalise(image[None], self.segmenter.pixels)
        if self._predicts:
            prediction = self.segmenter(images)
            stages = prediction.features
            self._add_prediction(prediction.logits[0][0].float())
        else:
            encoder = self.segmenter.encoder
            stages = encoder(enlarged(images, encoder.smallest_side_px, encoder.multiple_px))
        self._features.append([stage[0].double().mean(dim=(1, 2)).cpu() for stage in stages])

    def _add_prediction(self, logits: Tensor) -> None:
        sure, classes = logits.softmax(dim=0).max(dim=0)
        kept = sure >= CONFIDENT
        self._pixels += class_rows(classes, kept, len(self._pixels))
        entropy = torch.from_numpy(entropy_map(logits))
        self._entropy_counts += torch.histc(entropy, ENTROPY_BINS, 0, 1).double()
        self._sums += torch.stack([entropy.double().sum(), kept.double().sum().cpu()])
        self._count += entropy.numel()

    def facts(self) -> NetworkFacts:
        """The facts of all images."""
        features = tuple(torch.stack(stage) for stage in zip(*self._features, strict=True))
        if not self._predicts:
            return NetworkFacts(features, None)
        entropy, confident = (self._sums / max(1, self._count)).tolist()
        found = PredictionFacts(self._pixels, self._entropy_counts, entropy, confident)
        return NetworkFacts(features, found)


def class_rows(labels: Tensor, counted: Tensor, num_classes: int) -> Tensor:
    """Train ids (H, W) and which of them count -> pixels by class and eighth of the height, (K, 8)
    float64; ids of no class are in none."""
    height = labels.shape[0]
    one_hot = torch.zeros(num_classes + 1, height, dtype=torch.float64)
    cells = torch.where(counted & (labels < num_classes), labels, num_classes).long().cpu()
    lines = torch.arange(height)[:, None].expand_as(cells)
    one_hot.index_put_((cells, lines), torch.ones((), dtype=torch.float64), accumulate=True)
    return in_rows(one_hot[:num_classes])


def on_device(image: Tensor, device: torch.device) -> Tensor:
    """(3, H, W) uint8, contiguous."""
    return upload(image, device).contiguous()
