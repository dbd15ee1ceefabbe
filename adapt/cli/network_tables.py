"""Tables of architectures and encoders: parameters in millions, multiply-accumulates (MACs) in
10^9."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from adapt.cli.network_facts import Architecture, EncoderChoice, Key, Stage


def architectures_table(rows: Sequence[Architecture], title: str) -> Table:
    """One row an architecture: description, default encoder and fitting ones, heads."""
    table = _table(title, "architecture", "encoder, and which ones fit")
    table.show_lines = True
    _add_numbers(table, output_stride=6, million_parameters=10, GMACs=8)
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
    _add_numbers(table, million_parameters=10, GMACs=8)
    table.add_column("channels of stages")
    for row in rows:
        name = Text.assemble((row.name, "bold"), (row.weights or row.name).removeprefix(row.name))
        strides = _strides(row)
        channels = ", ".join(str(stage.channels) for stage in row.stages)
        table.add_row(name, row.licence or "-", strides, *_cost_cells(row), channels)
    return table


def _strides(row: EncoderChoice) -> str:
    own = ", ".join(map(str, row.output_strides))
    return f"{own} (pyramid)" if row.pyramid_strides else own


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


def groups_table(groups: Sequence[Mapping[str, Any]]) -> Table:
    """Layer groups and, as the last row, their sums."""
    table = _table("layer groups", "layer group")
    _add_numbers(table, parameters=11, GMACs=8)
    table.add_column("output: channels x height x width")
    for group in groups:
        shapes = ", ".join(" x ".join(map(str, shape)) for shape in group["shapes"])
        costs = (f"{group['parameters']:,}", _giga(group["macs"]))
        table.add_row(Text(group["name"]), *costs, shapes or "-")
    table.add_section()
    parameters = sum(group["parameters"] for group in groups)
    macs = sum(group["macs"] for group in groups)
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
