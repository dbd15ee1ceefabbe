"""The command `import-model`."""

import tempfile
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated

import typer

from adapt.cli import completion
from adapt.cli.messages import print_answer
from adapt.cli.models import parsed_size
from adapt.cli.options import AsJson, Base, Overrides, console, label_space, place_here

if TYPE_CHECKING:
    from adapt.places import Place
    from adapt.use.importing import Imported, Source
    from storage.stores import Stores

commands = typer.Typer()

Where = Annotated[
    str,
    typer.Argument(
        metavar="WHERE",
        help="A file of weights of any training program, the folder of a checkpoint or a run, as a "
        "path or a URI; runs:/ID or runs:/ID/ARTIFACT of MLflow; models:/NAME@ALIAS; with --image "
        "the path of the file in it.",
    ),
]
Out = Annotated[
    str, typer.Option(help="The .safetensors file to write, a path or a URI of a store.")
]
Image = Annotated[
    str | None,
    typer.Option(help="Container image that has the file: of the docker engine, or docker save's."),
]
Spec = Annotated[
    str | None,
    typer.Option(
        help="Describes the network of a file that does not itself: a job spec, or a YAML file "
        "with its keys `model`, `classes`, `size_hw` and `stores` alone.",
        autocompletion=completion.specs,
    ),
]
Classes = Annotated[
    str | None,
    typer.Option(metavar="NAME|SPEC", help="Its classes: a label space, or a job spec's."),
]
Size = Annotated[
    str | None,
    typer.Option(metavar="HxW", help="Size to which images are resized for it; default: none."),
]
Register = Annotated[
    str | None, typer.Option(metavar="NAME", help="Also register it in MLflow under this name.")
]
TrackingUri = Annotated[
    str | None, typer.Option(help="MLflow server; default: MLFLOW_TRACKING_URI.")
]

Merge = Annotated[
    bool,
    typer.Option(
        "--merge/--keep-adapters", help="Whether adapters become one with the layers beside them."
    ),
]


@commands.command()
def import_model(
    where: Where,
    out: Out,
    image: Image = None,
    spec: Spec = None,
    overrides: Overrides = None,
    classes: Classes = None,
    size: Size = None,
    register: Register = None,
    tracking_uri: TrackingUri = None,
    base: Base = None,
    merge: Merge = True,
    as_json: AsJson = False,
) -> None:
    """Make one file that states itself of a network that was trained elsewhere, or in parts.

    `load`, `predict`, `serve`, `export` and `deploy` take it without its job spec. Weights of the
    papers' programs, whose tensors have other names, go through `import-checkpoint`.
    A checkpoint without its base becomes whole, and adapters are merged.
    """
    from adapt.errors import JobError
    from adapt.tracking.imported_models import check_model_name
    from adapt.use.importing import import_model as import_network
    from adapt.use.importing import read_network_spec
    from storage.stores import Stores

    place = place_here()
    server = tracking_uri or place.tracking_uri
    if register is not None:
        check_model_name(register, "--register")
        if server is None:
            raise JobError(
                "--register: expected an MLflow server, got none",
                "set MLFLOW_TRACKING_URI, or add --tracking-uri",
            )
    if overrides and spec is None:
        raise JobError("--set: expected --spec, whose keys it changes, got none", "add --spec FILE")
    network = None if spec is None else read_network_spec(spec, overrides or (), place.environment)
    stores = Stores({} if network is None else network.stores, place.environment)
    with tempfile.TemporaryDirectory(prefix="segadapt-image-") as folder:
        source = where if image is None else _from_image(image, where, Path(folder), place)
        with console.status(f"importing {where}"):
            imported = import_network(
                source,
                out,
                spec=network,
                classes=label_space(classes),
                size_hw=None if size is None else parsed_size(size),
                stores=stores,
                tracking_uri=server,
                base=base,
                merge=merge,
            )
    version = None
    if register is not None and server is not None:
        version = _registered(imported, register, server, stores)
    _answer(imported, register, version, as_json)


def _from_image(image: str, path: str, folder: Path, place: "Place") -> "Source":
    """The file at a path of an image, copied into the folder."""
    from adapt.models.weight_files import ENDINGS
    from adapt.platforms.docker.image_file import copy_from_image
    from adapt.use.importing import Source

    with console.status(f"copying {path} from {image}"):
        copy = copy_from_image(image, path, folder, ENDINGS, place.environment)
    name = Path(image).name if Path(image).is_file() else image
    return Source(copy, str(copy), f"{name}: {path}")


def _registered(imported: "Imported", name: str, server: str, stores: "Stores") -> str:
    """The number of the version that MLflow makes of the file."""
    from adapt.tracking.imported_models import register_import
    from adapt.tracking.logged_models import TrackedModel
    from adapt.tracking.mlflow_errors import be_brief
    from adapt.trainer.found_run import asked
    from storage.uris import canonical, split_uri

    be_brief()
    local = split_uri(imported.uri)[0] == "file"
    uri = canonical(imported.uri) if local else imported.uri
    if local and server.startswith("http"):
        console.print(
            f"{server} will know the weights as {uri}, which other machines do not have; name a "
            "URI of a store with --out for them",
            soft_wrap=True,
            highlight=False,
        )
    settings = {key: one.model_dump(mode="json") for key, one in stores.configs.items()}
    model = TrackedModel(
        PurePosixPath(uri).stem, uri, imported.sha256, 0, imported.header, settings
    )
    return asked(lambda: register_import(model, name, server), server)


def _answer(imported: "Imported", register: str | None, version: str | None, as_json: bool) -> None:
    registered = None if version is None else f"models:/{register}/{version}"
    if as_json:
        facts = {"uri": imported.uri, "sha256": imported.sha256, "network": imported.network}
        print_answer({**facts, "tensors": imported.tensors, "registered": registered})
        return
    console.print(f"{imported.network}, {imported.tensors} tensors", highlight=False)
    if registered is not None:
        console.print(f"registered as {registered}", highlight=False)
    print_answer(imported.uri)
