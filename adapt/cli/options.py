"""The common parts of commands: the console, shared options, the place of this process.

Messages go to stderr, `--json` answers to stdout.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from adapt.cli import completion
from adapt.places import Place, find_place
from adapt.spec.shipped import shipped_names

if TYPE_CHECKING:
    from adapt.data.label_maps import LabelSpace
    from adapt.spec.job_spec import JobSpec
    from storage.stores import Stores

console = Console(stderr=True)

PROFILE_STEPS = 5
PROFILE_HELP = "Profile of the platform: a YAML file, or a name that `specs` lists."

SPEC_HELP = "Job spec: a YAML file, its URI, env:VARIABLE, or a name that `specs` lists."
SpecPath = Annotated[
    str,
    typer.Argument(metavar="SPEC", help=SPEC_HELP, autocompletion=completion.specs),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one key of the spec: train.steps=500."),
]
MaxCost = Annotated[
    float | None,
    typer.Option(
        "--max-cost",
        min=0,
        help="Cost at which the run, restarts included, is saved and ends with 75: "
        "train.max_cost, in the price's currency.",
    ),
]
Profiled = Annotated[
    bool,
    typer.Option(
        "--profile",
        help=f"Profile {PROFILE_STEPS} steps after ten others, into the run's folder and MLflow: "
        f"train.profile_steps={PROFILE_STEPS}.",
    ),
]
StoresFrom = Annotated[
    str | None,
    typer.Option(
        "--spec",
        help="Job spec with the settings of the URI's store, under `stores`.",
        autocompletion=completion.specs,
    ),
]
Base = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="The encoder's weights that a checkpoint of `checkpoint.trained_only` leaves out, a "
        "path or a URI; default: where it says that they are.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]


def place_here() -> Place:
    """The place of this process, from its environment."""
    return find_place(os.environ)


def job_and_place(spec: str, overrides: list[str] | None) -> "tuple[JobSpec, Place]":
    """The job of a spec, and the place of this process."""
    from adapt.spec.loading import load_spec

    place = place_here()
    return load_spec(spec, overrides or (), place.environment), place


def with_options(overrides: list[str] | None, max_cost: float | None, profiled: bool) -> list[str]:
    """Overrides of a spec with those of `--max-cost` and, before all others, `--profile`."""
    profile = [f"train.profile_steps={PROFILE_STEPS}"] if profiled else []
    limit = [] if max_cost is None else [f"train.max_cost={max_cost}"]
    return [*profile, *(overrides or ()), *limit]


def stores_of(spec: str | None) -> "Stores":
    """Stores with the settings of a job spec's `stores`, or with none."""
    from storage.stores import Stores

    if spec is None:
        return Stores({}, place_here().environment)
    job, place = job_and_place(spec, None)
    return Stores(job.stores, place.environment)


def label_space(name: str | None) -> "LabelSpace | None":
    """A row of LABEL_SPACES, or the classes of a job spec."""
    if name is None:
        return None
    if Path(name).suffix in (".yaml", ".yml") or name in shipped_names():
        return job_and_place(name, None)[0].classes
    from adapt.data.label_maps import LabelSpace

    return LabelSpace.named(name)
