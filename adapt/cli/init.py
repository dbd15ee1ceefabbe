"""The command `init`: from two folders to a job spec, tables of labels, and the commands."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.table import Table
from rich.text import Text

from adapt.cli import init_options as options
from adapt.cli.messages import print_answer
from adapt.cli.options import AsJson, StoresFrom, console, stores_of
from adapt.errors import JobError, counted

if TYPE_CHECKING:
    from adapt.proposal.classes import Proposed
    from adapt.proposal.held import Held
    from adapt.proposal.label_values import Value
    from adapt.proposal.networks import Choice
    from adapt.proposal.plan import Plan

commands = typer.Typer()

Ask = Callable[[str, str, str | None], str]
"""(question, default, the answer of an option) -> answer."""


@commands.command()
def init(
    source: options.Source,
    target: options.Target,
    out: options.Out,
    source_name: options.SourceName = None,
    target_name: options.TargetName = None,
    source_layout: options.SourceLayout = None,
    target_layout: options.TargetLayout = None,
    source_ids: options.SourceIds = None,
    target_ids: options.TargetIds = None,
    names: options.Names = None,
    ignore: options.Ignore = None,
    source_size_hw: options.SourceSize = None,
    target_size_hw: options.TargetSize = None,
    packed: options.PackedTo = None,
    name: options.RunName = None,
    method: options.Method = None,
    weights: options.Weights = None,
    steps: options.Steps = None,
    memory_gb: options.MemoryGB = None,
    labels: options.Labels = 500,
    pairs_only: options.PairsOnly = False,
    yes: options.Yes = False,
    overwrite: options.Overwrite = False,
    spec: StoresFrom = None,
    as_json: AsJson = False,
) -> None:
    """Write a job spec and its commands for two folders, or packed datasets.

    Finds layouts, sizes and the values in labels; proposes classes, crop, batch and network for the
    GPU here. Asks on a terminal what no option answers.
    """
    from adapt.proposal.make import check_names, make_plan, proposed_classes, refuse_full

    ask = asking(yes)
    refuse_full(out, overwrite)
    find = looker(spec, labels)
    first = find(source, source_layout, source_name, pairs_only, True)
    second = find(target, target_layout, target_name, False, False)
    check_names(first, second)
    ignored = ignored_values(ignore)
    classes = proposed_classes(first, asked_ids(ask, first, source_ids), ignored)
    others = (
        proposed_classes(second, asked_ids(ask, second, target_ids), ignored)
        if second.values
        else None
    )
    console.print(classes_table(first, classes))
    classes = named_by_person(ask, classes, names)
    sizes = {"source": source_size_hw, "target": target_size_hw}
    plan = make_plan(
        out, packed or str(out / "packed"), first, second, classes, others, sizes, pairs_only
    )
    answers = {
        "name": ask("Name of the run", f"{first.name}_to_{second.name}", name),
        "method": ask("Method", "dacs", method),
        "weights": ask("Encoder's weights (imagenet, none, or a URI)", "imagenet", weights),
        "steps": steps,
    }
    write(plan, answers, memory_gb, as_json)


def asking(yes: bool) -> Ask:
    """A function that asks on the terminal; with `yes` it takes defaults. Without a terminal and
    without `yes`, `JobError` for the first question that no option answers."""

    def ask(question: str, default: str, given: str | None) -> str:
        if given is not None:
            return given
        if yes:
            return default
        if not sys.stdin.isatty():
            raise JobError(
                f"init: {question}: expected an answer, got none, since stdin is not a terminal",
                fix="pass --yes for all defaults, or the options that answer",
            )
        return str(typer.prompt(question, default=default, err=True)).strip()

    return ask


def looker(spec: str | None, labels: int) -> "Callable[..., Held]":
    """A function that finds what a domain holds, under a progress bar."""
    from adapt.cli.live import progress_bar
    from adapt.proposal.held import look

    stores = stores_of(spec)

    def find(
        where: str, layout: str | None, name: str | None, pairs_only: bool, needs_labels: bool
    ) -> "Held":
        with progress_bar(f"reading labels of {where}", console) as advance:
            return look(
                where,
                stores,
                layout=layout,
                name=name,
                pairs_only=pairs_only,
                needs_labels=needs_labels,
                most_labels=labels,
                on_progress=advance,
            )

    return find


def ignored_values(texts: list[str] | None) -> "list[Value]":
    """The values of --ignore. `JobError` for what is neither an id nor a colour."""
    from adapt.data.colour_tables import ignored_colours

    found: list[Value] = []
    for text in texts or ():
        if "," in text:
            found += ignored_colours([text])
        elif text.isdecimal() and int(text) <= 255:
            found.append(int(text))
        else:
            raise JobError(f"--ignore: expected an id from 0 to 255 or R,G,B, got {text!r}")
    return found


def asked_ids(ask: Ask, held: "Held", given: str | None) -> str | None:
    """The dataset whose ids a domain's labels have, where that is not known already."""
    from adapt.proposal.classes import named_datasets

    known = named_datasets()
    stored = any(manifest.label_space for manifest in held.packed.values())
    values = held.values
    unclear = values and not (values.coloured or values.palette or stored)
    if not unclear or held.layout in known or held.name in known:
        return given
    question = f"Dataset whose ids the labels of {held.name} have ({', '.join(known)} or own)"
    answer = ask(question, "own", given)
    return None if answer == "own" else answer


