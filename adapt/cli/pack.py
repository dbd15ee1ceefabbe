"""Commands that write packed datasets: pack, merge."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from adapt.cli import completion
from adapt.cli.messages import print_answer
from adapt.cli.options import AsJson, StoresFrom, console, label_space, stores_of
from adapt.errors import JobError, counted

if TYPE_CHECKING:
    from adapt.data.colours import ColourTable
    from adapt.data.label_maps import LabelSpace
    from adapt.data.packed.manifest import Manifest
    from adapt.data.problems import Notes

commands = typer.Typer()

Dataset = Annotated[
    str,
    typer.Argument(
        help="Layout of RAW_DIR: gta5, cityscapes, synthia, camvid or folders.",
        autocompletion=completion.datasets,
    ),
]
RawDir = Annotated[
    Path, typer.Argument(metavar="RAW_DIR", help="The dataset as it was downloaded.")
]
Destination = Annotated[
    str,
    typer.Argument(
        metavar="URI", help="Destination: a folder, s3://..., obs://..., gs://... or az://..."
    ),
]
SplitToPack = Annotated[str, typer.Option(help="Split to pack.")]
SizeHW = Annotated[
    tuple[int, int] | None,
    typer.Option(metavar="H W", help="Resize to this height and width, as the papers do."),
]
Original = Annotated[
    bool, typer.Option("--original", help="Store the files unchanged, at full size.")
]
Small = Annotated[
    bool,
    typer.Option("--small", help="Store images as JPEG of quality 95: lossy, a fifth of the size."),
]
Name = Annotated[
    str | None, typer.Option(help="Name of the dataset in label spaces, for layout folders.")
]
Unlabelled = Annotated[bool, typer.Option("--unlabelled", help="Pack images without labels.")]
Skip = Annotated[
    list[str] | None,
    typer.Option(help="Key or file name of a sample to leave out; may be repeated."),
]
SkipFile = Annotated[
    Path | None,
    typer.Option(metavar="LIST", help="File with samples to leave out, one a line, as --skip."),
]
PairsOnly = Annotated[
    bool,
    typer.Option("--pairs-only", help="Leave out images without label, and labels without image."),
]
Colours = Annotated[
    str | None,
    typer.Option(
        metavar="SPEC|TABLE",
        help="Labels are colours: map them to ids by a job spec, a label space, or a table (CSV, "
        "YAML, labelmap.txt) of names, colours and ids.",
        autocompletion=completion.label_spaces,
    ),
]
IgnoreColour = Annotated[
    list[str] | None,
    typer.Option(
        metavar="R,G,B", help="Colour that belongs to no class, stored as 255; may be repeated."
    ),
]
Classes = Annotated[
    str | None,
    typer.Option(
        help="Label space, or job spec: store its train ids, not the dataset's own ids.",
        autocompletion=completion.label_spaces,
    ),
]
Part = Annotated[
    str,
    typer.Option("--slice", metavar="I/N", help="Pack only slice I of N; `merge` then joins them."),
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of the shuffle over shards.")]
ShardMB = Annotated[
    float, typer.Option(min=1e-6, max=17_179, help="Size of a shard in 10^6 bytes.")
]
Workers = Annotated[
    int | None,
    typer.Option(min=1, help="Shards packed in parallel; default: the number of cores."),
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace a split that is packed already.")
]


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
    from adapt.cli.live import progress_bar
    from adapt.data.problems import Notes
    from adapt.data.writing.draft import PlanSettings
    from adapt.data.writing.pack import pack as pack_split
    from adapt.data.writing.pack import refuse_overlap
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
        colours=colour_table(colours, ignore_colour, name or dataset),
        label_space=label_space(classes),
    )
    one_slice, notes, store = Slice.parse(part), Notes(), stores_of(spec).open(uri)
    refuse_overlap(raw_dir, store)
    with (
        problems_shown(as_json, notes),
        progress_bar(f"packing {dataset} {split}", console) as advance,
    ):
        manifest = pack_split(
            dataset,
            raw_dir,
            store,
            split,
            workers=workers,
            overwrite=overwrite,
            part=one_slice,
            on_notes=notes.update,
            on_check=advance,
            on_progress=lambda progress: advance(progress.done, progress.total),
            **settings,
        )
    only = None if manifest.index_sha256 else part
    print_packed(uri, split, manifest, as_json, only=only, notes=notes)


def names_to_skip(names: list[str] | None, path: Path | None) -> tuple[str, ...]:
    """The names of --skip and of the lines of --skip-file."""
    from adapt.data.split_lists import read_names

    listed = [line.text for line in read_names(path)] if path else []
    return (*(names or ()), *listed)


def colour_table(source: str | None, ignored: list[str] | None, name: str) -> "ColourTable | None":
    """The table of --colours with the colours of --ignore-colour; None without --colours."""
    from adapt.data.colour_tables import ignored_colours, read_colour_table
    from adapt.data.colours import colours_of

    if source is None:
        if ignored:
            raise JobError("--ignore-colour: expected --colours beside it, got none")
        return None
    space = colour_space(source)
    table = colours_of(space, name) if space else read_colour_table(Path(source))
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
