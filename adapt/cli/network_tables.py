"""Facts of architectures and encoders, the choices of a job's `model`, and tables of them.

Facts are plain data, as `--json` prints them; tables show the same numbers, parameters in millions
and multiply-accumulates (MACs) in 10^9.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from rich.table import Table
from rich.text import Text

from adapt.errors import JobError
from adapt.models import ARCHITECTURES, ENCODERS
from adapt.models.config import SegmenterConfig
from adapt.models.costs import (
    LayerGroup,
    encoder_cost,
    encoder_without_memory,
    segmenter_cost,
    segmenter_without_memory,
)
from adapt.models.demands import Demands, listed
from adapt.models.encoders.encoder import UNDILATED_STRIDE, Encoder
from adapt.models.encoders.timm import OUTPUT_STRIDES, known_output_strides
from adapt.models.licences import terms_of


@dataclass(frozen=True)
class Stage:
    """Channels of an encoder's stage, and input pixels per pixel of it, a side."""

    channels: int
    reduction: int


@dataclass(frozen=True)
class Key:
    """A key of `model` that an architecture adds or describes anew."""

    name: str
    default: Any
    description: str


@dataclass(frozen=True)
class Architecture:
    """One architecture on one encoder; `heads`: the weight of each one's loss, main head first."""

    name: str
    description: str
    encoder: str
    output_stride: int
    parameters: int
    macs: int
    heads: Mapping[str, float]
    fits: str
    keys: Sequence[Key]
    stages: Sequence[Stage]
    groups: Sequence[LayerGroup]


@dataclass(frozen=True)
class EncoderChoice:
    """One encoder at one of its output strides.

    `weights`: full name of its default weights; None for an encoder without any.
    """

    name: str
    output_stride: int
    output_strides: Sequence[int]
    parameters: int
    macs: int
    weights: str | None
    licence: str | None
    stages: Sequence[Stage]
    groups: Sequence[LayerGroup]


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
        groups=cost.groups,
    )


def describe_encoder(
    name: str, size_hw: tuple[int, int], output_stride: int | None = None
) -> EncoderChoice:
    """Describe an encoder, by default at its largest output stride.

    Raises `JobError` for an unknown name or output stride.
    """
    if output_stride not in (None, *OUTPUT_STRIDES):
        raise JobError(f"model.output_stride: expected 8, 16 or 32, got {output_stride}")
    strides = known_output_strides(name)
    built = {} if strides else dict(_at_each_stride(name))
    strides = strides or tuple(built)
    chosen = output_stride or max(strides, default=UNDILATED_STRIDE)
    encoder = built[chosen] if chosen in built else encoder_without_memory(name, chosen)
    weights, licence = _default_weights(name)
    cost = encoder_cost(encoder, size_hw)
    return EncoderChoice(
        name=name,
        output_stride=chosen,
        output_strides=strides,
        parameters=cost.parameters,
        macs=cost.macs,
        weights=weights,
        licence=licence,
        stages=_stages(encoder),
        groups=cost.groups,
    )


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


def architectures_table(rows: Sequence[Architecture], title: str) -> Table:
    """One row an architecture: description, default encoder and fitting ones, heads."""
    table = _table(title, "architecture", "encoder, and which ones fit")
    table.show_lines = True
    _add_numbers(table, output_stride=6, million_parameters=10, GMACs=7)
    table.add_column("weight of each head's loss", width=12)
    for row in rows:
        about = Text.assemble((row.name, "bold"), "\n", row.description)
        encoders = Text.assemble((row.encoder, "bold"), "\n", row.fits)
        heads = "\n".join(f"{name} {weight:g}" for name, weight in row.heads.items())
        table.add_row(about, encoders, str(row.output_stride), *_cost_cells(row), heads)
    return table


def encoders_table(rows: Sequence[EncoderChoice], title: str) -> Table:
    """One line an encoder, named with its default weights where it has some."""
    table = _table(title, "encoder.weights", "their licence", "output strides")
    _add_numbers(table, million_parameters=10, GMACs=7)
    table.add_column("channels of stages")
    for row in rows:
        name = Text.assemble((row.name, "bold"), (row.weights or row.name).removeprefix(row.name))
        strides = ", ".join(map(str, row.output_strides))
        channels = ", ".join(str(stage.channels) for stage in row.stages)
        table.add_row(name, row.licence or "-", strides, *_cost_cells(row), channels)
    return table


def keys_table(keys: Sequence[Key]) -> Table:
    """The keys that an architecture adds to those of every `model`."""
    table = _table("keys of its own", "key", "default", "meaning")
    for key in keys:
        default = str(key.default).lower() if isinstance(key.default, bool) else str(key.default)
        table.add_row(*map(Text, (key.name, default, key.description)))
    return table


def stages_table(stages: Sequence[Stage]) -> Table:
    """An encoder's stages, shallow to deep."""
    table = _table("stages of the encoder", "of the image's size")
    _add_numbers(table, channels=8)
    for stage in stages:
        table.add_row(f"1/{stage.reduction}", str(stage.channels))
    return table


def groups_table(groups: Sequence[LayerGroup]) -> Table:
    """Layer groups and, as the last row, their sums."""
    table = _table("layer groups", "layer group")
    _add_numbers(table, parameters=11, GMACs=7)
    table.add_column("output: channels x height x width")
    for group in groups:
        shapes = ", ".join(" x ".join(map(str, shape)) for shape in group.shapes)
        table.add_row(Text(group.name), f"{group.parameters:,}", _giga(group.macs), shapes or "-")
    table.add_section()
    parameters = sum(group.parameters for group in groups)
    macs = sum(group.macs for group in groups)
    table.add_row("total", f"{parameters:,}", _giga(macs), style="bold")
    return table


def _table(title: str, *headings: str) -> Table:
    table = Table(title=Text(title), title_justify="left")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    return table


def _add_numbers(table: Table, **widths: int) -> None:
    """Columns of numbers, by heading, that stay whole where the terminal is narrow."""
    for heading, width in widths.items():
        table.add_column(heading.replace("_", " "), justify="right", width=width)


def _cost_cells(row: Architecture | EncoderChoice) -> tuple[str, str]:
    return f"{row.parameters / 1e6:.2f}", _giga(row.macs)


def _giga(macs: int) -> str:
    return f"{macs / 1e9:.2f}"
