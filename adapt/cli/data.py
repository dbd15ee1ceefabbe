"""Commands that read packed datasets: verify, inspect."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from adapt.cli.messages import print_answer
from adapt.cli.options import AsJson, StoresFrom, console, label_space, stores_of
from adapt.cli.pack_options import (
    DryRun,
    ProfileOverrides,
    Slices,
    To,
    Yes,
    sending_of,
    slice_here,
)
from adapt.errors import JobError, counted

commands = typer.Typer()


@commands.command()
def verify(
    context: typer.Context,
    uri: Annotated[str, typer.Argument(metavar="URI", help="A packed dataset.")],
    split: Annotated[
        str | None, typer.Option(help="Split of the dataset; default: all packed ones.")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Shards read in parallel; default: the number of cores."),
    ] = None,
    part: Annotated[
        str,
        typer.Option(
            "--slice", metavar="I/N", help="Read only slice I of N; all is right where all are."
        ),
    ] = "0/1",
    spec: StoresFrom = None,
    as_json: AsJson = False,
    to: To = None,
    slices: Slices = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    profile_overrides: ProfileOverrides = None,
) -> None:
    """Verify every byte of a packed dataset and name each fault.

    `--to PROFILE --slices N` verifies as N jobs of a platform, after showing what will run where,
    at which price. All is right where all end well.
    """
    sending = sending_of(to, slices, part, dry_run, yes, as_json, profile_overrides)
    if sending is not None:
        from adapt.cli.predict_jobs import given_options, submit_dataset
        from adapt.platforms.prediction import SetUri

        words = ["verify", uri, *given_options(context, ("split", "workers"))]
        submit_dataset(words, [SetUri("URI", uri)], spec, sending)
        return
    from adapt.cli.live import progress_bar
    from adapt.data.packed.verify import verify as verify_splits
    from adapt.data.writing.plan import WHOLE

    one_slice, store = slice_here(part), stores_of(spec).open(uri)
    with progress_bar(f"verifying {uri}", console) as advance:
        found = verify_splits(store, split, workers=workers, part=one_slice, on_progress=advance)
    if as_json:
        print_answer(asdict(found))
    found.refuse()
    console.print(
        f"{uri}: {counted(found.num_samples, 'sample')} in {counted(found.num_shards, 'shard')} "
        f"of {', '.join(found.splits)}, {found.size_bytes / 1e6:.1f} MB: no faults"
        + ("" if one_slice == WHOLE else " in slice {}/{}".format(*one_slice)),
        soft_wrap=True,
        markup=False,
    )


@commands.command()
def inspect(
    uri: Annotated[str, typer.Argument(metavar="URI", help="A packed dataset.")],
    split: Annotated[str, typer.Option(help="Split of the dataset.")] = "train",
    classes: Annotated[
        str | None, typer.Option(help="Label space, or job spec, for class shares.")
    ] = None,
    sheet: Annotated[Path | None, typer.Option(help="PNG file for a contact sheet.")] = None,
    count: Annotated[
        int, typer.Option(min=1, max=1000, help="Number of samples on the contact sheet.")
    ] = 12,
    spec: StoresFrom = None,
    as_json: AsJson = False,
) -> None:
    """Show counts, sizes and class shares of a packed split, and a contact sheet."""
    from adapt.cli.tables import inspection_table
    from adapt.data.packed.inspect import contact_sheet
    from adapt.data.packed.inspect import inspect as inspect_split

    if sheet is not None and sheet.suffix.lower() != ".png":
        raise JobError(f"--sheet: expected a .png file, got {sheet.name!r}", "name it .png")
    store, space = stores_of(spec).open(uri), label_space(classes)
    found = inspect_split(store, split, space)
    if sheet is not None:
        contact_sheet(store, split, space, count=count).save(sheet)
        console.print(f"contact sheet: {sheet}", soft_wrap=True, markup=False)
    if as_json:
        print_answer({**asdict(found), "manifest": found.manifest.model_dump(mode="json")})
    else:
        Console().print(inspection_table(f"{uri}/{split}", found))
