"""The command `serve`."""

from typing import Any

import typer

from adapt.cli.options import Base, StoresFrom, console, place_here, stores_of
from adapt.cli.serve_options import (
    BatchSize,
    BatchWait,
    BodyTimeout,
    Device,
    Host,
    MaxBody,
    MaxImage,
    MaxPixels,
    Model,
    Name,
    Port,
    Precision,
    Queue,
    Timeout,
    TokenFile,
)

commands = typer.Typer()

OPTION_VARIABLES = "SEGADAPT_OPTION"
"""Prefix of the variables that set options, for platforms that give the word `serve` alone:
SEGADAPT_OPTION_PRECISION=bf16. A Kubernetes Service `segadapt-serve` would set SEGADAPT_SERVE_PORT
in every pod."""

EXTRA = "pip install 'segadapt[serve]'"


@commands.command(context_settings={"auto_envvar_prefix": OPTION_VARIABLES})
def serve(
    model: Model = None,
    host: Host = None,
    port: Port = 8080,
    name: Name = "segadapt",
    device: Device = None,
    precision: Precision = "fp32",
    batch_size: BatchSize = None,
    batch_wait_ms: BatchWait = 5.0,
    queue: Queue = 16,
    max_body_mb: MaxBody = 16,
    max_pixels: MaxPixels = 1 << 23,
    max_image_s: MaxImage = 20.0,
    body_timeout_s: BodyTimeout = 30.0,
    timeout_s: Timeout = 55.0,
    token_file: TokenFile = None,
    spec: StoresFrom = None,
    base: Base = None,
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
        image_s=max_image_s,
        body_s=body_timeout_s,
        answer_s=timeout_s,
    )
    given: dict[str, Any] = {"device": device, "precision": precision, "base": base}
    server = Server(
        lambda: load(where, stores=stores, sha256=sha256, **given),
        name=name,
        host=host or place.environment.get("SEGADAPT_HOST") or "127.0.0.1",
        port=port,
        limits=limits,
        token=token_of(token_file, place.environment),
        grace_s=place.grace_s,
    )
    console.print(f"serving {where} on {server.url}", soft_wrap=True, highlight=False)
    server.serve_until_stopped()
