"""The outermost layer: request id, one line of access log, figures. Plain ASGI, once for every request."""

import asyncio
import itertools
import logging
import os
import re
import time
from dataclasses import dataclass
from typing import Final, cast

from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nanohook import errors, event_stream, logs
from nanohook.hub import Hub
from nanohook.web import failures
from nanohook.web.metrics import Metrics

logger = logging.getLogger(__name__)

_KEPT_ID: Final = re.compile(rb"[A-Za-z0-9-]{8,64}")
_EMPTY_SEGMENTS: Final = re.compile(r"/(?:\.?/)+")
_PROCESS: Final = os.urandom(6).hex().encode()
_NUMBER: Final = itertools.count(0x1000)
"""Request ids of our own: this process, then the number of the request."""
_QUIET: Final = frozenset({"/healthz", "/readyz", "/metrics", "/static"})
"""Routes that machines ask every few seconds: their lines are for debugging."""

OpenStream = tuple[Hub, event_stream.Stream]

NOTE: Final = "nanohook.note"
"""Scope entry: the request's ``Note``."""


class Note:
    """What is noted of a request on its way."""

    __slots__ = ("line", "request_id", "send", "status", "stream")

    def __init__(self, request_id: bytes, send: Send) -> None:
        self.request_id = request_id
        self.send = cast("event_stream.Send", send)
        """The server's own: for streams, which are driven step by step, and for short answers."""
        self.status: int | None = None
        """Of the answer, once it has begun."""
        self.line: dict[str, object] = {}
        """What the endpoint adds to the access line."""
        self.stream: OpenStream | None = None
        """A stream that has begun: it waits here, when every layer above has returned and is freed."""

    async def send_marked(self, message: Message) -> None:
        """Send, with the request's id on the answer."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [*message.get("headers", ()), (b"x-request-id", self.request_id)]
        await self.send(message)


@dataclass(frozen=True, slots=True)
class Lane:
    """A path of one variable at its end that is found without the router: thousands a second come to it."""

    route: Route
    prefix: str
    variable: str
    endpoint: ASGIApp


class Edge:
    """
    Wraps the whole service, and is the last to catch an error.

    Args:
        lane: The path that does not go through *app*.
        metrics: Where answers are counted.
    """

    def __init__(self, app: ASGIApp, *, lane: Lane, metrics: Metrics) -> None:
        self._app = app
        self._lane = lane
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        opened = await self._serve(scope, receive, send)
        if opened is None:
            return
        # A stream stays here until its reader leaves or the hub ends it. No function of its own: a frame would
        # be kept for each of thousands.
        streams, stream = opened
        try:
            if await streams.catch_up(stream):
                while (await receive())["type"] != "http.disconnect":
                    pass
        finally:
            streams.remove(stream)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> OpenStream | None:
        """Answer a request; return the stream, if it has begun one."""
        started = time.perf_counter()
        headers = scope["headers"]
        note = scope[NOTE] = Note(_request_id(scope), send)
        token = logs.request_id.set(note.request_id.decode())
        try:
            await self._way(scope)(scope, receive, note.send_marked)
        except asyncio.CancelledError:
            # By a server on its way out: it is to come again, unless half an answer is gone. Or by the hub, which
            # cuts a stream whose reader is shut out and takes nothing.
            if note.status is not None:
                raise
            refusal = errors.Unavailable("the service is going down", code="draining")
            await failures.answer(refusal)(scope, receive, note.send_marked)
        except Exception:
            logger.exception("request.crashed")
            if note.status is None:
                await failures.bug()(scope, receive, note.send_marked)
        finally:
            self._finish(scope, note, seconds=time.perf_counter() - started)
            logs.request_id.reset(token)
            # Note, server and scope hold each other: untied, all of it is freed at once and not by a search.
            del scope[NOTE]
        if note.stream is not None:
            # A stream waits for minutes, thousands of them beside each other: what is not needed to wait goes,
            # the server's own list of headers first, a kilobyte or three each.
            headers.clear()
            method = scope["method"]
            scope.clear()
            scope.update(type="http", method=method)
        return note.stream

    def _way(self, scope: Scope) -> ASGIApp:
        lane, path = self._lane, scope["path"]
        if "//" in path or "/./" in path or path.endswith("/"):
            # Some write an address anew on its way. A callback is taken by each of its spellings, or refused where
            # it is kept: what is redirected, or not found, is lost without a trace.
            path = _EMPTY_SEGMENTS.sub("/", path).rstrip("/")
            if f"{path}/".startswith(lane.prefix):
                scope["path"] = path  # for the router too: other methods, and those signed by headers, go there
        if scope["method"] != "POST" or not path.startswith(lane.prefix):
            return self._app
        value = path[len(lane.prefix) :]
        scope["path_params"] = {lane.variable: value}
        scope["route"] = lane.route
        return lane.endpoint

    def _finish(self, scope: Scope, note: Note, *, seconds: float) -> None:
        # The template, never the path: a callback's address is a secret.
        route = getattr(scope.get("route"), "path", "(none)")
        method = scope["method"] if route != "(none)" else "(any)"
        self._metrics.request(
            method=method,
            route=route,
            status=note.status or 0,
            seconds=None if note.stream else seconds,
        )
        line = {
            "method": scope["method"],
            "route": route,
            "status": note.status,
            "duration_ms": round(seconds * 1_000, 2),
            **note.line,
        }
        if route in _QUIET:
            logger.debug("http.request", extra=line)
        else:
            logs.info(logger, "http.request", line)


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
    return b"%b-%x" % (_PROCESS, next(_NUMBER))
