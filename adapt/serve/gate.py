"""`Gate`: the outermost layer of the server. It asks for the token, counts requests, and writes the
access log: one line a request, probes only with --verbose.
"""

import asyncio
import hmac
import logging
import time
from collections.abc import Callable
from urllib.parse import unquote, urlsplit

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from adapt.serve.metrics import CLIENT_GONE, Metrics
from adapt.serve.refused import Refused, not_ready

log = logging.getLogger(__name__)

PROBES = frozenset(("/health", "/ping", "/v2/health/live", "/v2/health/ready"))
"""Paths that platforms ask for without a token."""
OPEN = PROBES | {"/"}
"""Paths without a token; the page at `/` knows nothing of the model."""
QUIET = PROBES | {"/metrics"}
_MOST_CHARACTERS = 200


class Gate:
    """ASGI application around the routes. `token`: None for a server that is open; `crowded`:
    whether it has more connections than it serves."""

    def __init__(
        self, app: ASGIApp, metrics: Metrics, token: str | None, crowded: Callable[[], bool]
    ) -> None:
        self._app, self._metrics, self._crowded = app, metrics, crowded
        self._token = None if token is None else token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        assert scope["type"] == "http", "neither web sockets nor lifespan"
        started_s, code, routed = time.monotonic(), CLIENT_GONE, _routed(scope)

        async def noted(message: Message) -> None:
            nonlocal code
            if message["type"] == "http.response.start":
                code = message["status"]
            await send(message)

        try:
            self._check_room()
            self._check_token(Request(routed))
            await self._app(routed, receive, noted)
        except Refused as refused:
            await refused.response()(scope, receive, noted)
        except asyncio.CancelledError:  # the grace of a stop is over
            if code == CLIENT_GONE:
                await not_ready("the server stops").response()(scope, receive, noted)
        finally:
            route = getattr(routed.get("route"), "path", "other")
            self._count(scope, route, code, time.monotonic() - started_s)

    def _check_room(self) -> None:
        if self._crowded():
            refused = not_ready("connections: expected fewer at the same time, got too many")
            refused.headers["connection"] = "close"
            raise refused

    def _check_token(self, request: Request) -> None:
        if self._token is None or request.scope["path"] in OPEN:
            return
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        is_ours = hmac.compare_digest(given.strip().encode(), self._token)
        if scheme.lower() != "bearer" or not is_ours:
            got = "another" if given else "none"
            raise Refused(
                401,
                f"authorization: expected this server's token, got {got}",
                "send the header `Authorization: Bearer TOKEN`",
                {"www-authenticate": "Bearer"},
            )

    def _count(self, scope: Scope, route: str, code: int, seconds: float) -> None:
        self._metrics.answered(route, code, seconds)
        path = scope["raw_path"].decode("ascii", "replace")[:_MOST_CHARACTERS]
        client = (scope.get("client") or ("-",))[0]
        quiet = scope["path"] in QUIET and code in (200, 503)
        log.log(
            logging.DEBUG if quiet else logging.INFO,
            "%s %s %s %d %.0f ms",
            client,
            scope["method"],
            path,
            code,
            1000 * seconds,
        )


def _routed(scope: Scope) -> Scope:
    """The request as the routes know it: HEAD as GET, whose body the protocol leaves out, and the
    path alone of a whole address (RFC 9112, 3.2.2)."""
    routed = dict(scope)
    if scope["method"] == "HEAD":
        routed["method"] = "GET"
    if scope["raw_path"].startswith((b"http://", b"https://")):
        raw = urlsplit(scope["raw_path"].decode("ascii", "replace")).path or "/"
        routed |= {"path": unquote(raw), "raw_path": raw.encode()}
    return routed
