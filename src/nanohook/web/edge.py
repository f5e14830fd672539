"""The outermost layer: request id, one line of access log, figures. Plain ASGI, once for every request."""

import logging
import os
import re
import time
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nanohook import logs
from nanohook.web.metrics import Metrics

logger = logging.getLogger(__name__)

_KEPT_ID: Final = re.compile(rb"[A-Za-z0-9-]{8,64}")
_QUIET: Final = frozenset({"/healthz", "/readyz", "/metrics", "/static"})
"""Routes that machines ask every few seconds: their lines are for debugging."""

NOTE: Final = "nanohook.note"
"""Scope entry: what an endpoint wants on its access line; ``None`` in place of seconds marks a stream."""
WIRE: Final = "nanohook.send"
"""Scope entry: the server's own ``send``, for streams that are driven step by step."""


class Edge:
    """
    Wraps the whole service.

    Args:
        metrics: Where answers are counted.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        request_id = _request_id(scope)
        token = logs.request_id.set(request_id.decode())
        scope[WIRE] = send
        note = scope[NOTE] = {}
        status = 500

        async def send_marked(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id)]
            await send(message)

        try:
            await self._app(scope, receive, send_marked)
        finally:
            self._finish(scope, note, status=status, seconds=time.perf_counter() - started)
            logs.request_id.reset(token)

    def _finish(self, scope: Scope, note: dict[str, object], *, status: int, seconds: float) -> None:
        # The template, never the path: a callback's address is a secret.
        route = getattr(scope.get("route"), "path", "(none)")
        is_stream = note.pop("stream", False)
        self._metrics.request(
            method=scope["method"] if route != "(none)" else "(any)",
            route=route,
            status=status,
            seconds=None if is_stream else seconds,
        )
        level = logging.DEBUG if route in _QUIET else logging.INFO
        if logger.isEnabledFor(level):
            line = {
                "method": scope["method"],
                "route": route,
                "status": status,
                "duration_ms": round(seconds * 1_000, 2),
                **note,
            }
            logger.log(level, "http.request", extra=line)


def _request_id(scope: Scope) -> bytes:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _KEPT_ID.fullmatch(value):
            kept: bytes = value
            return kept
    return os.urandom(8).hex().encode()
