"""The outermost layer: request id, one line of access log, figures. Plain ASGI, once for every request."""

import logging
import os
import re
import time
from typing import Final, cast

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nanohook import hub, logs
from nanohook.web.metrics import Metrics

logger = logging.getLogger(__name__)

_KEPT_ID: Final = re.compile(rb"[A-Za-z0-9-]{8,64}")
_QUIET: Final = frozenset({"/healthz", "/readyz", "/metrics", "/static"})
"""Routes that machines ask every few seconds: their lines are for debugging."""

NOTE: Final = "nanohook.note"
"""Scope entry: the request's ``Note``."""


class Note:
    """What is noted of a request on its way, for its access line."""

    __slots__ = ("is_stream", "line", "request_id", "send", "status")

    def __init__(self, request_id: bytes, send: Send) -> None:
        self.request_id = request_id
        self.send = cast("hub.Send", send)
        """The server's own ``send``: for streams, which are driven step by step, and for short answers."""
        self.status = 500
        self.is_stream = False
        self.line: dict[str, object] = {}
        """What the endpoint adds to the line."""


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
        note = scope[NOTE] = Note(_request_id(scope), send)
        token = logs.request_id.set(note.request_id.decode())

        async def send_marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                note.status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", note.request_id)]
            await send(message)

        try:
            await self._app(scope, receive, send_marked)
        finally:
            self._finish(scope, note, seconds=time.perf_counter() - started)
            logs.request_id.reset(token)

    def _finish(self, scope: Scope, note: Note, *, seconds: float) -> None:
        # The template, never the path: a callback's address is a secret.
        route = getattr(scope.get("route"), "path", "(none)")
        method = scope["method"] if route != "(none)" else "(any)"
        self._metrics.request(
            method=method, route=route, status=note.status, seconds=None if note.is_stream else seconds
        )
        level = logging.DEBUG if route in _QUIET else logging.INFO
        if logger.isEnabledFor(level):
            line = {
                "method": scope["method"],
                "route": route,
                "status": note.status,
                "duration_ms": round(seconds * 1_000, 2),
                **note.line,
            }
            logger.log(level, "http.request", extra=line)


async def answer(scope: Scope, *, content_type: bytes, body: bytes) -> None:
    """Answer 200 straight to the server: for a route where the layers between would cost a tenth."""
    note: Note = scope[NOTE]
    note.status = 200
    headers = [
        (b"content-type", content_type),
        (b"content-length", b"%d" % len(body)),
        (b"x-request-id", note.request_id),
    ]
    await note.send({"type": "http.response.start", "status": 200, "headers": headers})
    await note.send({"type": "http.response.body", "body": body})


def _request_id(scope: Scope) -> bytes:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _KEPT_ID.fullmatch(value):
            kept: bytes = value
            return kept
    return os.urandom(8).hex().encode()
