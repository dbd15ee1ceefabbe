"""Tables for a terminal: IoU of every class, runs side by side, statistics of a packed split.

IoU goes in as shares, K of them with NaN for classes that never occur, and comes out in percent.
"""

from collections.abc import Mapping, Sequence
from math import isnan

import numpy as np
from numpy.typing import ArrayLike
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from adapt.data.packed.inspect import Inspection
from adapt.errors import counted
from adapt.evaluation.evaluate import NO_SUBSETS
from adapt.evaluation.metrics import mean_of_known

Subsets = Mapping[str, tuple[int, ...]]


def per_class_table(
    iou: ArrayLike, names: Sequence[str], title: str, subsets: Subsets = NO_SUBSETS
) -> Table:
    """IoU of each class and, as the last rows, the mean and those over subsets, in percent: (K,) ->
    a table for `rich`.
    """
    return compare_table({"IoU": iou}, names, title, subsets)


def compare_table(
    ious: Mapping[str, ArrayLike],
    names: Sequence[str],
    title: str = "",
    subsets: Subsets = NO_SUBSETS,
) -> Table:
    """Compare runs side by side, each after the first with its difference to it, in points: that of
    the numbers as they are shown."""
    rows = _rows(ious, names, subsets)
    table = Table(title=Text(title) if title else None, title_justify="left")
    for index, heading in enumerate(rows[0]):
        table.add_column(Text(heading), justify="left" if index == 0 else "right")
    for row in rows[1 : 1 + len(names)]:
        table.add_row(*map(_coloured, row))
    table.add_section()
    for row in rows[1 + len(names) :]:
        table.add_row(*map(_coloured, row), style="bold")
    return table


def _values(iou: ArrayLike, names: Sequence[str], subsets: Subsets) -> list[float]:
    """The K shares, their mean over the classes that occur, and the same over each subset."""
    shares = np.asarray(iou, dtype=np.float64)
    assert shares.shape == (len(names),), (shares.shape, names)
    values = shares.tolist()
    parts = ([values[index] for index in classes] for classes in subsets.values())
    return [*values, mean_of_known(values), *map(mean_of_known, parts)]


def _rows(ious: Mapping[str, ArrayLike], names: Sequence[str], subsets: Subsets) -> list[list[str]]:
    """Heading, K classes, means: the cells of every table as text."""
    columns = {run: _values(iou, names, subsets) for run, iou in ious.items()}
    first = next(iter(columns.values()))
    means = ("mIoU", *(f"mIoU {subset}" for subset in subsets))
    rows = [["class"], *([name] for name in (*names, *means))]
    for index, (run, values) in enumerate(columns.items()):
        rows[0] += [run] if index == 0 else [run, "+/-"]
        for row, value, reference in zip(rows[1:], values, first, strict=True):
            row.append(_number(percent(value), ".1f"))
            if index > 0:
                row.append(_number(percent(value) - percent(reference), "+.1f"))
    return rows


def percent(share: float) -> float:
    """A share as it is shown: in percent, with one decimal."""
    return round(100 * share, 1)


def _number(value: float, form: str) -> str:
    return "-" if isnan(value) else format(round(value, 1) + 0.0, form)


def _coloured(cell: str) -> Text:
    signs = {"+": "green", "-": "red"}
    style = signs.get(cell[:1]) if cell[1:2].isdigit() and cell[1:] != "0.0" else None
    return Text(cell, style=style or "")


def inspection_table(title: str, found: Inspection) -> Table:
    """The statistics of a packed split."""
    table = Table("", "", title=Text(title), show_header=False)
    manifest = found.manifest
    sizes = " / ".join(
        "x".join(map(str, hw)) for hw in (found.min_hw, found.median_hw, found.max_hw)
    )
    table.add_row("dataset", escape(f"{manifest.dataset} ({manifest.encoding_name})"))
    table.add_row(
        "samples",
        f"{found.num_samples} in {counted(found.num_shards, 'shard')}, "
        f"{found.size_bytes / 1e6:.1f} MB",
    )
    table.add_row("height x width", f"{sizes} px (min / median / max)")
    table.add_row("labels", escape(_stored_labels(found)))
    table.add_row("dataset id", manifest.dataset_id)
    shares = found.class_shares or {f"id {id_}": share for id_, share in found.id_shares.items()}
    for name, share in sorted(shares.items(), key=lambda pair: -pair[1]):
        table.add_row(escape(name), f"{share:7.2%} " + "\u2588" * round(40 * share))
    return table


def _stored_labels(found: Inspection) -> str:
    """Describe the labels of a packed split."""
    manifest = found.manifest
    if not manifest.labelled:
        return "none"
    space = manifest.label_space
    if space is None:
        return f"{manifest.dataset}'s own ids"
    return f"train ids of {space.name}, {len(space.classes)} classes"
