"""The command `data clean`: proposes what to leave out of a raw split."""

import os
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from adapt.cli.messages import print_answer
from adapt.cli.options import AsJson, console
from adapt.cli.pack import colour_table
from adapt.cli.pack_options import Colours, Dataset, IgnoreColour, Name, RawDir, SplitToPack
from adapt.errors import JobError, counted


def clean(
    dataset: Dataset,
    raw_dir: RawDir,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder for list and sheet.")],
    split: SplitToPack = "train",
    name: Name = None,
    unlabelled: Annotated[
        bool, typer.Option("--unlabelled", help="Read no labels: check the images alone.")
    ] = False,
    colours: Colours = None,
    ignore_colour: IgnoreColour = None,
    bits: Annotated[
        int, typer.Option(min=0, max=32, help="Most bits of 64 in which near duplicates differ.")
    ] = 4,
    dark: Annotated[
        float, typer.Option(min=0, help="Mean grey below which an image is dark.")
    ] = 16,
    blurred: Annotated[
        float, typer.Option(min=0, help="Deviations below the median sharpness.")
    ] = 4,
    outlier: Annotated[
        float, typer.Option(min=0, help="Deviations of class shares from the others'.")
    ] = 6,
    alignment: Annotated[
        float,
        typer.Option(min=0, help="Deviations by which a label fits better shifted or mirrored."),
    ] = 1.5,
    count: Annotated[int, typer.Option(min=1, max=1000, help="Proposals on the sheet.")] = 60,
    as_json: AsJson = False,
) -> None:
    """Propose samples to leave out: near duplicates, broken, dark, blurred, misplaced labels.

    Writes FOLDER/skip.txt, which `pack --skip-file` takes, and FOLDER/sheet.png. Deletes nothing.
    """
    from adapt.cli.live import progress_bar
    from adapt.data.cleaning.clean import Limits
    from adapt.data.cleaning.clean import clean as proposed
    from adapt.data.cleaning.report import sheet, skip_list
    from adapt.data.datasets import known_layout
    from adapt.data.raw_labels import read_colours

    if out.exists() and not out.is_dir():
        raise JobError(f"--out: expected a folder, got the file {out}", "pass another one")
    layout, table = known_layout(dataset), colour_table(colours, ignore_colour, name, dataset)
    samples = layout.find(raw_dir, split, unlabelled=unlabelled).samples
    read = layout.read_label if table is None else (lambda path: read_colours(path, table))
    limits = Limits(bits, dark, blurred, outlier, alignment)
    with progress_bar(f"checking {raw_dir}", console) as advance:
        found = proposed(samples, read, limits, os.cpu_count() or 1, advance)
    out.mkdir(parents=True, exist_ok=True)
    (out / "skip.txt").write_text(skip_list(found, len(samples)), encoding="utf-8")
    picture = sheet(found, {one.key: one for one in samples}, read, count)
    if picture is not None:
        picture.save(out / "sheet.png")
    kinds = Counter(one.check for one in found)
    console.print(
        f"{counted(len({one.key for one in found}), 'sample')} of {len(samples)} to leave out"
        + (f" ({', '.join(f'{kind} {times}' for kind, times in kinds.items())})" if kinds else "")
        + f": {out / 'skip.txt'}"
        + (f", {out / 'sheet.png'}" if picture else ""),
        soft_wrap=True,
        markup=False,
        highlight=False,
    )
    if as_json:
        print_answer([one._asdict() for one in found])
