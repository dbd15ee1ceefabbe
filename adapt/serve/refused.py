"""`Refused`: a request that is answered by an HTTP code of failure, as JSON `{"error", "fix"}`."""

import json
from collections.abc import Mapping

from starlette.responses import Response

from storage.errors import FixableError

JSON = "application/json"


class Refused(FixableError):
    """The end of a request: `code` is its HTTP status, `headers` are those of its answer."""

    def __init__(
        self, code: int, problem: str, fix: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(problem, fix)
        self.code, self.headers = code, dict(headers or {})

    def response(self) -> Response:
        """The answer, in the form of the project's messages."""
        text = json.dumps({"error": self.problem, "fix": self.fix})
        return Response(text, self.code, self.headers, JSON)


def busy(problem: str, wait_s: float = 1) -> Refused:
    """429: the server is full for now; the client is to retry after `wait_s` seconds."""
    after_s = str(max(1, round(wait_s)))
    fix = f"retry after {after_s} s, or start more servers"
    return Refused(429, problem, fix, {"retry-after": after_s})


def not_ready(problem: str, fix: str = "retry after 2 s") -> Refused:
    """503: for now there is no model that can answer."""
    return Refused(503, problem, fix, {"retry-after": "2"})
