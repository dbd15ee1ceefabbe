"""The command `suggest`."""

from pathlib import Path
from typing import Annotated

import typer

from adapt.cli.messages import print_answer
from adapt.cli.options import AsJson, Base, Overrides, SpecPath, console, job_and_place
from adapt.errors import counted

commands = typer.Typer()


@commands.command()
def suggest(
    spec: SpecPath,
    model: Annotated[
        str,
        typer.Option(
            "--model",
            metavar="MODEL",
            help="The network that chooses and pre-labels: the folder of a run or of a "
            "checkpoint, a file of weights, or models:/NAME@best.",
        ),
    ],
    count: Annotated[int, typer.Option(min=1, help="Number of images to label.")] = 100,
    by: Annotated[
        str,
        typer.Option(
            help="score: unsure, unlike one another, with rare classes; random: the control."
        ),
    ] = "score",
    out: Annotated[Path, typer.Option(help="Folder to write, empty or new.")] = Path("to_label"),
    seed: Annotated[int, typer.Option(min=0, help="Seed of --by random.")] = 0,
    base: Base = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Suggest target images to label, with pre-labels for CVAT, Label Studio and COCO's tools.

    `pack` reads what the tool exports; the images join training as target.labelled_split.
    """
    from adapt.cli.live import progress_bar
    from adapt.suggest.suggest import suggest as suggest_images

    job, place = job_and_place(spec, overrides)
    with progress_bar("predicting", console) as advance:
        found = suggest_images(
            job, place, model, out, count=count, by=by, seed=seed, base=base, on_image=advance
        )
    if as_json:
        images = [one._asdict() for one in found.images]
        print_answer({**found._asdict(), "out": str(out), "images": images})
        return
    lines = (
        f"{counted(len(found.images), 'image')} of {found.samples} in {out}/images, pre-labels in "
        f"{out}/prelabels, contact sheet {out}/sheet.png",
        f"label them, put the tool's export into {out}/export, then",
        f"  segadapt pack cvat {out} URI --name {found.dataset} --split few",
        f"  segadapt run {spec} --set target.labelled_split=few",
        "URI is that of the target; other exports: label_studio, coco, coco_panoptic, "
        "annotated_png",
    )
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False, markup=False)
    print_answer(str(out))
