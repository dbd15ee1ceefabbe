"""Compares source and target of a job: opens them and the networks, reads each image once, and puts
the measures together."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import NamedTuple

import torch
from torch import Tensor

from adapt.data.label_maps import LabelSpace
from adapt.engine.device import prepare_device
from adapt.errors import JobError
from adapt.evaluation.inference import evaluating
from adapt.gap.distances import nearest, standardised
from adapt.gap.divergence import shares
from adapt.gap.domain import Domain, open_domain
from adapt.gap.measures import ImageGap, NetworkGap, image_gap, network_gap
from adapt.gap.observe import (
    ImageFacts,
    ImageObserver,
    NetworkFacts,
    NetworkObserver,
    class_rows,
    on_device,
)
from adapt.gap.texture import ROWS
from adapt.gap.thresholds import THRESHOLDS
from adapt.models.config import SegmenterConfig
from adapt.models.segmenter import Segmenter
from adapt.places import Place
from adapt.spec.job_spec import JobSpec
from adapt.trainer.networks import started_network
from adapt.trainer.opening import decoding_threads, open_cache, open_stores
from adapt.trainer.score import checkpoint_network
from adapt.trainer.tracked_run import tracking_uri
from adapt.use.locate import model_at
from storage.stores import Stores
from storage.uris import without_password

SHOWN = 4
"""Pictures of each kind."""


class Side(NamedTuple):
    """A domain as it was found: name, images compared and in all, their size in pixels."""

    name: str
    images: int
    samples: int
    image_hw: tuple[int, int]


class Pair(NamedTuple):
    """An image, and that of the other domain whose features are nearest; both (3, H, W) uint8."""

    key: str
    image: Tensor
    other_key: str
    other: Tensor
    distance: float


class Gap(NamedTuple):
    """All that was found.

    `before` is of the network that training starts from, whose weights are `weights`; `after` of a
    trained one. `label_shares` are of all pixels of the source's labels by class, `missing` the
    classes without any. `near` and `far` are target images, each beside the nearest of the source,
    `lonely` source images that are far from the target.
    """

    source: Side
    target: Side
    classes: LabelSpace
    encoder: str
    weights: str
    pretrained: bool
    model: str | None
    images: ImageGap
    facts: tuple[ImageFacts, ImageFacts]
    before: NetworkGap
    after: NetworkGap | None
    entropies: dict[str, tuple[Tensor, Tensor]]
    label_shares: tuple[float, ...]
    missing: tuple[str, ...]
    near: tuple[Pair, ...]
    far: tuple[Pair, ...]
    lonely: tuple[Pair, ...]

    @property
    def domains(self) -> tuple[Side, Side]:
        """Source and target."""
        return self.source, self.target

    @property
    def latest(self) -> NetworkGap:
        """Of the trained network where there is one."""
        return self.after or self.before


def diagnose(
    job: JobSpec,
    place: Place,
    *,
    model: str | None = None,
    count: int = 100,
    base: str | None = None,
    on_image: Callable[[int, int], None] = lambda _done, _total: None,
) -> Gap:
    """Compare the domains of a job by `count` images each, on the GPU where there is one.

    `model` is a trained network to compare with the one that training starts from: the folder of a
    run or of a checkpoint, a file of weights, or `models:/NAME@best` of the job's MLflow; `base` is
    as of `load_network`. `on_image` gets the number of images done, and of all. Raises `JobError`,
    `DataError`, `StoreError`.
    """
    if job.target is None:
        raise JobError(
            "target: expected a domain to compare the source with, got none",
            fix="add the section target",
        )
    device = prepare_device(place.local_rank)
    stores, threads = open_stores(job, place), decoding_threads(job.stream, place)
    uri = None if model is None else model_at(model, stores, tracking_uri(job, place)).uri
    networks = _networks(job, stores, uri, base, device)
    with ExitStack() as stack, evaluating([one for one, _ in networks]):
        cache = open_cache(job, place)
        stack.callback(cache.close)
        source = open_domain(job, "source", stores, cache, count, stack, labelled=True)
        target = open_domain(job, "target", stores, cache, count, stack, labelled=False)
        total, done = source.num_images + target.num_images, 0
        seen = []
        for domain in (source, target):
            observed = _Observed(networks, job.classes.num_classes)
            for sample in domain.samples(threads):
                observed.add(on_device(sample.image, device), sample.labels)
                done += 1
                on_image(done, total)
            seen.append(observed)
        return _gap(job, networks, (source, target), seen, model)


class _Observed:
    """All that is measured of one domain."""

    def __init__(self, networks: Sequence[tuple[Segmenter, bool]], num_classes: int) -> None:
        self._images = ImageObserver()
        self._networks = [NetworkObserver(*one) for one in networks]
        self.labels = torch.zeros(num_classes, ROWS, dtype=torch.float64)

    def add(self, image: Tensor, labels: Tensor | None) -> None:
        self._images.add(image)
        for network in self._networks:
            network.add(image)
        if labels is not None:
            self.labels += class_rows(labels, torch.ones_like(labels) > 0, len(self.labels))

    @property
    def images(self) -> ImageFacts:
        return self._images.facts()

    @property
    def networks(self) -> list[NetworkFacts]:
        return [network.facts() for network in self._networks]


def _networks(
    job: JobSpec, stores: Stores, uri: str | None, base: str | None, device: torch.device
) -> list[tuple[Segmenter, bool]]:
    """The network that training starts from, and the trained one of the weights at `uri`, each with
    whether its head is trained."""
    start = started_network(job.model, job.classes.num_classes, stores)
    start.start_adapters()
    found = [(start, job.model.start_uri is not None)]
    if uri is not None:
        found.append((checkpoint_network(job, stores, uri, base), True))
    return [(network.to(device).requires_grad_(False), predicts) for network, predicts in found]


def _gap(
    job: JobSpec,
    networks: Sequence[tuple[Segmenter, bool]],
    domains: tuple[Domain, Domain],
    seen: Sequence[_Observed],
    model: str | None,
) -> Gap:
    source, target = seen
    images = (source.images, target.images)
    facts = list(zip(source.networks, target.networks, strict=True))
    gaps = [
        network_gap(*pair, segmenter.encoder.reductions, source.labels)
        for pair, (segmenter, _) in zip(facts, networks, strict=True)
    ]
    pixels = domains[0].label_pixels(job.classes.num_classes)
    label_shares = tuple(shares(pixels).tolist())
    named = zip(job.classes.names, label_shares, strict=True)
    last = [one.features[-1] for one in facts[-1]]
    return Gap(
        source=_side(domains[0]),
        target=_side(domains[1]),
        classes=job.classes,
        encoder=job.model.encoder,
        weights=weights_text(job.model),
        pretrained=is_pretrained(job.model),
        model=None if model is None else without_password(model),
        images=image_gap(*images, THRESHOLDS["fda_band"].value),
        facts=images,
        before=gaps[0],
        after=gaps[1] if model is not None else None,
        entropies=_entropies(facts),
        label_shares=label_shares,
        missing=tuple(name for name, share in named if not share),
        near=_pairs(domains[1], domains[0], last[1], last[0], farthest=False),
        far=_pairs(domains[1], domains[0], last[1], last[0], farthest=True),
        lonely=_pairs(domains[0], domains[1], last[0], last[1], farthest=True),
    )


def _side(domain: Domain) -> Side:
    return Side(domain.name, domain.num_images, domain.num_samples, domain.image_hw)


def _entropies(
    facts: Sequence[tuple[NetworkFacts, NetworkFacts]],
) -> dict[str, tuple[Tensor, Tensor]]:
    """The counts of both domains by entropy, before and after."""
    found = {}
    for when, (source, target) in zip(("before", "after"), facts, strict=False):
        if source.predictions is not None and target.predictions is not None:
            counts = (source.predictions.entropy_counts, target.predictions.entropy_counts)
            found[when] = counts
    return found


def _pairs(
    of: Domain, others: Domain, own: Tensor, their: Tensor, *, farthest: bool
) -> tuple[Pair, ...]:
    """The images of a domain that are nearest to the other one, or farthest, each beside the
    nearest image of the other."""
    distances, partners = nearest(*standardised(their, own))
    order = distances.argsort(descending=farthest, stable=True)[:SHOWN].tolist()
    pairs = []
    for place in order:
        key, sample = of.at(place)
        other_key, other = others.at(int(partners[place]))
        pairs.append(Pair(key, sample.image, other_key, other.image, distances[place].item()))
    return tuple(pairs)


def is_pretrained(model: SegmenterConfig) -> bool:
    """The network that training starts from has weights."""
    return bool(model.start_uri or model.weights_uri or model.weights != "none")


def weights_text(model: SegmenterConfig) -> str:
    """The weights that training starts from, as the page names them."""
    if model.start_uri is not None:
        return f"the whole network of {without_password(model.start_uri)}"
    if model.weights_uri is not None:
        return f"pretrained weights of {without_password(model.weights_uri)}"
    return "random weights" if model.weights == "none" else "pretrained weights of timm's hub"
