"""The page of a gap: one file, made as a run's report is."""

from typing import Any

from adapt.gap.advice import Advice
from adapt.gap.charts import (
    entropy_chart,
    layer_chart,
    lightness_chart,
    share_chart,
    spectrum_chart,
)
from adapt.gap.diagnose import Gap, Pair
from adapt.gap.measures import NetworkGap, PredictionGap
from adapt.gap.observe import CONFIDENT
from adapt.gap.thresholds import THRESHOLDS
from adapt.report.charts import Figure
from adapt.report.page import rendered
from adapt.report.sections import add
from adapt.report.texts import NONE, number, percent
from adapt.report.thumbnails import photo, shown_size

BEFORE, AFTER = "before", "after"


def gap_page(gap: Gap, advice: Advice, name: str) -> str:
    """The page of a job's gap; `name` is the job's."""
    figures: list[Figure] = []
    return rendered("gap.html", _content(gap, advice, name, figures) | {"figures": figures})


def _content(gap: Gap, advice: Advice, name: str, figures: list[Figure]) -> dict[str, Any]:
    images, predictions = gap.images, gap.latest.predictions
    source, target = (facts for facts in gap.facts)
    return {
        "title": f"{name}: the gap",
        "advice": advice,
        "facts": _facts(gap),
        "lead": _lead(gap),
        "thresholds": list(THRESHOLDS.values()),
        "images": _image_rows(gap),
        "lightness": add(figures, lightness_chart(source.lightness, target.lightness)),
        "spectrum": add(figures, spectrum_chart(source.spectrum, target.spectrum)),
        "beta": images.beta,
        "low_frequencies": images.low_frequencies,
        "layers": _layers(gap, figures),
        "weights": gap.weights,
        "predictions": predictions and _predictions(gap, predictions, figures),
        "closed": closed_rows(gap),
        "model": gap.model,
        "confident": CONFIDENT,
        "near": [_panel(pair) for pair in gap.near],
        "far": [_panel(pair) for pair in gap.far],
        "lonely": [_panel(pair) for pair in gap.lonely],
    }


def _lead(gap: Gap) -> str:
    sides = [f"{one.name} ({one.images} of {one.samples} images)" for one in gap.domains]
    trained = "" if gap.model is None else f", and as the trained network {gap.model} does"
    return f"{sides[0]} against {sides[1]}, as {gap.encoder} with {gap.weights} sees them{trained}."


def _facts(gap: Gap) -> list[tuple[str, str, str]]:
    deepest, predictions = gap.latest.layers[-1], gap.latest.predictions
    found = [
        ("kernel distance", f"{deepest.kernel:.2f}", deepest.layer),
        ("A-distance", f"{deepest.a_distance:.2f}", f"of 2, {deepest.layer}"),
        ("colour", f"{gap.images.colour:.1f}", "Delta E of the mean colours"),
        ("spectra", f"{gap.images.spectrum:.2f}", "mean difference, log10 amplitude"),
    ]
    if predictions is not None:
        source, target = predictions.entropy
        found.append(("entropy", f"{target:.3f}", f"on the target, {source:.3f} on the source"))
    return found


def _image_rows(gap: Gap) -> list[tuple[str, str, str]]:
    """Name, value and meaning."""
    images = gap.images
    return [
        ("mean colour", f"{images.colour:.1f}", "Delta E (CIE 1976); about 2 is just noticeable"),
        ("lightness", f"{images.lightness:.1f}", "L* that an average pixel's lightness moves"),
        ("contrast", f"{images.contrast:.2f}", "target's over source's deviation of L*"),
        ("texture", f"{images.texture:.3f}", "bits between local binary patterns, at most 1"),
        (
            "sharpness",
            f"{images.sharpness:.2f}",
            "target's over source's variance of the Laplacian",
        ),
        ("detail by row", f"{images.detail:.3f}", "bits between eighths of the height, at most 1"),
        ("image size", " and ".join(_size(one.image_hw) for one in gap.domains), "height x width"),
    ]


def _size(size_hw: tuple[int, int]) -> str:
    return f"{size_hw[0]} x {size_hw[1]}"


def _layers(gap: Gap, figures: list[Figure]) -> dict[str, Any]:
    networks = {BEFORE: gap.before} | ({AFTER: gap.after} if gap.after else {})
    same = gap.after is None or len(gap.after.layers) == len(gap.before.layers)
    names = [layer.layer for layer in gap.before.layers]
    values = {
        when: [layer.a_distance for layer in one.layers]
        for when, one in networks.items()
        if same or when == BEFORE
    }
    halves = [layer.halves[0] for layer in gap.before.layers]
    chart = layer_chart({**values, "halves of the source": halves}, names)
    rows = [
        (when, layer.layer, layer.a_distance, layer.kernel, layer.frechet, *layer.halves)
        for when, one in networks.items()
        for layer in one.layers
    ]
    return {"figure": add(figures, chart), "rows": rows}


def _predictions(gap: Gap, found: PredictionGap, figures: list[Figure]) -> dict[str, Any]:
    shares = {
        "source, labels": found.label_shares,
        "source, confident predictions": found.source_shares,
        "target, confident predictions": found.target_shares,
    }
    names = gap.classes.names
    table = list(zip(names, *[map(percent, one) for one in shares.values()], strict=True))
    entropies = [
        {"title": when, "figure": add(figures, entropy_chart(*counts, when))}
        for when, counts in gap.entropies.items()
    ]
    return {
        "shares": add(figures, share_chart(shares, names)),
        "heads": list(shares),
        "rows": table,
        "entropies": entropies,
        "facts": [
            ("entropy", *map(number, found.entropy)),
            ("confident pixels", *map(percent, found.confident)),
        ],
        "classes": number(found.classes),
        "places": number(found.places),
    }


def closed_rows(gap: Gap) -> list[tuple[str, str, str, str]]:
    """Each measure before and after training, and how much of it has closed; none before."""
    if gap.after is None:
        return []
    before, after = _by_name(gap.before), _by_name(gap.after)
    rows = []
    for name in dict.fromkeys([*before, *after]):
        first, last = before.get(name), after.get(name)
        known = first is not None and last is not None and first > 0
        closed = percent(1 - last / first, 0) if known and first and last is not None else NONE
        rows.append((name, number(first), number(last), closed))
    return rows


def _by_name(network: NetworkGap) -> dict[str, float | None]:
    found: dict[str, float | None] = {}
    for layer in network.layers:
        found[f"A-distance, {layer.layer}"] = layer.a_distance
        found[f"kernel distance, {layer.layer}"] = layer.kernel
        found[f"Frechet distance, {layer.layer}"] = layer.frechet
    predictions = network.predictions
    if predictions is not None:
        source, target = predictions.entropy
        found["entropy on the target over that on the source"] = target / max(source, 1e-9)
        found["class shares"] = _or_none(predictions.classes)
        found["places of the classes"] = _or_none(predictions.places)
    return found


def _or_none(value: float) -> float | None:
    return value if value == value else None


def _panel(pair: Pair) -> dict[str, Any]:
    """Two images as the page has them."""
    height, width = pair.image.shape[-2:]
    other_height, other_width = pair.other.shape[-2:]
    size, other_size = shown_size(height, width), shown_size(other_height, other_width)
    return {
        "key": pair.key,
        "distance": f"{pair.distance:.2f}",
        "image": photo(pair.image.permute(1, 2, 0).numpy(), size),
        "size": size,
        "other_key": pair.other_key,
        "other": photo(pair.other.permute(1, 2, 0).numpy(), other_size),
        "other_size": other_size,
    }
