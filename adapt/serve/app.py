"""The routes: KServe's v2 protocol, SageMaker's `/invocations` and `/ping`, `/health`, `/metrics`,
and the page at `/`.
"""

from typing import Any

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response

from adapt import __version__
from adapt.errors import known_names
from adapt.serve import tensors
from adapt.serve.answers import ANSWERS, wanted
from adapt.serve.metrics import CLIENT_GONE, METRICS_TYPE
from adapt.serve.page import page
from adapt.serve.refused import JSON, Refused
from adapt.serve.service import Service
from adapt.serve.tensor_outputs import answered, described
from adapt.serve.uploads import IMAGE_TYPES

BINARY = "application/octet-stream"
VERSION = "1"
"""Of the model, in the v2 protocol; a server has one."""


def build_app(service: Service, needs_token: bool) -> FastAPI:
    """The application of a service."""
    app = FastAPI(openapi_url=None, redirect_slashes=False)
    app.add_exception_handler(Refused, _refused)
    app.add_exception_handler(HTTPException, _unknown)
    app.add_exception_handler(ClientDisconnect, _gone)
    app.add_exception_handler(Exception, _bug)
    _add_probes(app, service)
    _add_v2(app, service)
    _add_invocations(app, service)

    @app.get("/")
    async def drop_page() -> Response:
        text, headers = page(service.name, needs_token)
        return Response(text, headers=headers)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(service.metrics.text(), headers={"content-type": METRICS_TYPE})

    return app


def _add_probes(app: FastAPI, service: Service) -> None:
    async def ready() -> Response:
        service.model()
        return JSONResponse({"ready": True})

    for path in ("/health", "/ping", "/v2/health/ready"):
        app.get(path)(ready)

    @app.get("/v2/health/live")
    async def live() -> Response:
        return JSONResponse({"live": True})


def _add_v2(app: FastAPI, service: Service) -> None:
    @app.get("/v2")
    async def server() -> Response:
        extensions = ["binary_tensor_data"]
        return JSONResponse({"name": "segadapt", "version": __version__, "extensions": extensions})

    @app.get("/v2/models/{name}")
    async def metadata(name: str) -> Response:
        _check_name(service, name)
        return JSONResponse(_metadata(service))

    @app.get("/v2/models/{name}/ready")
    async def model_ready(name: str) -> Response:
        _check_name(service, name)
        service.model()
        return JSONResponse({"name": service.name, "ready": True})

    @app.post("/v2/models/{name}/infer")
    async def infer(name: str, request: Request) -> Response:
        _check_name(service, name)
        header_length = request.headers.get(tensors.HEADER_LENGTH)
        _check_type(request, (JSON, "") if header_length is None else (BINARY, JSON, ""))
        async with service.intake(request) as intake:
            body, limit = await intake.body(), service.pixel_limit
            asked = await service.in_thread(tensors.asked, body, header_length, limit)
            results = await intake.segmented(asked.images)
            about = {"model_name": service.name, "model_version": VERSION}
            about |= {} if asked.identity is None else {"id": asked.identity}
            answer, length = await service.in_thread(
                answered, results, asked.outputs, about, asked.batched
            )
        if length is None:
            return Response(answer, media_type=JSON)
        return Response(answer, media_type=BINARY, headers={tensors.HEADER_LENGTH: str(length)})


def _add_invocations(app: FastAPI, service: Service) -> None:
    @app.post("/invocations")
    async def invocations(request: Request) -> Response:
        form = wanted(request.headers.get("accept", ""), request.query_params.get("picture"))
        kind = _check_type(request, (*IMAGE_TYPES, JSON))
        async with service.intake(request) as intake:
            data = await intake.body()
            if kind == JSON:
                data = await service.in_thread(tensors.image_of_json, data)
            (result,) = await intake.segmented([data])
            write = ANSWERS[form.media_type].write
            answer = await service.in_thread(write, result, form.picture)
        return Response(answer, media_type=form.media_type)


def _metadata(service: Service) -> dict[str, Any]:
    model = service.model()
    classes = [
        {"id": number, "name": one.name, "colour": list(one.colour)}
        for number, one in enumerate(model.classes.root)
    ]
    limits = {
        "max_pixels": service.pixel_limit.most,
        "max_body_bytes": service.limits.max_body_bytes,
    }
    return {
        "name": service.name,
        "versions": [VERSION],
        "platform": "pytorch",
        **described(model.classes.num_classes),
        "parameters": {"classes": classes, "lineage": dict(model.lineage), **limits},
    }


def _check_name(service: Service, name: str) -> None:
    if name != service.name:
        known = known_names(name, [service.name])
        raise Refused(404, f"model: expected the served one, {known}", f"ask for {service.name}")


def _check_type(request: Request, known: tuple[str, ...]) -> str:
    """The content type of a request, without its parameters. Raises `Refused` (415)."""
    coding = request.headers.get("content-encoding", "").strip().lower()
    if coding not in ("", "identity"):
        raise Refused(
            415,
            f"content-encoding: expected none, got {coding[:100]!r}",
            "send the body as it is, uncompressed",
            {"accept-encoding": "identity"},
        )
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in known:
        names = [one for one in known if one]
        raise Refused(
            415,
            f"content-type: expected {' or '.join(names)}, got {kind[:100]!r}",
            f"send the header `Content-Type: {names[0]}`",
        )
    return kind


async def _refused(_request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return error.response()


async def _unknown(request: Request, error: Exception) -> Response:
    """404 and 405 in the form of all other refusals."""
    assert isinstance(error, HTTPException)
    paths = "/, /invocations, /ping, /health, /metrics and /v2/..."
    fix = "open / in a browser for a page, POST a picture to /invocations, or GET /v2 first"
    if error.status_code == 405:
        methods = (error.headers or {"Allow": "another"})["Allow"]
        problem = f"method: expected {methods} for this path, got {request.method}"
        return Refused(405, problem, fix, error.headers).response()
    path = request.url.path[:100]
    return Refused(error.status_code, f"path: expected {paths}, got {path!r}", fix).response()


async def _gone(_request: Request, _error: Exception) -> Response:
    """For the metrics and the log alone."""
    return Response(status_code=CLIENT_GONE)


async def _bug(_request: Request, error: Exception) -> Response:
    problem = f"this is a bug in SegAdapt: {type(error).__name__}"
    return Refused(500, problem, "report it with the lines of the server's log").response()
