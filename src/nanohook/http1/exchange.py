"""One request and its answer, as ASGI sees them."""

import asyncio
import http
import logging
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, Final, Protocol

logger = logging.getLogger(__name__)

Message = MutableMapping[str, Any]
App = Callable[..., Awaitable[None]]

HIGH_WATER_BYTES: Final = 64 * 1024
"""Of a body that nobody has taken yet; then its sender waits."""
_ANY_LENGTH: Final = -1
"""The answer ends where the connection does: a client of HTTP/1.0 knows no chunks."""
_CHUNKED: Final = -2
_STREAM: Final = b"text/event-stream"
_CRASHED: Final = b"Internal Server Error"


def _status_line(status: int) -> bytes:
    try:
        phrase = http.HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    return f"HTTP/1.1 {status} {phrase}\r\n".encode()


STATUS_LINES: Final = {status: _status_line(status) for status in range(100, 600)}


def answer_head(status: int, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """
    Write the head of an answer.

    Raises:
        ValueError: A header holds a line end or a NUL: it would begin a header, or an answer, that nobody meant.
    """
    lines = [STATUS_LINES[status], *(b"%b: %b\r\n" % header for header in headers), b"\r\n"]
    head = b"".join(lines)
    if head.count(b"\n") != len(lines) or head.count(b"\r") != len(lines) or b"\0" in head:
        raise ValueError("a header of the answer holds a line end or a NUL")
    return head


class Wire(Protocol):
    """What an exchange needs of its connection."""

    is_write_paused: bool

    @property
    def default_headers(self) -> list[tuple[bytes, bytes]]:
        """Headers of every answer."""

    @property
    def is_last_answer(self) -> bool:
        """The connection ends with the answer under way, whatever the client wishes."""

    async def drain(self) -> None:
        """Wait until what was written has left."""

    def write(self, data: bytes) -> None:
        """Hand *data* to the kernel, or to the buffer before it."""

    def resume_reading(self) -> None:
        """Let the client send again."""

    def has_taken_body(self) -> None:
        """What came of the body is in other hands."""

    def begin_stream(self) -> None:
        """The answer that has begun is a stream of events: it waits for nothing but its reader's leaving."""

    def has_answered(self) -> None:
        """The answer is whole."""

    def abort(self) -> None:
        """Cut the connection: the answer can not be made whole."""


class Exchange:
    """
    A request whose head has come, until its answer has gone.

    Args:
        keep_alive: The client may send another request after this one.
        expects_continue: It sends the body only once it is told to.
    """

    __slots__ = (
        "_arrived",
        "_has_no_body",
        "_head",
        "_left",
        "_wire",
        "body",
        "expects_continue",
        "has_more_body",
        "has_started",
        "is_complete",
        "is_disconnected",
        "is_small_body",
        "keep_alive",
        "scope",
    )

    def __init__(self, wire: Wire, scope: Message, *, keep_alive: bool, expects_continue: bool) -> None:
        self.scope = scope
        self.keep_alive = keep_alive
        self.expects_continue = expects_continue
        self.body = bytearray()
        """What came of the body and was not taken yet."""
        self.has_more_body = True
        self.is_small_body = False
        """What is left of the body is little: it is read to its end even if the answer does not wait for it."""
        self.is_disconnected = False
        self.is_complete = False
        self._wire = wire
        self._arrived = asyncio.Event()
        self.has_started = False
        self._has_no_body = False
        self._head = b""
        """Of the answer: it waits for what is behind it, since each write wakes the reader."""
        self._left = _CHUNKED
        """Bytes of the answer still to come, or one of the two constants."""

    async def run(self, app: App) -> None:
        """Have *app* answer; a crash of it is answered too, if that can still be done."""
        try:
            await app(self.scope, self.receive, self.send)
        except asyncio.CancelledError:
            if not self.is_complete:
                self._wire.abort()
            raise
        except Exception:
            logger.exception("http.crashed")
        if self.is_complete or self.is_disconnected:
            return
        if self.is_out:
            self._wire.abort()
            return
        self._head, self.has_started, self.keep_alive = b"", False, False
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(_CRASHED))]
        await self.send({"type": "http.response.start", "status": 500, "headers": headers})
        await self.send({"type": "http.response.body", "body": _CRASHED})

    @property
    def is_out(self) -> bool:
        """The client has been sent a part of the answer, if only its head: nothing else can be said."""
        return self.has_started and not self._head

    def news(self) -> None:
        """More of the body is there, or its end, or that of the connection."""
        self._arrived.set()

    async def receive(self) -> Message:
        """ASGI's ``receive``."""
        if self.expects_continue and not self.has_started:
            self.expects_continue = False
            self._wire.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if not self.is_disconnected and not self.is_complete:
            self._wire.resume_reading()
            await self._arrived.wait()
            self._arrived.clear()
        if self.is_disconnected or self.is_complete:
            return {"type": "http.disconnect"}
        body = b""
        if self.body:
            body, self.body = bytes(self.body), bytearray()
            self._wire.has_taken_body()
        return {"type": "http.request", "body": body, "more_body": self.has_more_body}

    async def send(self, message: Message) -> None:
        """ASGI's ``send``; waits only while the client does not take what it was sent."""
        if self._wire.is_write_paused and not self.is_disconnected:
            await self._wire.drain()
        if self.is_disconnected:
            return
        if not self.has_started:
            if message["type"] != "http.response.start":
                raise RuntimeError(f"expected http.response.start, got {message['type']}")
            self._start(message)
        elif self.is_complete:
            raise RuntimeError(f"{message['type']} after the end of the answer")
        elif message["type"] != "http.response.body":
            raise RuntimeError(f"expected http.response.body, got {message['type']}")
        else:
            self._send_body(message.get("body", b""), has_more=message.get("more_body", False))

    def _start(self, message: Message) -> None:
        status: int = message["status"]
        if self.has_more_body and (self.expects_continue or not self.is_small_body):
            # What is left of the body is not worth the wait: whoever sends it is told not to go on.
            self.keep_alive = False
        if self._wire.is_last_answer:
            self.keep_alive = False
        self._has_no_body = self.scope["method"] == "HEAD" or status in {204, 304}
        left = _ANY_LENGTH if self.scope["http_version"] == "1.0" else _CHUNKED
        headers, is_stream = [], False
        for name, value in (*self._wire.default_headers, *message.get("headers", ())):
            if name == b"connection" and b"close" in value.lower():
                self.keep_alive = False  # and said below
                continue
            if name == b"content-length":
                left = int(value)
            elif name == b"content-type" and value.startswith(_STREAM) and not self._has_no_body:
                # Nobody sends a request behind one: what comes is dropped, so that its reader's leaving is seen.
                is_stream, self.keep_alive = True, False
            headers.append((name, value))
        if left == _CHUNKED and not self._has_no_body:
            headers.append((b"transfer-encoding", b"chunked"))
        if not self.keep_alive:
            headers.append((b"connection", b"close"))
        head = answer_head(status, headers)
        self.has_started = True
        self._left = left
        if is_stream:
            self._wire.write(head)
            self._wire.begin_stream()
        else:
            self._head = head

    def _send_body(self, body: bytes, *, has_more: bool) -> None:
        if self._has_no_body:
            body = b""
        elif self._left == _CHUNKED:
            end = b"" if has_more else b"0\r\n\r\n"
            body = b"%x\r\n%b\r\n%b" % (len(body), body, end) if body else end
        elif self._left != _ANY_LENGTH:
            self._left -= len(body)
            if self._left < 0 or (self._left and not has_more):
                raise RuntimeError("the body is not as long as its content-length says")
        head, self._head = self._head, b""
        if head or body:
            self._wire.write(head + body if head else body)
        if not has_more:
            self.is_complete = True
            self._arrived.set()
            self._wire.has_answered()
