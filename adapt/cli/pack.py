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
    DryRun,
    IgnoreColour,
    Merge,
    Name,
    Original,
    Overwrite,
    PairsOnly,
    Part,
    ProfileOverrides,
    RawDir,
    Seed,
    ShardMB,
    SizeHW,
    Skip,
    SkipFile,
    Slices,
    Small,
    SplitToPack,
    To,
    Unlabelled,
    Workers,
    Yes,
    sending_of,
    slice_here,
)
from adapt.errors import JobError, counted, known_names

if TYPE_CHECKING:
    from adapt.cli.predict_jobs import Sending
    from adapt.data.colours import ColourTable
    from adapt.data.label_maps import LabelSpace
    from adapt.data.packed.manifest import Manifest
    from adapt.data.problems import Notes
    from adapt.data.writing.draft import PlanSettings
    from adapt.data.writing.plan import Slice
    from storage.store import Store

commands = typer.Typer()

FORWARDED = (
    *("split", "size_hw", "original", "small", "name", "unlabelled", "skip", "pairs_only"),
    *("colours", "ignore_colour", "classes", "seed", "shard_mb", "workers"),
)
"""Parameters of `pack` that its jobs get as they were given."""


@commands.command()
def pack(
    context: typer.Context,
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
    join: Merge = False,
    seed: Seed = 0,
    shard_mb: ShardMB = 64,
    workers: Workers = None,
    overwrite: Overwrite = False,
    spec: StoresFrom = None,
    as_json: AsJson = False,
    to: To = None,
    slices: Slices = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    profile_overrides: ProfileOverrides = None,
) -> None:
    """Pack a raw dataset into shards, straight into any store.

    Every file is checked before the first shard is written. Run the same command again to resume
    after a stop.

    `--to PROFILE --slices N` packs as N jobs of a platform, after showing what will run where, at
    which price. RAW_DIR is a path that they have; the last one merges the slices.
    """
    if overwrite and (join or to is not None):
        raise JobError(
            f"--overwrite: expected none beside {'--merge' if to is None else '--to'}, got one: a "
            "slice that starts again would replace what all have merged",
            "name another URI, or remove the split that is there first",
        )
    sending = sending_of(to, slices, part, dry_run, yes, as_json, profile_overrides)
    if sending is not None:
        _submit(context, sending)
        return
    from adapt.data.annotations.formats import as_folders
    from adapt.data.problems import Notes
    from adapt.data.writing.draft import PlanSettings
    from adapt.data.writing.merge import merge_if_all

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
    one_slice, notes, store = slice_here(part), Notes(), stores_of(spec).open(uri)
    with problems_shown(as_json, notes), as_folders(dataset, raw_dir, split) as (layout, folder):
        manifest = pack_shown(
            layout, folder, store, split, one_slice, notes, settings, workers, overwrite
        )
    only = None if manifest.index_sha256 else "{}/{}".format(*one_slice)
    if only is not None and join and (whole := merge_if_all(store, split)) is not None:
        manifest, only = whole, None
    print_packed(uri, split, manifest, as_json, only=only, notes=notes)
    if not (manifest.labelled or unlabelled):
        console.print(
            f"packed {counted(manifest.num_samples, 'image')} without labels, as there are none; "
            "training needs labels of a source",
            soft_wrap=True,
        )


def _submit(context: typer.Context, sending: "Sending") -> None:
    """Submit the jobs that pack. Raises `JobError` for options that name files of this machine."""
    from adapt.cli.predict_jobs import given_options, submit_dataset
    from adapt.data.label_maps import LABEL_SPACES
    from adapt.platforms.prediction import SetUri

    given = context.params
    files = {"--skip-file": given["skip_file"], "--colours": given["colours"]}
    for option, value in {**files, "--classes": given["classes"]}.items():
        if value is not None and value not in LABEL_SPACES:
            raise JobError(
                f"{option}: expected no file of this machine beside --to, got {str(value)!r}",
                "name a label space, list samples with --skip, or pack here",
            )
    raw_dir, uri = str(given["raw_dir"]), given["uri"]
    words = ["pack", given["dataset"], raw_dir, uri, *given_options(context, FORWARDED), "--merge"]
    uris = [SetUri("RAW_DIR", raw_dir, path=True), SetUri("URI", uri, written=True)]
    submit_dataset(words, uris, given["spec"], sending)


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
