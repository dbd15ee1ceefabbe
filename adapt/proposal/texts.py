"""The files that `init` writes: the commented spec, the table of label values, the commands."""

import csv
import io
import shlex
from collections.abc import Mapping
from typing import Any

import yaml

from adapt.proposal.classes import BLACK
from adapt.proposal.held import FOLDERS, Held
from adapt.proposal.networks import Choice, Network
from adapt.proposal.plan import Packing, Plan

HEAD = """\
# Written by `segadapt init`; edit it as you like, `segadapt check` reports mistakes by their keys.
# docs/job_spec.md describes every key, docs/your_own_data.md the way from folders to predictions.
"""


def flow(value: object) -> str:
    """A value as one line of YAML."""
    return str(
        yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10_000)
    ).strip()


def values_of(
    plan: Plan,
    network: Network,
    batch: int,
    crop_hw: tuple[int, int],
    answers: Mapping[str, Any],
) -> dict[str, Any]:
    """The values of the spec. `answers` are name, weights, method, steps and experiment."""
    validation = plan.validation
    weights = answers["weights"]
    chosen = {"weights": weights} if weights in ("imagenet", "none") else {"weights_uri": weights}
    augment = {"crop_hw": list(crop_hw), "flip": 0.5}
    steps = answers["steps"] or network.steps
    values: dict[str, Any] = {
        "name": answers["name"],
        "seed": 1,
        "classes": classes_of(plan),
        "source": domain(plan.source, plan.source_uri, plan.source_hw, batch, augment),
        "target": domain(plan.target, plan.target_uri, plan.target_hw, batch, augment),
    }
    if validation is not None:
        values["validation"] = {
            "dataset": plan.target.name,
            "uri": validation.uri,
            "split": validation.split,
            **({} if scored_as_packed(plan) else {"size_hw": list(plan.target_hw)}),
        }
    return values | {
        "model": {**network.model, **chosen},
        "method": {"name": answers["method"]},
        "optim": dict(network.optim),
        "train": {"steps": steps, **network.train},
        "evaluate": evaluate_of(plan, steps),
        "checkpoint": {"uri": str(plan.out / "runs")},
        "tracking": {"experiment": answers["name"]},
    }


def scored_as_packed(plan: Plan) -> bool:
    """Return whether the validation split is packed already at a size of its own."""
    scored = plan.validation
    return bool(scored and plan.target.packed and plan.target.packed[scored.split].size_hw)


