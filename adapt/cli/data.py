"""Commands on datasets: pack, merge, verify, inspect."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from adapt.cli import completion
from adapt.cli.options import AsJson, StoresFrom, console, label_space, stores_of
from adapt.errors import JobError

if TYPE_CHECKING:
    from adapt.data.packed.manifest import Manifest

commands = typer.Typer()


@commands.command()
def pack(
    dataset: Annotated[
        str,
        typer.Argument(
            help="Layout of RAW_DIR: gta5, cityscapes, synthia, camvid or folders.",
            autocompletion=completion.datasets,
        ),
    ],
    raw_dir: Annotated[
        Path, typer.Argument(metavar="RAW_DIR", help="The dataset as it was downloaded.")
    ],
    uri: Annotated[
        str, typer.Argument(metavar="URI", help="Destination: a folder, s3://..., obs://...")
    ],
    split: Annotated[str, typer.Option(help="Split to pack.")] = "train",
    size_hw: Annotated[
        tuple[int, int] | None,
        typer.Option(metavar="H W", help="Resize to this height and width, as the papers do."),
    ] = None,
    original: Annotated[
        bool, typer.Option("--original", help="Store the files unchanged, at full size.")
    ] = False,
    small: Annotated[
        bool,
        typer.Option(
            "--small", help="Store images as JPEG of quality 95: lossy, a fifth of the size."
        ),
    ] = False,
    name: Annotated[
        str | None, typer.Option(help="Name of the dataset in label spaces, for layout folders.")
    ] = None,
    unlabelled: Annotated[
        bool, typer.Option("--unlabelled", help="Pack images without labels.")
    ] = False,
    skip: Annotated[
        list[str] | None, typer.Option(help="Key of a sample to leave out; may be repeated.")
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            help="Label space, or job spec: store its train ids, not the dataset's own ids.",
            autocompletion=completion.label_spaces,
        ),
    ] = None,
    part: Annotated[
        str,
        typer.Option(
            "--slice", metavar="I/N", help="Pack only slice I of N; `merge` then joins them."
        ),
    ] = "0/1",
    seed: Annotated[int, typer.Option(help="Seed of the shuffle over shards.")] = 0,
    shard_mb: Annotated[float, typer.Option(help="Size of a shard in 10^6 bytes.")] = 64,
    workers: Annotated[
        int | None, typer.Option(help="Shards packed in parallel; default: the number of cores.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a split that is packed already.")
    ] = False,
    spec: StoresFrom = None,
    as_json: AsJson = False,
) -> None:
    """Pack a raw dataset into shards, straight into any store.

    Run the same command again to resume after a stop.
    """
    from adapt.cli.live import progress_bar
    from adapt.data.writing.pack import pack as pack_split
    from adapt.data.writing.plan import Slice

    if original and (small or size_hw):
        raise JobError(
            "--original: expected neither --small nor --size-hw, since it keeps the files as they "
            f"are, got {'--small' if small else '--size-hw'}",
            fix="leave out --small and --size-hw, or --original",
        )
    space, one_slice = label_space(classes), Slice.parse(part)
    encoding = "original" if original else "small" if small else "exact"
    with progress_bar(f"packing {dataset} {split}", console) as advance:
        manifest = pack_split(
            dataset,
            raw_dir,
            stores_of(spec).open(uri),
            split,
            encoding=encoding,
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
    print_packed(uri, split, manifest, as_json, only=None if manifest.index_sha256 else part)


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
    uri: str, split: str, manifest: "Manifest", as_json: bool, only: str | None = None
) -> None:
    """Print the size of a packed split, as a line or as JSON; of slice `only`, its own part."""
    size_mb = sum(shard.size_bytes for shard in manifest.shards) / 1e6
    console.print(
        f"{uri}/{split}: {manifest.num_samples} samples in {len(manifest.shards)} shards, "
        f"{size_mb:.1f} MB"
        + (f" (slice {only}). Run `merge` when all slices are packed." if only else ""),
        soft_wrap=True,
    )
    if as_json:
        known = {} if only else {"dataset_id": manifest.dataset_id}
        typer.echo(json.dumps({**known, **manifest.model_dump(mode="json")}))


@commands.command()
def verify(
    uri: Annotated[str, typer.Argument(metavar="URI", help="A packed dataset.")],
    split: Annotated[
        str | None, typer.Option(help="Split of the dataset; default: all packed ones.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Shards read in parallel; default: the number of cores.")
    ] = None,
    spec: StoresFrom = None,
    as_json: AsJson = False,
) -> None:
    """Verify every byte of a packed dataset and name each fault."""
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
        f"{', '.join(found.splits)}, {found.size_bytes / 1e6:.1f} MB: no faults",
        soft_wrap=True,
    )


@commands.command()
def inspect(
    uri: Annotated[str, typer.Argument(metavar="URI", help="A packed dataset.")],
    split: Annotated[str, typer.Option(help="Split of the dataset.")] = "train",
    classes: Annotated[
        str | None, typer.Option(help="Label space, or job spec, for class shares.")
    ] = None,
    sheet: Annotated[Path | None, typer.Option(help="PNG file for a contact sheet.")] = None,
    count: Annotated[int, typer.Option(help="Number of samples on the contact sheet.")] = 12,
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
