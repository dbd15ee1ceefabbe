"""Describes architectures and encoders: networks without memory, counted.

`python -m adapt.cli.network_counts` writes the list that `segadapt models` reads.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from adapt.cli.network_facts import (
    LISTED,
    LISTED_CLASSES,
    LISTED_HW,
    Architecture,
    EncoderChoice,
    Key,
    Networks,
    Stage,
)
from adapt.errors import JobError
from adapt.models import ARCHITECTURES, ENCODERS, is_transformer
from adapt.models.config import SegmenterConfig
from adapt.models.costs import (
    Cost,
    encoder_cost,
    encoder_without_memory,
    segmenter_cost,
    segmenter_without_memory,
)
from adapt.models.demands import Demands, listed
from adapt.models.encoders.encoder import UNDILATED_STRIDE, Encoder
from adapt.models.encoders.timm import OUTPUT_STRIDES, TESTED_ENCODERS, known_output_strides
from adapt.models.encoders.vit import LISTED_VITS
from adapt.models.licences import terms_of

PATCHES = (14, 16)
"""Sides of patches that architectures on equal strides take."""


def describe_architecture(
    values: Mapping[str, Any], size_hw: tuple[int, int], num_classes: int
) -> Architecture:
    """Describe the network of a job spec's `model` with these values.

    Raises `JobError` for values that do not make a network.
    """
    segmenter = segmenter_without_memory(values, num_classes)
    config, decoder = segmenter.config, segmenter.decoder
    row, cost = ARCHITECTURES[config.architecture], segmenter_cost(segmenter, size_hw)
    return Architecture(
        name=config.architecture,
        description=row.description(),
        encoder=config.encoder,
        output_stride=segmenter.encoder.output_stride,
        parameters=cost.parameters,
        macs=cost.macs,
        heads=dict(zip(decoder.head_names, decoder.head_weights, strict=True)),
        fits=fitting_encoders(row.demands),
        keys=tuple(_own_keys(row.Config)),
        stages=_stages(segmenter.encoder),
        groups=_plain(cost),
    )


def describe_encoder(
    name: str, size_hw: tuple[int, int], output_stride: int | None = None
) -> EncoderChoice:
    """Describe an encoder, by default at its largest output stride; a vision transformer with its
    own stages and patches, with patches of 14 or 16 pixels, or as a pyramid down to 8 or 32.

    Raises `JobError` for an unknown name or output stride.
    """
    built = _transformer if is_transformer(name) else _dilated
    encoder, strides, pyramid = built(name, output_stride)
    weights, licence = _default_weights(name)
    cost = encoder_cost(encoder, size_hw)
    return EncoderChoice(
        name=name,
        output_stride=encoder.output_stride,
        output_strides=strides,
        pyramid_strides=pyramid,
        parameters=cost.parameters,
        macs=cost.macs,
        weights=weights,
        licence=licence,
        stages=_stages(encoder),
        groups=_plain(cost),
    )


def _transformer(
    name: str, output_stride: int | None
) -> tuple[Encoder, tuple[int, ...], tuple[int, ...]]:
    own = encoder_without_memory(name, None, equal_strides=True)
    sides = tuple(dict.fromkeys((own.output_stride, *PATCHES)))
    _check_stride(output_stride, tuple(sorted({*sides, *OUTPUT_STRIDES})))
    encoder = own
    if output_stride not in (None, own.output_stride):
        encoder = encoder_without_memory(name, output_stride, output_stride in sides)
    return encoder, (own.output_stride,), OUTPUT_STRIDES


def _dilated(
    name: str, output_stride: int | None
) -> tuple[Encoder, tuple[int, ...], tuple[int, ...]]:
    _check_stride(output_stride, OUTPUT_STRIDES)
    strides = known_output_strides(name)
    built = {} if strides else dict(_at_each_stride(name))
    strides = strides or tuple(built)
    chosen = output_stride or max(strides, default=UNDILATED_STRIDE)
    encoder = built[chosen] if chosen in built else encoder_without_memory(name, chosen)
    return encoder, strides, ()


def _check_stride(given: int | None, known: tuple[int, ...]) -> None:
    if given not in (None, *known):
        *most, last = map(str, known)
        expected = f"{', '.join(most)} or {last}"
        raise JobError(f"model.output_stride: expected {expected}, got {given}")


def fitting_encoders(demands: Demands) -> str:
    """Describe the encoders that fit an architecture: `any`, `only NAMES`, `with stages ...`."""
    if demands.encoders:
        return f"only {', '.join(demands.encoders)}"
    if demands.equal_strides:
        return "vision transformers of timm"
    needs = []
    if demands.reductions:
        needs.append(f"stages {listed(demands.reductions)}")
    if demands.halving:
        needs.append("each stage half the one before")
    if demands.num_stages > Demands().num_stages:
        needs.append(f"{demands.num_stages} stages or more")
    return f"with {', '.join(needs)}" if needs else "any"


def _own_keys(config: type[SegmenterConfig]) -> Iterator[Key]:
    shared = SegmenterConfig.model_fields
    for name, field in config.model_fields.items():
        known = (shared[name].default, shared[name].description) if name in shared else None
        if name != "architecture" and (field.default, field.description) != known:
            yield Key(name, field.default, field.description or "")


def _stages(encoder: Encoder) -> tuple[Stage, ...]:
    return tuple(map(Stage, encoder.channels, encoder.reductions))


def _at_each_stride(name: str) -> Iterator[tuple[int, Encoder]]:
    """The encoder at each of its output strides."""
    for output_stride in OUTPUT_STRIDES:
        with suppress(JobError):
            yield output_stride, encoder_without_memory(name, output_stride)


def _default_weights(name: str) -> tuple[str | None, str | None]:
    from adapt.models.encoders.pretrained import (  # imports timm: seconds
        default_weights,
        weights_licence,
    )

    if name in ENCODERS:
        terms = terms_of(name)
        return None, None if terms is None else terms.licence
    weights = default_weights(name)
    return (weights, weights_licence(name)) if "." in weights else (None, None)


def _plain(cost: Cost) -> tuple[dict[str, Any], ...]:
    return tuple(asdict(group) for group in cost.groups)


def count_networks(
    size_hw: tuple[int, int],
    num_classes: int,
    advance: Callable[[int, int], None] = lambda _done, _total: None,
) -> Networks:
    """Every architecture on its default encoder, and every listed encoder, which takes a minute;
    `advance` gets how many are done, and of how many."""
    names = [*ENCODERS, *TESTED_ENCODERS, *LISTED_VITS]
    total = len(ARCHITECTURES) + len(names)
    architectures, encoders = [], []
    for name in ARCHITECTURES:
        found = describe_architecture({"architecture": name}, size_hw, num_classes)
        architectures.append(found)
        advance(len(architectures), total)
    for name in names:
        encoders.append(describe_encoder(name, size_hw))
        advance(len(architectures) + len(encoders), total)
    return Networks(architectures, encoders)


def main() -> None:
    """Write the package's list, a line a network."""
    networks = count_networks(LISTED_HW, LISTED_CLASSES).as_json()
    lists = [
        f"{json.dumps(name)}: [\n" + ",\n".join(map(json.dumps, rows)) + "\n]"
        for name, rows in networks.items()
    ]
    LISTED.write_text("{" + ", ".join(lists) + "}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
