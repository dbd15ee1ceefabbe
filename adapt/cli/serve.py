"""The command `serve`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from adapt.cli.options import StoresFrom, console, place_here, stores_of

commands = typer.Typer()

OPTION_VARIABLES = "SEGADAPT_OPTION"
"""Prefix of the variables that set options, for platforms that give the word `serve` alone:
SEGADAPT_OPTION_PRECISION=bf16. A Kubernetes Service `segadapt-serve` would set SEGADAPT_SERVE_PORT
in every pod."""

EXTRA = "pip install 'segadapt[serve]'"


@commands.command(context_settings={"auto_envvar_prefix": OPTION_VARIABLES})
def serve(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODEL]",
            help="A file of weights, the folder of a checkpoint or run, as a path or a URI, or "
            "models:/NAME@best; default: SEGADAPT_MODEL, else /opt/ml/model.",
        ),
    ] = None,
    host: Annotated[
        str | None,
        typer.Option(
            help="Address to listen on; 0.0.0.0 for every network of the machine. Default: "
            "SEGADAPT_HOST (0.0.0.0 in the image), else 127.0.0.1."
        ),
    ] = None,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0: a free one.")
    ] = 8080,
    name: Annotated[str, typer.Option(help="The model's name in URLs.")] = "segadapt",
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda or cuda:1; default: the GPU where there is one.")
    ] = None,
    precision: Annotated[
        Literal["fp32", "bf16"], typer.Option(help="Precision of the network.")
    ] = "fp32",
    batch_size: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=256,
            help="Most images of one size that are computed together; default: 8 on a GPU, 1 on a "
            "CPU, where more are no faster and change the last bits.",
        ),
    ] = None,
    batch_wait_ms: Annotated[
        float,
        typer.Option(min=0, max=1000, help="Longest that an image waits for others of its size."),
    ] = 5.0,
    queue: Annotated[
        int,
        typer.Option(
            min=1, max=4096, help="Images in the server at the same time; more are answered 429."
        ),
    ] = 16,
    max_body_mb: Annotated[
        int, typer.Option(min=1, max=256, help="Largest body of a request in MiB.")
    ] = 16,
    max_pixels: Annotated[
        int, typer.Option(min=1, max=1 << 28, help="Most pixels of an image; default: 4K.")
    ] = 1 << 23,
    body_timeout_s: Annotated[
        float, typer.Option(min=0.1, help="Seconds in which a body arrives; later ones end in 408.")
    ] = 30.0,
    timeout_s: Annotated[
        float, typer.Option(min=0.1, help="Seconds until an image is computed, else 503.")
    ] = 55.0,
    token_file: Annotated[
        Path | None,
        typer.Option(
            help="File with the token that requests state; default: SEGADAPT_TOKEN, else no token."
        ),
    ] = None,
    spec: StoresFrom = None,
) -> None:
    """Serve a model over HTTP: KServe v2, SageMaker's /invocations, and a page to drop pictures on.

    Try it: `curl --data-binary @street.png -H 'Content-Type: image/png' -o classes.png
    http://127.0.0.1:8080/invocations`, or open http://127.0.0.1:8080/ in a browser.
    docs/use_your_model.md has every endpoint. Ctrl-C and SIGTERM finish what is in flight.
    Variables set options too: SEGADAPT_OPTION_PRECISION=bf16.
    """
    from adapt.errors import JobError
    from adapt.places import MODEL_SHA256, model_to_serve

    try:
        from adapt.serve.limits import MB, Limits
        from adapt.serve.server import Server
        from adapt.serve.token import token_of
    except ModuleNotFoundError as error:
        raise JobError(
            f"serve: expected the packages of the extra `serve`, got no {error.name}", EXTRA
        ) from error
    from adapt.use.load import load

    place = place_here()
    where = model or model_to_serve(place.environment)
    sha256 = None if model else place.environment.get(MODEL_SHA256) or None
    stores = stores_of(spec) if spec else None
    limits = Limits(
        queue=queue,
        batch_size=batch_size,
        batch_wait_ms=batch_wait_ms,
        max_body_bytes=max_body_mb * MB,
        max_pixels=max_pixels,
        body_s=body_timeout_s,
        answer_s=timeout_s,
    )
    server = Server(
        lambda: load(where, device=device, precision=precision, stores=stores, sha256=sha256),
        name=name,
        host=host or place.environment.get("SEGADAPT_HOST") or "127.0.0.1",
        port=port,
        limits=limits,
        token=token_of(token_file, place.environment),
        grace_s=place.grace_s,
    )
    console.print(f"serving {where} on {server.url}", soft_wrap=True, highlight=False)
    server.serve_until_stopped()
