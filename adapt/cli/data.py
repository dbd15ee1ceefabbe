"""Commands about data sets: pack, merge, verify, inspect."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from adapt.cli.options import AsJson, StoresFrom, console, label_space, stores_of
from adapt.data.packed.manifest import Manifest
from adapt.errors import JobError

commands = typer.Typer()


@commands.command()
def pack(
    dataset: Annotated[
        str, typer.Argument(help="Layout of RAW_DIR: gta5, cityscapes, synthia, camvid or folders.")
    ],
    raw_dir: Annotated[
        Path, typer.Argument(metavar="RAW_DIR", help="The dataset as it was downloaded.")
    ],
    uri: Annotated[
        str, typer.Argument(metavar="URI", help="Where to: a folder, s3://..., obs://...")
    ],
    split: Annotated[str, typer.Option(help="Which split to pack.")] = "train",
    size_hw: Annotated[
        tuple[int, int] | None,
        typer.Option(metavar="H W", help="Resize to this size, as the papers do."),
    ] = None,
    original: Annotated[
        bool, typer.Option("--original", help="Keep the files' own bytes and size.")
    ] = False,
    small: Annotated[
        bool,
        typer.Option("--small", help="Resize and store as JPEG 95: lossy, a fifth of the size."),
    ] = False,
    name: Annotated[
        str | None, typer.Option(help="What label spaces call it, for layout `folders`.")
    ] = None,
    unlabelled: Annotated[
        bool, typer.Option("--unlabelled", help="Pack the images alone.")
    ] = False,
    skip: Annotated[
        list[str] | None, typer.Option(help="A sample to leave out, by key; may be repeated.")
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            help="A label space, or a job spec: store its train ids, not the dataset's own ids."
        ),
    ] = None,
    part: Annotated[
        str,
        typer.Option("--slice", metavar="I/N", help="Pack one of N slices alone; then `merge`."),
    ] = "0/1",
    seed: Annotated[int, typer.Option(help="Start of the shuffle over shards.")] = 0,
    shard_mb: Annotated[float, typer.Option(help="Size of a shard in 10^6 bytes.")] = 64,
    workers: Annotated[
        int | None, typer.Option(help="Shards packed side by side; default: the cores.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace another packing.")
    ] = False,
    spec: StoresFrom = None,
    as_json: AsJson = False,
) -> None:
    """Write a raw dataset as shards, straight into any store.

    Run it again to go on after a stop.
    """
    from adapt.cli.live import progress_bar
    from adapt.data.packing.pack import pack as pack_split
    from adapt.data.packing.plan import Slice

    if original and (small or size_hw):
        raise JobError("--original: keeps the files as they are; leave out --small and --size-hw")
    space, one_slice = label_space(classes), Slice.parse(part)
    profile: Any = "original" if original else "small" if small else "exact"
    with progress_bar(f"packing {dataset} {split}", console) as advance:
        manifest = pack_split(
            dataset,
            raw_dir,
            stores_of(spec).open(uri),
            split,
            profile=profile,
            size_hw=size_hw,
            name=name,
            unlabelled=unlabelled,
            seed=seed,
            shard_bytes=int(shard_mb * 1e6),
            workers=workers,
            skip=tuple(skip or ()),
            overwrite=overwrite,
            label_space=space,
            part=one_slice,
            on_progress=lambda progress: advance(progress.done, progress.total),
        )
    say_packed(uri, split, manifest, as_json, only=None if manifest.index_sha256 else part)


@commands.command()
def merge(
    uri: Annotated[str, typer.Argument(metavar="URI", help="Where the slices were packed to.")],
    split: Annotated[str, typer.Option(help="Which split.")] = "train",
    spec: StoresFrom = None,
    as_json: AsJson = False,
) -> None:
    """Make one packed split of the slices that `pack --slice` left."""
    from adapt.data.packing.merge import merge as merge_slices

    say_packed(uri, split, merge_slices(stores_of(spec).open(uri), split), as_json)


def say_packed(
    uri: str, split: str, manifest: Manifest, as_json: bool, only: str | None = None
) -> None:
    """What was packed, in a line or as JSON; of a slice `only` its own part."""
    size_mb = sum(shard.size_bytes for shard in manifest.shards) / 1e6
    console.print(
        f"{uri}/{split}: {manifest.num_samples} samples in {len(manifest.shards)} shards, "
        f"{size_mb:.1f} MB"
        + (
            f" are slice {only}; when all slices are packed, `merge` makes the split"
            if only
            else ""
        ),
        soft_wrap=True,
    )
    if as_json:
        known = {} if only else {"dataset_id": manifest.dataset_id}
        typer.echo(json.dumps({**known, **manifest.model_dump(mode="json")}))


@commands.command()
def verify(
    uri: Annotated[str, typer.Argument(metavar="URI", help="A packed dataset.")],
    split: Annotated[
        str | None, typer.Option(help="Which split; default: all that are packed.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Shards read side by side; default: the cores.")
    ] = None,
    spec: StoresFrom = None,
    as_json: AsJson = False,
) -> None:
    """Read every byte of a packed dataset again and name all that is wrong."""
    from adapt.cli.live import progress_bar
    from adapt.data.packed.verify import verify as verify_splits

    with progress_bar(f"verifying {uri}", console) as advance:
        found = verify_splits(
            stores_of(spec).open(uri), split, workers=workers, on_progress=advance
        )
    if as_json:
        typer.echo(json.dumps(asdict(found)))
    found.refuse()
    console.print(
        f"{uri}: {found.num_samples} samples in {found.num_shards} shards of "
        f"{', '.join(found.splits)}, {found.size_bytes / 1e6:.1f} MB: all as the manifests say",
        soft_wrap=True,
    )


@commands.command()
def inspect(
    uri: Annotated[str, typer.Argument(metavar="URI", help="A packed dataset.")],
    split: Annotated[str, typer.Option(help="Which split.")] = "train",
    classes: Annotated[
        str | None, typer.Option(help="A label space, or a job spec, for class shares.")
    ] = None,
    sheet: Annotated[Path | None, typer.Option(help="Write a contact sheet to this PNG.")] = None,
    count: Annotated[int, typer.Option(help="Samples on the contact sheet.")] = 12,
    spec: StoresFrom = None,
    as_json: AsJson = False,
) -> None:
    """Show counts, sizes and class shares of a packed split, and a contact sheet."""
    from adapt.cli.tables import inspection_table
    from adapt.data.packed.inspect import contact_sheet
    from adapt.data.packed.inspect import inspect as inspect_split

    store, space = stores_of(spec).open(uri), label_space(classes)
    found = inspect_split(store, split, space)
    if as_json:
        typer.echo(
            json.dumps({**asdict(found), "manifest": found.manifest.model_dump(mode="json")})
        )
    else:
        Console().print(inspection_table(f"{uri}/{split}", found))
    if sheet is not None:
        contact_sheet(store, split, space, count=count).save(sheet)
        console.print(f"contact sheet: {sheet}", soft_wrap=True)
