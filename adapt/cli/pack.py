"""Commands that write packed datasets: pack, merge."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from adapt.cli.messages import print_answer
from adapt.cli.options import AsJson, StoresFrom, console, label_space, stores_of
from adapt.cli.pack_options import (
    Classes,
    Colours,
    Dataset,
    Destination,
    IgnoreColour,
    Name,
    Original,
    Overwrite,
    PairsOnly,
    Part,
    RawDir,
    Seed,
    ShardMB,
    SizeHW,
    Skip,
    SkipFile,
    Small,
    SplitToPack,
    Unlabelled,
    Workers,
)
from adapt.errors import JobError, counted, known_names

if TYPE_CHECKING:
    from adapt.data.colours import ColourTable
    from adapt.data.label_maps import LabelSpace
    from adapt.data.packed.manifest import Manifest
    from adapt.data.problems import Notes
    from adapt.data.writing.draft import PlanSettings
    from adapt.data.writing.plan import Slice
    from storage.store import Store

commands = typer.Typer()


@commands.command()
def pack(
    dataset: Dataset,
    raw_dir: RawDir,
    uri: Destination,
    split: SplitToPack = "train",
    size_hw: SizeHW = None,
    original: Original = False,
    small: Small = False,
    name: Name = None,
    unlabelled: Unlabelled = False,
    skip: Skip = None,
    skip_file: SkipFile = None,
    pairs_only: PairsOnly = False,
    colours: Colours = None,
    ignore_colour: IgnoreColour = None,
    classes: Classes = None,
    part: Part = "0/1",
    seed: Seed = 0,
    shard_mb: ShardMB = 64,
    workers: Workers = None,
    overwrite: Overwrite = False,
    spec: StoresFrom = None,
    as_json: AsJson = False,
) -> None:
    """Pack a raw dataset into shards, straight into any store.

    Every file is checked before the first shard is written. Run the same command again to resume
    after a stop.
    """
    from adapt.data.annotations.formats import as_folders
    from adapt.data.problems import Notes
    from adapt.data.writing.draft import PlanSettings
    from adapt.data.writing.plan import Slice

    settings = PlanSettings(
        encoding=encoding_of(original, small, size_hw),
        size_hw=size_hw,
        name=name,
        unlabelled=unlabelled,
        seed=seed,
        shard_bytes=int(shard_mb * 1e6),
        skip=names_to_skip(skip, skip_file),
        pairs_only=pairs_only,
        colours=colour_table(colours, ignore_colour, name, dataset),
        label_space=mapped_space(label_space(classes), name, dataset),
    )
    one_slice, notes, store = Slice.parse(part), Notes(), stores_of(spec).open(uri)
    with problems_shown(as_json, notes), as_folders(dataset, raw_dir, split) as (layout, folder):
        manifest = pack_shown(
            layout, folder, store, split, one_slice, notes, settings, workers, overwrite
        )
    only = None if manifest.index_sha256 else part
    print_packed(uri, split, manifest, as_json, only=only, notes=notes)
    if not (manifest.labelled or unlabelled):
        console.print(
            f"packed {counted(manifest.num_samples, 'image')} without labels, as there are none; "
            "training needs labels of a source",
            soft_wrap=True,
        )


def pack_shown(
    dataset: str,
    raw_dir: Path,
    store: "Store",
    split: str,
    part: "Slice",
    notes: "Notes",
    settings: "PlanSettings",
    workers: int | None,
    overwrite: bool,
) -> "Manifest":
    """Pack under a progress bar; `notes` take what is left out or converted."""
    from adapt.cli.live import progress_bar
    from adapt.data.writing.pack import pack as pack_split

    with progress_bar(f"packing {settings.get('name') or dataset} {split}", console) as advance:
        return pack_split(
            dataset,
            raw_dir,
            store,
            split,
            workers=workers,
            overwrite=overwrite,
            part=part,
            on_notes=notes.update,
            on_check=advance,
            on_progress=lambda progress: advance(progress.done, progress.total),
            **settings,
        )


def names_to_skip(names: list[str] | None, path: Path | None) -> tuple[str, ...]:
    """The names of --skip and of the lines of --skip-file."""
    from adapt.data.split_lists import read_names

    listed = [line.text for line in read_names(path)] if path else []
    return (*(names or ()), *listed)


def mapped_space(space: "LabelSpace | None", name: str | None, dataset: str) -> "LabelSpace | None":
    """The label space of an option, if any. `JobError` where it has no ids for the dataset."""
    if space is not None and (name or dataset) not in space.datasets:
        got = known_names(name, space.datasets) if name else f"got none, but layout {dataset!r}"
        raise JobError(
            f"--name: expected a dataset that the classes have ids for "
            f"({', '.join(space.datasets)}), {got}",
            fix=f"add --name {space.datasets[0]}",
        )
    return space


def colour_table(
    source: str | None, ignored: list[str] | None, name: str | None, dataset: str
) -> "ColourTable | None":
    """The table of --colours with the colours of --ignore-colour; None without --colours."""
    from adapt.data.colour_tables import ignored_colours, read_colour_table
    from adapt.data.colours import colours_of

    if source is None:
        if ignored:
            raise JobError("--ignore-colour: expected --colours beside it, got none")
        return None
    space = mapped_space(colour_space(source), name, dataset)
    table = colours_of(space, name or dataset) if space else read_colour_table(Path(source))
    return table.with_ignored(ignored_colours(ignored or ()))


def colour_space(source: str) -> "LabelSpace | None":
    """The label space that --colours names or a job spec has; None for a table."""
    from adapt.data.colour_tables import is_table

    return None if is_table(Path(source)) else label_space(source)


@contextmanager
def problems_shown(as_json: bool, notes: "Notes") -> Iterator[None]:
    """Print all problems as JSON where --json is set; the error message has the first ten."""
    from adapt.data.problems import BadFiles

    try:
        yield
    except BadFiles as error:
        if as_json:
            print_answer({**error.as_json(), **notes.as_json()})
        raise


def encoding_of(original: bool, small: bool, size_hw: tuple[int, int] | None) -> str:
    """The row of `ENCODINGS` that the options name. `JobError` where they contradict."""
    if original and (small or size_hw):
        raise JobError(
            "--original: expected neither --small nor --size-hw, since it keeps the files as they "
            f"are, got {'--small' if small else '--size-hw'}",
            fix="leave out --small and --size-hw, or --original",
        )
    return "original" if original else "small" if small else "exact"


@commands.command()
def merge(
    uri: Annotated[str, typer.Argument(metavar="URI", help="Destination of the slices.")],
    split: Annotated[str, typer.Option(help="Split of the dataset.")] = "train",
    spec: StoresFrom = None,
    as_json: AsJson = False,
) -> None:
    """Merge the slices of `pack --slice` into one packed split."""
    from adapt.data.writing.merge import merge as merge_slices

    print_packed(uri, split, merge_slices(stores_of(spec).open(uri), split), as_json)


def print_packed(
    uri: str,
    split: str,
    manifest: "Manifest",
    as_json: bool,
    *,
    only: str | None = None,
    notes: "Notes | None" = None,
) -> None:
    """Print the size of a packed split, as lines or as JSON; of slice `only`, its own part. `notes`
    are what was left out or converted.
    """
    for line in notes.lines() if notes else ():
        console.print(line, soft_wrap=True, markup=False, highlight=False)
    size_mb = sum(shard.size_bytes for shard in manifest.shards) / 1e6
    console.print(
        f"{uri}/{split}: {counted(manifest.num_samples, 'sample')} in "
        f"{counted(len(manifest.shards), 'shard')}, {size_mb:.1f} MB"
        + (f" (slice {only}). Run `merge` when all slices are packed." if only else ""),
        soft_wrap=True,
        markup=False,
    )
    if as_json:
        known = {} if only else {"dataset_id": manifest.dataset_id}
        more = notes.as_json() if notes else {}
        print_answer({**known, **manifest.model_dump(mode="json"), **more})