def classes_table(held: "Held", proposed: "Proposed") -> Table:
    """The classes with their values and shares of pixels."""
    table = Table("class", "value in labels", "pixels", title=Text(f"labels of {held.name}"))
    for one in proposed.classes:
        shown = ", ".join(map(str, one.values))
        table.add_row(Text(one.name), shown, f"{one.share:.2%}")
    values = held.values
    if values is not None:
        for value in proposed.ignored:
            table.add_row("(ignored)", str(value), f"{values.share(value):.2%}")
    return table


def named_by_person(ask: Ask, proposed: "Proposed", given: str | None) -> "Proposed":
    """The classes, named by the person where their dataset does not."""
    from adapt.proposal.classes import renamed

    default = ",".join(one.name for one in proposed.classes)
    if given is None and proposed.named_by:
        return proposed
    answer = ask("Names of the classes, in this order", default, given)
    return renamed(proposed, [name.strip() for name in answer.split(",")])


def write(plan: "Plan", answers: dict[str, Any], memory_gb: float | None, as_json: bool) -> None:
    """Choose the network, write the files, print what was found and the commands."""
    from adapt.proposal import texts

    choice, memory = chosen(plan, answers, memory_gb)
    spec_path = plan.out / f"{answers['name']}.yaml"
    ranks = num_ranks()
    values = texts.values_of(plan, choice.network, choice.batch * ranks, choice.crop_hw, answers)
    files = {
        spec_path: texts.spec_text(plan, values, choice, memory),
        plan.out / "commands.sh": texts.commands_text(plan, str(spec_path)),
    }
    for held in (plan.source, plan.target):
        table = texts.table_text(plan, held)
        files |= {} if table is None else {Path(texts.table_path(plan, held)): table}
    files |= {plan.out / one: "\n".join(keys) + "\n" for one, keys in plan.lists.items()}
    plan.out.mkdir(parents=True, exist_ok=True)
    for path, text in files.items():
        path.write_text(text, encoding="utf-8")
    say(plan, choice, memory, list(files), str(spec_path))
    if as_json:
        print_answer(
            {
                "spec": str(spec_path),
                "files": [str(path) for path in files],
                "commands": texts.commands(plan, str(spec_path)),
                "needed_bytes": choice.needed,
                "fits": choice.fits,
                "notes": plan.notes,
            }
        )


def num_ranks() -> int:
    """Ranks of a run on this machine."""
    from adapt.accelerator import num_accelerators

    return max(1, num_accelerators())


def chosen(plan: "Plan", answers: dict[str, Any], memory_gb: float | None) -> "tuple[Choice, str]":
    """The network for the memory, and the description of that memory."""
    from adapt.accelerator import accelerator, num_accelerators, properties_of
    from adapt.proposal import texts
    from adapt.proposal.networks import Network, proposed_network
    from adapt.spec.job_spec import JobSpec
    from adapt.spec.loading import parse_spec

    def job_of(network: Network, batch: int, crop_hw: tuple[int, int]) -> JobSpec:
        values = texts.values_of(plan, network, batch, crop_hw, answers)
        return parse_spec(values, default_name=answers["name"])

    limit = None if memory_gb is None else memory_gb * 1e9
    memory = "a GPU, which this machine lacks" if limit is None else f"{limit / 1e9:.1f} GB"
    if limit is None and num_accelerators():
        limit = float(properties_of(accelerator(0)).memory_bytes)
        memory = f"{limit / 1e9:.1f} GB"
    with console.status("predicting the memory of a step"):
        return proposed_network(limit, plan.least_hw, num_ranks(), job_of), memory


def say(plan: "Plan", choice: "Choice", memory: str, files: list[Path], spec_path: str) -> None:
    """Print what was found, what is proposed and how to continue."""
    from adapt.proposal.texts import commands_text

    def line(text: str) -> None:
        console.print(text, soft_wrap=True, markup=False, highlight=False)

    for note in plan.notes:
        line(note)
    model, (height, width) = choice.network.model, choice.crop_hw
    line(
        f"Proposed: {model['architecture']} on {model['encoder']}, batches of {choice.batch} a "
        f"rank, crops of {height}x{width}: {choice.needed / 1e9:.1f} GB of {memory}"
        + ("" if choice.fits else ", which does not fit")
    )
    line(f"Wrote {counted(len(files), 'file')}: {', '.join(map(str, files))}")
    line("Next, or all of it with `sh " + str(plan.out / "commands.sh") + "`:")
    for one in commands_text(plan, spec_path).splitlines()[3:]:
        line(f"  {one}")