def evaluate_of(plan: Plan, steps: int) -> dict[str, Any]:
    """The section `evaluate`: 20 evaluations where there is something to score on."""
    return {"every_steps": max(1, steps // 20)} if plan.validation else {}


def classes_of(plan: Plan) -> list[dict[str, Any]]:
    """The section `classes`."""
    return [
        {
            "name": one.name,
            "colour": list(one.colour),
            "ids": {
                plan.source.name: list(one.ids),
                **({plan.target.name: list(plan.ids[one.name])} if plan.ids.get(one.name) else {}),
            },
        }
        for one in plan.classes.classes
    ]


def domain(
    held: Held, uri: str, size_hw: tuple[int, int], batch: int, augment: Mapping[str, Any]
) -> dict[str, Any]:
    """The section of a domain."""
    split = {} if held.train == "train" else {"split": held.train}
    return {
        "dataset": held.name,
        "uri": uri,
        **split,
        "batch_size": batch,
        "size_hw": list(size_hw),
        "augment": dict(augment),
    }


def spec_text(plan: Plan, values: Mapping[str, Any], choice: Choice, memory: str) -> str:
    """The spec as commented YAML."""
    comments = section_comments(choice, memory)
    lines = [HEAD, *(f"# {note}\n" for note in plan.notes)]
    for key, value in values.items():
        lines += [f"# {comment}\n" for comment in comments.get(key, ())]
        if key == "classes":
            lines += ["classes:\n", *class_lines(plan, value)]
        elif isinstance(value, dict) and not value:
            continue
        else:
            lines.append(f"{key}: {flow(value) if isinstance(value, dict) else scalar(value)}\n")
    return "".join(lines)


def scalar(value: object) -> str:
    """A number or a text as YAML."""
    return flow([value])[1:-1]


def class_lines(plan: Plan, values: list[dict[str, Any]]) -> list[str]:
    """A line for each class with its share of pixels."""
    pairs = zip(values, plan.classes.classes, strict=True)
    return [
        f"  - {flow(value)}  # {one.share:.2%} of the pixels of {plan.source.name}\n"
        for value, one in pairs
    ]


def section_comments(choice: Choice, memory: str) -> dict[str, list[str]]:
    """Comments above the sections."""
    model = choice.network.model
    alone = (
        "no ImageNet weights need be fetched for it"
        if choice.network.in_package
        else (
            "ImageNet's weights are fetched where the job runs, or model.weights_uri names a file"
        )
    )
    validation = "labelled images of the target; no label of it is opened while training"
    return {
        "classes": [
            "The order gives the train ids. Ids that no class lists are ignored. To merge two",
            "classes, write their ids into one line and remove the other.",
        ],
        "source": [f"batch_size is over all ranks; {crop_comment(choice)}"],
        "validation": [f"Scores: {validation}."],
        "model": [
            f"{model['architecture']} on {model['encoder']}: {alone}.",
            f"A step needs {choice.needed / 1e9:.1f} GB of {memory}, as `check` predicts"
            + ("." if choice.fits else "; it does not fit: lower batch_size or crop_hw."),
        ],
    }


def crop_comment(choice: Choice) -> str:
    """The description of crop and batch."""
    height, width = choice.crop_hw
    return f"{choice.batch} a rank, crops of {height}x{width} pixels."


def table_text(plan: Plan, held: Held) -> str | None:
    """The label-space table of a domain as CSV, which `pack --colours` takes; None without
    labels."""
    proposed = plan.classes if held is plan.source else plan.target_classes
    if proposed is None:
        return None
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["name", "r", "g", "b", "id"])
    for one in proposed.classes:
        for value, identity in zip(one.values, one.ids, strict=True):
            colour = value if isinstance(value, tuple) else one.colour
            writer.writerow([one.name, *colour, identity])
    return text.getvalue()


def table_path(plan: Plan, held: Held) -> str:
    """The file of a domain's table."""
    return str(plan.out / f"labels_{'source' if held is plan.source else 'target'}.csv")


def pack_command(plan: Plan, one: Packing) -> list[str]:
    """The arguments of one `pack`."""
    held = one.held
    argv = ["pack", str(held.layout), held.where, one.uri]
    if held.layout == FOLDERS or held.name != held.layout:
        argv += ["--name", held.name]
    argv += [] if one.split == "train" else ["--split", one.split]
    argv += ["--original"] if one.size_hw is None else ["--size-hw", *map(str, one.size_hw)]
    argv += ["--pairs-only"] if plan.pairs_only and one.labelled else []
    argv += ["--skip-file", one.skip_file] if one.skip_file else []
    return argv + (label_options(plan, held) if one.labelled else ["--unlabelled"])


def label_options(plan: Plan, held: Held) -> list[str]:
    """Options by which colour labels are read."""
    proposed = plan.classes if held is plan.source else plan.target_classes
    if proposed is None or not proposed.coloured:
        return []
    ignored = [value for value in proposed.ignored if isinstance(value, tuple)]
    taken = {value for one in proposed.classes for value in one.values}
    black = [] if BLACK in taken or BLACK in ignored else [BLACK]
    colours = [
        word for c in (*ignored, *black) for word in ("--ignore-colour", ",".join(map(str, c)))
    ]
    return ["--colours", table_path(plan, held), *colours]


def commands(plan: Plan, spec_path: str) -> list[list[str]]:
    """The arguments of every command from raw folders to a trained network."""
    packs = [pack_command(plan, one) for one in plan.packings]
    sheet = ["inspect", plan.source_uri, "--classes", spec_path, "--sheet"]
    sheet += [str(plan.out / "source.png")]
    sheet += [] if plan.source.train == "train" else ["--split", plan.source.train]
    return [*packs, sheet, ["check", spec_path], ["run", spec_path]]


def commands_text(plan: Plan, spec_path: str) -> str:
    """The commands as a script."""
    lines = [shlex.join(["segadapt", *argv]) for argv in commands(plan, spec_path)]
    return (
        "\n".join(["#!/bin/sh", "# Written by `segadapt init`; each command resumes.", "set -e"])
        + "\n"
        + "\n".join(lines)
        + "\n"
    )
