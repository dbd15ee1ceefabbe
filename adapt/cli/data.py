"""Commands about data sets: pack, inspect."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from adapt.cli.options import AsJson, StoresFrom, console, label_space, stores_of
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
    from adapt.data.packing import pack as pack_split
    from adapt.live import progress_bar

    if original and (small or size_hw):
        raise JobError("--original: keeps the files as they are; leave out --small and --size-hw")
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
            on_progress=lambda progress: advance(progress.done, progress.total),
        )
    size_mb = sum(shard.size_bytes for shard in manifest.shards) / 1e6
    console.print(
        f"{uri}/{split}: {manifest.num_samples} samples in {len(manifest.shards)} shards, "
        f"{size_mb:.1f} MB",
        soft_wrap=True,
    )
    if as_json:
        typer.echo(
            json.dumps({"dataset_id": manifest.dataset_id, **manifest.model_dump(mode="json")})
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
    from adapt.data.inspect import contact_sheet
    from adapt.data.inspect import inspect as inspect_split
    from adapt.tables import inspection_table

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
