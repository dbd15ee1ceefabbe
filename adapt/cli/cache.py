"""Commands about the node's shard cache: cache ls, cache clear."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from adapt.cli.messages import print_answer
from adapt.cli.models import PIPED_WIDTH
from adapt.cli.options import AsJson, console, place_here
from adapt.errors import JobError

if TYPE_CHECKING:
    from storage.shards.cache import ShardCache

commands = typer.Typer()
group = typer.Typer(no_args_is_help=True, help="List or empty this node's shard cache.")
commands.add_typer(group, name="cache")

Folder = Annotated[
    Path | None,
    typer.Option(help="Folder of the cache; default: that of jobs on this machine."),
]


@group.command("ls")
def list_cache(folder: Folder = None, as_json: AsJson = False) -> None:
    """List the packed datasets in the cache, with shards and size."""
    cache = _cache(folder)
    found = cache.datasets()
    if as_json:
        print_answer([entry._asdict() for entry in found])
        return
    table = Table(title=str(cache.folder))
    table.add_column("dataset", overflow="fold")  # an id that is cut is of no use
    for heading in ("shards", "MB"):
        table.add_column(heading)
    for entry in found:
        table.add_row(entry.dataset_id, str(entry.num_shards), f"{entry.size_bytes / 1e6:.1f}")
    out = Console()
    if not out.is_terminal:
        out.width = max(out.width, PIPED_WIDTH)
    out.print(table)


@group.command()
def clear(
    dataset_id: Annotated[
        str | None, typer.Argument(help="Id of a packed dataset, or its beginning; default: all.")
    ] = None,
    folder: Folder = None,
) -> None:
    """Remove the shards of one packed dataset from the cache, or of all.

    Running jobs keep their open shards and fetch the others again.
    """
    cache = _cache(folder)
    freed_bytes = cache.clear(None if dataset_id is None else _full_id(cache, dataset_id))
    console.print(f"freed {freed_bytes / 1e6:.1f} MB in {cache.folder}", soft_wrap=True)


def _cache(folder: Path | None) -> "ShardCache":
    from storage.shards.cache import ShardCache

    return ShardCache(folder or place_here().shards_dir)


def _full_id(cache: "ShardCache", beginning: str) -> str:
    ids = [entry.dataset_id for entry in cache.datasets()]
    fitting = [one for one in ids if one.startswith(beginning)]
    if len(fitting) != 1:
        raise JobError(
            f"DATASET_ID: expected the beginning of one of {', '.join(ids) or 'no datasets'}, "
            f"got {beginning!r}"
        )
    return fitting[0]
