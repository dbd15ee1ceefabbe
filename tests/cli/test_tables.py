"""Tables of an evaluation, against values worked out by hand."""

import torch
from rich.console import Console
from rich.table import Table

from adapt.cli.tables import compare_table, per_class_table

NAMES = ["road", "sky", "[car]"]
SOURCE_ONLY = [0.5, 0.25, float("nan")]
ADVENT = [0.6, 0.204, float("nan")]


def printed(table: Table) -> list[list[str]]:
    """The cells of each line that holds some."""
    console = Console(width=100, no_color=True)
    with console.capture() as capture:
        console.print(table)
    lines = [line for line in capture.get().splitlines() if line[:1] in "│┃"]
    return [[cell.strip() for cell in line.replace("┃", "│").split("│")[1:-1]] for line in lines]


def test_per_class_table() -> None:
    table = per_class_table(torch.tensor(SOURCE_ONLY), NAMES, "town: IoU in %")
    assert str(table.title) == "town: IoU in %"
    assert printed(table) == [
        ["class", "IoU"],
        ["road", "50.0"],
        ["sky", "25.0"],
        ["[car]", "-"],
        ["mIoU", "37.5"],
    ]


def test_means_over_subsets_are_the_last_rows() -> None:
    subsets = {"synthia16": (1, 2), "synthia13": (2,)}
    means = [["mIoU", "37.5"], ["mIoU synthia16", "25.0"], ["mIoU synthia13", "-"]]
    assert printed(per_class_table(SOURCE_ONLY, NAMES, "town", subsets))[4:] == means
    compared = compare_table({"a": SOURCE_ONLY, "b": ADVENT}, NAMES, subsets=subsets)
    assert printed(compared)[-2:] == [
        ["mIoU synthia16", "25.0", "20.4", "-4.6"],
        ["mIoU synthia13", "-", "-", "-"],
    ]


def test_compare_table_shows_differences_to_the_first() -> None:
    runs = {"source only": SOURCE_ONLY, "advent": ADVENT, "same": SOURCE_ONLY}
    assert printed(compare_table(runs, NAMES)) == [
        ["class", "source only", "advent", "+/-", "same", "+/-"],
        ["road", "50.0", "60.0", "+10.0", "50.0", "+0.0"],
        ["sky", "25.0", "20.4", "-4.6", "25.0", "+0.0"],
        ["[car]", "-", "-", "-", "-", "-"],
        ["mIoU", "37.5", "40.2", "+2.7", "37.5", "+0.0"],
    ]


def test_compare_table_colours_gains_and_losses() -> None:
    table = compare_table({"a": SOURCE_ONLY, "b": ADVENT, "c": SOURCE_ONLY}, NAMES)
    styles = [[getattr(cell, "style", "") for cell in column.cells] for column in table.columns]
    assert styles[3] == ["green", "red", "", "green"]
    assert styles[5] == ["", "", "", ""]


def test_tiny_loss_is_no_negative_zero() -> None:
    table = compare_table({"a": [0.5], "b": [0.49999]}, ["road"])
    assert printed(table)[-1] == ["mIoU", "50.0", "50.0", "+0.0"]


def test_differences_are_those_of_the_numbers_beside_them() -> None:
    """28.94 and 33.56 differ by 4.62, but who reads 28.9 and 33.6 expects 4.7."""
    table = compare_table({"a": [0.2894], "b": [0.3356]}, ["road"])
    assert printed(table)[-1] == ["mIoU", "28.9", "33.6", "+4.7"]
