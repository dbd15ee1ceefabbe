"""The errors for what an API server refuses, each with its fix."""

import json
from typing import Any

from adapt.errors import JobError
from storage.errors import StoreUnavailable
from storage.transient import is_transient_status


class ServerRefused(JobError):
    """The API server refused a request; `code` is its HTTP status."""

    def __init__(self, code: int, problem: str, fix: str = "") -> None:
        super().__init__(problem, fix)
        self.code = code


def explain(code: int, text: str, host: str) -> Exception:
    """The error for an answer that is no success: `ServerRefused`, or `StoreUnavailable` where the
    same request may succeed later."""
    status = _status(text)
    message = str(status.get("message") or text.strip() or f"HTTP {code}")
    if is_transient_status(code):
        return StoreUnavailable(f"{host}: the API server answers {code}: {message}", "try again")
    return ServerRefused(code, *_ADVICE.get(code, _other)(message, status, host))


def _status(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _other(message: str, _status: dict[str, Any], _host: str) -> tuple[str, str]:
    return f"the API server refuses: {message}", ""


def _bad_request(message: str, status: dict[str, Any], host: str) -> tuple[str, str]:
    if "unknown field" not in message:
        return _other(message, status, host)
    return (
        f"the cluster does not know a field: {message}",
        "update what is installed there, which is too old for this kind of job "
        "(docs/platforms/kubernetes.md)",
    )


def _unauthorized(message: str, _status: dict[str, Any], host: str) -> tuple[str, str]:
    return (
        f"{host}: the credentials are refused, or have expired ({message})",
        "log in again, or name another `context`",
    )


def _forbidden(message: str, _status: dict[str, Any], _host: str) -> tuple[str, str]:
    if "exceeded quota" in message:
        return (
            f"quota: {message}",
            "end other jobs, request a larger quota, or lower nodes, gpus, cpu, memory_gb or "
            "scratch_gb",
        )
    if "denied the request" in message or "PodSecurity" in message:
        return f"the cluster's policy refuses: {message}", ""
    return message, "get a role in that namespace that may, or name another `namespace`"


def _not_found(message: str, status: dict[str, Any], _host: str) -> tuple[str, str]:
    details = status.get("details") or {}
    name, kind = details.get("name"), details.get("kind")
    if kind == "namespaces":
        fix = f"create it (kubectl create namespace {name}) or name another"
        return f"namespace: {message}", fix
    if not name:
        return (
            f"kind: no matches for this kind in the cluster ({message})",
            "have its operator installed, or choose `kind: indexed_job`, which needs none",
        )
    return f"{message}; it may have ended and been removed", ""


def _conflict(message: str, _status: dict[str, Any], _host: str) -> tuple[str, str]:
    return f"name: {message}", "submit again, under another name"


def _invalid(message: str, status: dict[str, Any], _host: str) -> tuple[str, str]:
    """Field by field, as the server reports them."""
    causes = (status.get("details") or {}).get("causes") or []
    lines = [f"{one['field']}: {one['message']}" for one in causes if one.get("field")]
    return "the API server refuses:\n" + "\n".join(lines or [message]), ""


_ADVICE = {
    400: _bad_request,
    401: _unauthorized,
    403: _forbidden,
    404: _not_found,
    409: _conflict,
    422: _invalid,
}
"""By HTTP status: message, status and host -> problem and fix."""
