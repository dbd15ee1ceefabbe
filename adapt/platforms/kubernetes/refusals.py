"""What an API server's refusal means, and its cure."""

import json
from typing import Any

from adapt.errors import JobError
from storage.errors import StoreUnavailable


class Refused(JobError):
    """The API server said no; `code` is its HTTP status."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def explain(code: int, text: str, host: str) -> Exception:
    """An answer that is no success -> the error to raise: `Refused`, or `StoreUnavailable` where
    the same request may succeed later."""
    status = _status(text)
    message = str(status.get("message") or text.strip() or f"HTTP {code}")
    if code in (408, 429) or code >= 500:
        return StoreUnavailable(f"{host}: the API server answers {code}: {message}; try again")
    return Refused(code, _ADVICE.get(code, _other)(message, status, host))


def _status(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _other(message: str, _status: dict[str, Any], _host: str) -> str:
    return f"the API server refuses: {message}"


def _bad_request(message: str, _status: dict[str, Any], _host: str) -> str:
    if "unknown field" in message:
        return (
            f"the cluster does not know a field: {message}; what is installed there is too old "
            "for this kind of job (docs/platforms/kubernetes.md)"
        )
    return f"the API server refuses: {message}"


def _unauthorized(message: str, _status: dict[str, Any], host: str) -> str:
    return (
        f"{host}: the credentials are not taken ({message}); they may have expired: log in again, "
        "or name another `context`"
    )


def _forbidden(message: str, _status: dict[str, Any], _host: str) -> str:
    if "exceeded quota" in message:
        return (
            f"quota: {message}; end other jobs, ask for more, or lower nodes, gpus, cpu, "
            "memory_gb or scratch_gb"
        )
    if "denied the request" in message or "PodSecurity" in message:
        return f"the cluster's policy refuses: {message}"
    return f"{message}; ask for a role in that namespace that may, or name another `namespace`"


def _not_found(message: str, status: dict[str, Any], _host: str) -> str:
    details = status.get("details") or {}
    name, kind = details.get("name"), details.get("kind")
    if kind == "namespaces":
        return f"namespace: {message}; make it (kubectl create namespace {name}) or name another"
    if not name:
        return (
            f"kind: no matches for this kind in the cluster ({message}); have its operator "
            "installed, or choose `kind: indexed_job`, which needs none"
        )
    return f"{message}; it may have ended and been removed"


def _conflict(message: str, _status: dict[str, Any], _host: str) -> str:
    return f"name: {message}; submit again, under another name"


def _invalid(message: str, status: dict[str, Any], _host: str) -> str:
    """Field by field, as the server found them."""
    causes = (status.get("details") or {}).get("causes") or []
    lines = [f"{one['field']}: {one['message']}" for one in causes if one.get("field")]
    return "the API server refuses:\n" + "\n".join(lines or [message])


_ADVICE = {
    400: _bad_request,
    401: _unauthorized,
    403: _forbidden,
    404: _not_found,
    409: _conflict,
    422: _invalid,
}
