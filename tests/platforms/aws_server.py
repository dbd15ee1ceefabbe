"""The protocols of AWS on loopback, strict: JSON 1.1, STS' queries, HEAD of S3.

Every request must be signed for its service and region, and every input and every answer must
hold what AWS's published model says: members, types, lengths, ranges, enums, patterns. The check
reads the model's JSON by itself and shares nothing with `adapt.platforms.sagemaker.limits`.
"""

import gzip
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any, Protocol
from urllib.parse import parse_qs

REGION, KEY = "us-east-1", "AKIADOUBLE"
MODELS = {
    "SageMaker": ("sagemaker", "sagemaker/2017-07-24"),
    "Logs_20140328": ("logs", "logs/2014-03-28"),
    "AmazonEC2ContainerRegistry_V20150921": ("ecr", "ecr/2015-09-21"),
    "ServiceQuotasV20190624": ("servicequotas", "service-quotas/2019-06-24"),
    "AnyScaleFrontendService": (
        "application-autoscaling",
        "application-autoscaling/2016-02-06",
    ),
}
"""By the prefix of X-Amz-Target: the name in signatures, and where botocore has the model."""


class AwsRefused(Exception):
    """An error answer: status, code, message."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(code)
        self.status, self.body = status, {"__type": code, "message": message}


class Account(Protocol):
    """What answers behind the protocols."""

    broken: set[str]

    def answer(self, action: str, given: dict[str, Any]) -> dict[str, Any]:
        """Do what an action says. Raises `AwsRefused`."""

    def head_bucket(self, name: str) -> tuple[int, dict[str, str]]:
        """Status and headers of HEAD on a bucket."""


def faults(shapes: dict[str, Any], name: str, value: Any, path: str = "") -> Iterator[str]:
    """What AWS's model (its raw JSON) says against a value."""
    shape = shapes[name]
    kind = shape["type"]
    types = {"structure": dict, "map": dict, "list": list, "string": str, "boolean": bool}
    numbers = {"integer": int, "long": int, "double": (int, float), "timestamp": (int, float)}
    if not isinstance(value, {**types, **numbers}[kind]):
        yield f"{path}: {value!r} is no {kind}"
        return
    size = value if kind in numbers else len(value) if kind != "boolean" else 0
    if kind not in ("structure", "boolean"):
        if "max" in shape and size > shape["max"]:
            yield f"{path}: {size} is above {shape['max']}"
        if "min" in shape and size < shape["min"]:
            yield f"{path}: {size} is below {shape['min']}"
    if "enum" in shape and value not in shape["enum"]:
        yield f"{path}: {value!r} is none of {len(shape['enum'])} names"
    if "pattern" in shape:
        pattern = shape["pattern"].replace(r"\p{L}\p{Z}\p{N}", r"\w\s")
        pattern = pattern.replace(r"\p{Print}", "[ -~]").replace(
            r"\uD800\uDC00-\uDBFF\uDFFF", r"\U00010000-\U0010FFFF"
        )
        if "\\p" in pattern:
            raise AssertionError(f"{path}: the double cannot read {pattern}")
        if re.match(rf"(?:{pattern})\Z", value) is None:
            yield f"{path}: {value!r} does not match {pattern}"
    if kind == "structure":
        for required in shape.get("required", []):
            if required not in value:
                yield f"{path}.{required} is missing"
        for key, item in value.items():
            member = shape["members"].get(key)
            if member is None:
                yield f"{path}.{key} does not exist"
            else:
                yield from faults(shapes, member["shape"], item, f"{path}.{key}")
    if kind == "list":
        for number, item in enumerate(value):
            yield from faults(shapes, shape["member"]["shape"], item, f"{path}[{number}]")
    if kind == "map":
        for key, item in value.items():
            yield from faults(shapes, shape["key"]["shape"], key, f"{path}.key")
            yield from faults(shapes, shape["value"]["shape"], item, f"{path}.{key}")


_MODELS: dict[str, Any] = {}


def model(where: str) -> dict[str, Any]:
    """A service's model as botocore ships it."""
    if where not in _MODELS:
        packed = files("botocore").joinpath("data", where, "service-2.json.gz").read_bytes()
        _MODELS[where] = json.loads(gzip.decompress(packed))
    return _MODELS[where]  # type: ignore[no-any-return]


class _AwsHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    account: Account

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        if not self._signed("s3"):
            return self._send(403, b"", {})
        status, headers = self.account.head_bucket(self.path.strip("/"))
        return self._send(status, b"", headers)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        target = self.headers.get("X-Amz-Target")
        if target is None:
            return self._sts(parse_qs(body.decode()))
        prefix, _, action = target.partition(".")
        try:
            answer = self._json(prefix, action, body)
        except AwsRefused as refused:
            return self._send(refused.status, json.dumps(refused.body).encode(), {})
        if action in self.account.broken:
            self.account.broken.remove(action)
            self.close_connection = True
            return None
        return self._send(200, json.dumps(answer).encode(), {})

    def _json(self, prefix: str, action: str, body: bytes) -> dict[str, Any]:
        signed_for, where = MODELS[prefix]
        if not self._signed(signed_for):
            raise AwsRefused(
                "UnrecognizedClientException",
                "The security token included in the request is invalid.",
            )
        if self.headers["Content-Type"] != "application/x-amz-json-1.1":
            raise AwsRefused("SerializationException", "Content-Type")
        described, given = model(where), json.loads(body)
        operation = described["operations"][action]
        found = list(faults(described["shapes"], operation["input"]["shape"], given))
        if found:
            raise AwsRefused("ValidationException", f"{len(found)} validation errors: {found}")
        answer = self.account.answer(action, given)
        if "output" in operation:
            wrong = list(faults(described["shapes"], operation["output"]["shape"], answer))
            assert not wrong, f"the double's own answer to {action} is wrong: {wrong}"
        return answer

    def _sts(self, form: dict[str, list[str]]) -> None:
        (action,) = form["Action"]
        try:
            if not self._signed("sts"):
                raise AwsRefused("InvalidClientTokenId", "The security token is invalid.", 403)
            found = self.account.answer(action, {})
        except AwsRefused as refused:
            code, message = refused.body["__type"], refused.body["message"]
            xml = f"<Code>{code}</Code><Message>{message}</Message>"
            xml = f"<ErrorResponse><Error>{xml}</Error></ErrorResponse>"
            return self._send(refused.status, xml.encode(), {}, "text/xml")
        members = "".join(f"<{key}>{value}</{key}>" for key, value in found.items())
        result = f"<{action}Result>{members}</{action}Result>"
        xml = f"<{action}Response>{result}</{action}Response>"
        return self._send(200, xml.encode(), {}, "text/xml")

    def _signed(self, service: str) -> bool:
        """Return whether a signature of version 4 is there, by the known key, for this service."""
        scope = rf"{KEY}/\d{{8}}/{REGION}/{service}/aws4_request"
        names = r"[a-z0-9;-]*host;[a-z0-9;-]*x-amz-date[a-z0-9;-]*"
        form = rf"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders={names}, Signature=\w{{64}}"
        dated = re.fullmatch(r"\d{8}T\d{6}Z", self.headers.get("X-Amz-Date", ""))
        return bool(dated and re.fullmatch(form, self.headers.get("Authorization", "")))

    def _send(
        self, status: int, body: bytes, headers: dict[str, str], kind: str = "application/json"
    ) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Type": kind}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def serve(account: Account) -> Iterator[str]:
    """A server of all services for an account; its address."""
    handler = type("Handler", (_AwsHandler,), {"account": account})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
