"""The commands `data ls`, `show`, `diff`, `tag`, `lineage`: versions of packed splits."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from adapt.cli.data_clean import clean
from adapt.cli.messages import print_answer
from adapt.cli.options import AsJson, StoresFrom, console, place_here, stores_of
from adapt.errors import MAX_SHOWN, counted

if TYPE_CHECKING:
    from adapt.data.packed.versions import Difference, Version
    from storage.store import Store

commands = typer.Typer()
group = typer.Typer(
    no_args_is_help=True, help="Versions of packed splits, the runs that used them, cleaning."
)
commands.add_typer(group, name="data")
group.command()(clean)

Uri = Annotated[
    str,
    typer.Argument(
        metavar="URI[@VERSION]", help="A packed dataset; of it a tag, an id, or current."
    ),
]
Split = Annotated[str, typer.Option(help="Split of the dataset.")]


@group.command("ls")
def list_versions(
    uri: Annotated[str, typer.Argument(metavar="URI", help="A packed dataset.")],
    split: Annotated[str | None, typer.Option(help="Split; default: all packed ones.")] = None,
    spec: StoresFrom = None,
    as_json: AsJson = False,
) -> None:
    """List the versions of packed splits: the current one, those tagged, those replaced."""
    from adapt.data.packed.split_files import packed_splits
    from adapt.data.packed.versions import versions

    store = stores_of(spec).open(uri)
    splits = [split] if split else packed_splits(store) or ["train"]
    found = {one: versions(store, one) for one in sorted(splits)}
    if as_json:
        print_answer({name: [facts(one) for one in some] for name, some in found.items()})
        return
    table = Table("split", "id", "tags", "samples", "kept", "note")
    for name, some in found.items():
        for one in some:
            row = facts(one)
            shown = f"{row['id'][:12]}{' (current)' if one.there else ''}"
            cells = (name, shown, ", ".join(one.tags), str(row["samples"]), one.kept_at, one.note)
            table.add_row(*map(Text, cells))
    Console().print(table)


@group.command()
def show(
    uri: Uri, split: Split = "train", spec: StoresFrom = None, as_json: AsJson = False
) -> None:
    """Show one version: its settings, class shares, tags and note."""
    from adapt.data.packed.versions import share_of

    _, one = opened(uri, split, spec)
    answer = {**facts(one), "shares": share_of(one.manifest)}
    if as_json:
        print_answer(answer)
        return
    table = Table("", "", show_header=False, title=Text(uri))
    for key, value in facts(one).items():
        table.add_row(key, Text(", ".join(value) if isinstance(value, tuple) else str(value)))
    for name, share in answer["shares"].items():
        table.add_row(Text(name), f"{share:.2%}")
    Console().print(table)


@group.command()
def diff(
    first: Annotated[str, typer.Argument(metavar="URI[@VERSION]", help="The version before.")],
    second: Annotated[str, typer.Argument(metavar="URI[@VERSION]", help="The version after.")],
    split: Split = "train",
    spec: StoresFrom = None,
    as_json: AsJson = False,
) -> None:
    """Show what differs between two versions: keys that were added, removed, relabelled; shares.

    The second may be of another dataset's URI.
    """
    from dataclasses import asdict

    from adapt.data.packed.versions import difference, index_of

    sides = []
    for uri in (first, second):
        store, one = opened(uri, split, spec)
        sides.append((one.manifest, index_of(store, split, one)))
    found = difference(sides[0], sides[1])
    if as_json:
        settings = {key: [str(one) for one in pair] for key, pair in found.settings.items()}
        print_answer({**asdict(found), "settings": settings, "equal": found.equal})
        return
    for line in lines(found):
        console.print(line, soft_wrap=True, markup=False, highlight=False)


def lines(found: "Difference") -> list[str]:
    """A difference in lines."""
    if found.equal:
        return ["nothing differs"]
    out = [f"{key}: {before} -> {after}" for key, (before, after) in found.settings.items()]
    for kind in ("added", "removed", "relabelled", "changed"):
        keys = getattr(found, kind)
        more = ", ..." if len(keys) > MAX_SHOWN else ""
        out += [
            f"{kind} {counted(len(keys), 'sample')}: {', '.join(keys[:MAX_SHOWN])}{more}"
        ] * bool(keys)
    out += [f"{name}: {a:.2%} -> {b:.2%} of the pixels" for name, (a, b) in found.shares.items()]
    return out


@group.command()
def tag(
    uri: Annotated[str, typer.Argument(metavar="URI", help="A packed dataset.")],
    name: Annotated[str, typer.Argument(metavar="TAG", help="Name for the current version.")],
    note: Annotated[str, typer.Option(help="A sentence about it.")] = "",
    split: Split = "train",
    spec: StoresFrom = None,
    as_json: AsJson = False,
) -> None:
    """Keep the current version of a split under a name, with a note.

    Its manifest and index are kept; `pack --overwrite` keeps those that it replaces by itself.
    """
    from adapt.data.packed.versions import keep

    one = keep(stores_of(spec).open(uri), split, name, note)
    console.print(
        f"{uri}/{split}: {one.id[:12]} is {name!r}", soft_wrap=True, markup=False, highlight=False
    )
    if as_json:
        print_answer(facts(one))


@group.command()
def lineage(
    uri: Uri,
    split: Split = "train",
    tracking_uri: Annotated[
        str | None,
        typer.Option(help="MLflow server; default: MLFLOW_TRACKING_URI, else ./runs/mlflow.db."),
    ] = None,
    spec: StoresFrom = None,
    as_json: AsJson = False,
) -> None:
    """List the runs in MLflow that used the versions of a split; with @VERSION of that one."""
    from adapt.data.packed.versions import versions
    from adapt.tracking.data_runs import runs_of_data
    from adapt.tracking.mlflow_database import embedded_tracking_uri

    server = tracking_uri or place_here().tracking_uri or embedded_tracking_uri(Path("runs"))
    store, one = opened(uri, split, spec)
    wanted = [one] if "@" in uri else versions(store, split)
    runs = runs_of_data(server, {each.id for each in wanted})
    if as_json:
        print_answer([each._asdict() for each in runs])
        return
    tags = {each.id: each.tags for each in wanted}
    table = Table("version", "tags", "used as", "run", "experiment", "status", "started")
    for run in runs:
        started = datetime.fromtimestamp(run.started_ms / 1000, UTC).isoformat(timespec="minutes")
        cells = (run.dataset_id[:12], ", ".join(tags[run.dataset_id]), run.role, run.name)
        table.add_row(*map(Text, (*cells, run.experiment, run.status, started)))
    Console().print(table)


def opened(text: str, split: str, spec: str | None) -> "tuple[Store, Version]":
    """The store and the version of URI[@VERSION]; an @ before the last slash is the URI's own."""
    from adapt.data.packed.versions import find

    uri, at, version = text.rpartition("@")
    if not at or "/" in version:
        uri, version = text, ""
    store = stores_of(spec).open(uri)
    return store, find(store, split, version)


def facts(one: "Version") -> dict[str, Any]:
    """A version as JSON."""
    manifest = one.manifest
    return {
        "id": one.id,
        "current": one.there,
        "tags": one.tags,
        "note": one.note,
        "kept_at": one.kept_at,
        "dataset": manifest.dataset,
        "samples": manifest.num_samples,
        "labelled": manifest.labelled,
        "encoding": manifest.encoding_name,
        "size_hw": manifest.size_hw,
        "size_bytes": sum(shard.size_bytes for shard in manifest.shards),
    }
