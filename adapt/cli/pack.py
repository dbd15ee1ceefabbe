"""Commands that write packed datasets: pack, merge."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from adapt.cli import completion
from adapt.cli.options import AsJson, StoresFrom, console, label_space, stores_of
from adapt.errors import JobError, counted

if TYPE_CHECKING:
    from adapt.data.packed.manifest import Manifest

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
    list[str] | None, typer.Option(help="Key of a sample to leave out; may be repeated.")
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
Seed = Annotated[int, typer.Option(help="Seed of the shuffle over shards.")]
ShardMB = Annotated[float, typer.Option(help="Size of a shard in 10^6 bytes.")]
Workers = Annotated[
    int | None, typer.Option(help="Shards packed in parallel; default: the number of cores.")
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

    Run the same command again to resume after a stop.
    """
    from adapt.cli.live import progress_bar
    from adapt.data.writing.pack import pack as pack_split
    from adapt.data.writing.plan import PlanSettings, Slice

    settings = PlanSettings(
        encoding=encoding_of(original, small, size_hw),
        size_hw=size_hw,
        name=name,
        unlabelled=unlabelled,
        seed=seed,
        shard_bytes=int(shard_mb * 1e6),
        skip=tuple(skip or ()),
        label_space=label_space(classes),
    )
    one_slice = Slice.parse(part)
    with progress_bar(f"packing {dataset} {split}", console) as advance:
        manifest = pack_split(
            dataset,
            raw_dir,
            stores_of(spec).open(uri),
            split,
            workers=workers,
            overwrite=overwrite,
            part=one_slice,
            on_progress=lambda progress: advance(progress.done, progress.total),
            **settings,
        )
    print_packed(uri, split, manifest, as_json, only=None if manifest.index_sha256 else part)


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
    uri: str, split: str, manifest: "Manifest", as_json: bool, only: str | None = None
) -> None:
    """Print the size of a packed split, as a line or as JSON; of slice `only`, its own part."""
    size_mb = sum(shard.size_bytes for shard in manifest.shards) / 1e6
    console.print(
        f"{uri}/{split}: {counted(manifest.num_samples, 'sample')} in "
        f"{counted(len(manifest.shards), 'shard')}, {size_mb:.1f} MB"
        + (f" (slice {only}). Run `merge` when all slices are packed." if only else ""),
        soft_wrap=True,
    )
    if as_json:
        known = {} if only else {"dataset_id": manifest.dataset_id}
        typer.echo(json.dumps({**known, **manifest.model_dump(mode="json")}))
