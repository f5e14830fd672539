"""
A connection: what comes over it is cut into requests, one at a time.

Source: RFC 9112 (HTTP/1.1), sections 2.2, 6 and 9.
"""

import asyncio
import logging
import re
from typing import Any, Final, cast

from uvicorn.config import Config
from uvicorn.protocols.utils import get_local_addr, get_remote_addr
from uvicorn.server import ServerState

from nanohook.http1 import head as heads
from nanohook.http1 import options, refusal, sockets
from nanohook.http1.chunks import Chunks
from nanohook.http1.exchange import HIGH_WATER_BYTES, Exchange
from nanohook.http1.flow_control import FlowControl
from nanohook.http1.head import Head, Refused
from nanohook.http1.table import Owes, Table

logger = logging.getLogger(__name__)

_END: Final = b"\r\n\r\n"
_LONE_LF: Final = re.compile(rb"(?<!\r)\n")
_SMALL_BYTES: Final = 64 * 1024
"""A rest of a body that is read though nobody wants it: the connection can then be used again."""
PIPELINED_S: Final = 0.02
"""
From an answer to a request that came before it (pipelining): hundreds in one packet keep nobody else waiting. A
client that waits for each answer loses nothing: its next request comes a round trip later.
"""
_END_S: Final = 15 * 60.0
"""How long a client may go on sending after its last answer: as long as an upload may take, on a slow line."""


class Connection(FlowControl):
    """
    One client's connection, as uvicorn makes it.

    Args:
        table: Of all connections of this server.
    """

    __slots__ = (
        "_app",
        "_app_state",
        "_chunks",
        "_client",
        "_ends_at",
        "_exchange",
        "_is_half_closed",
        "_is_read_paused",
        "_is_stream",
        "_left",
        "_owes",
        "_searched",
        "_server",
        "_state",
        "_unread",
    )

    def __init__(
        self,
        *,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        table: Table,
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(table, _loop or asyncio.get_running_loop())
        self._app: Any = config.loaded_app
        self._app_state = app_state
        self._state = server_state
        self._owes: Owes | None = None
        self._client: tuple[str, int] | None = None
        self._server: tuple[str, int | None] | None = None
        self._is_read_paused = self._is_half_closed = self._is_stream = False
        self._exchange: Exchange | None = None
        self._unread = b""
        """What came and cannot be used yet: part of a head, or what follows the request that is being answered."""
        self._searched = 0
        """So much of it holds no end of a head."""
        self._left = 0
        """Bytes of the body still to come."""
        self._chunks: Chunks | None = None
        """The body still to come, if it comes in chunks."""
        self._ends_at = 0.0
        """When the last is read of a client that has had its last answer."""

    # What the transport tells.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection in, in the place of another if there is no room."""
        self.begin_sending(cast("asyncio.Transport", transport))
        connections = self._state.connections
        if len(connections) >= self._table.limits.connections and not self._table.make_room():
            logger.warning("http.no_room", extra={"connections": len(connections)})
            self._transport.abort()
            return
        connections.add(self)  # type: ignore[arg-type]
        self._server = get_local_addr(self._transport)
        self._client = get_remote_addr(self._transport)
        self._wait(Owes.FIRST_BYTE)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - however it was lost
        """Let go of everything."""
        self._state.connections.discard(self)
        self._owes = None
        self._unread = b""
        self._table.forget(self)
        self._lose_exchange()
        self.end_sending()

    def eof_received(self) -> bool:
        """
        The client sends no more. Whoever has asked may still wait for the answer, and is not closed before it.

        Who reads a stream sends no more either when it leaves, and says so in no other way.

        Source: RFC 9112, section 9.6.
        """
        exchange = self._exchange
        self._is_half_closed = exchange is not None and not exchange.has_more_body and not self._is_stream
        if not self._is_half_closed:
            self.close()
        return self._is_half_closed

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - the loop's own wish
        """Say where to read to: no read takes more than the buffer that all connections share."""
        return self._table.buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Take what came; what cannot be used yet is kept."""
        if self._is_stream:
            return
        if self._owes is Owes.END:
            if self._loop.time() < self._ends_at:
                self._wait(Owes.END)
            return
        data = bytes(self._table.buffer[:nbytes])
        if self._unread:
            data = self._unread + data
            self._keep(b"")
        self._take(data)

    # What the server and the table tell.

    def shutdown(self) -> None:
        """Close once the request under way is answered; half a head is one, if the rest comes soon."""
        self._table.end()
        if self._exchange is not None:
            self._exchange.keep_alive = False
        elif not self._unread:
            self.close()

    def abort_if_begun(self) -> None:
        """Cut the connection, unless its request can still be refused: no word of the answer has been said."""
        if self._exchange is None or self._exchange.is_out:
            self.cut()

    def give_up(self, owed: Owes) -> None:
        """Close: *owed* did not come in time."""
        if owed in {Owes.END, Owes.READ}:
            self.cut()
            return
        self._owes = None
        if owed is Owes.HEAD and not self._left:
            self._refuse(Refused(408, "too_slow", "the request did not come in time"))
        else:
            self.close()

    def close(self) -> None:
        """Close once the client has read what it was sent."""
        self._wait(None)
        super().close()

    def cut(self) -> None:
        """Cut the connection at once, and have the table forget it."""
        self._owes = None
        self._unread = b""
        super().cut()

    # What an exchange tells.

    @property
    def default_headers(self) -> list[tuple[bytes, bytes]]:
        """Headers of every answer."""
        return self._state.default_headers

    @property
    def is_last_answer(self) -> bool:
        """The server goes down, or the client has said that it sends no more."""
        return self._table.is_ending or self._is_half_closed

    def begin_stream(self) -> None:
        """Read on, to see the reader leave; what it sends is dropped."""
        if self._is_half_closed:
            self.close()
            return
        self._is_stream = True
        self._keep(b"")
        sockets.set_for_stream(self._transport)
        self.resume_reading()

    def has_taken_body(self) -> None:
        """Count what is still to be looked at."""
        self._count()

    def has_answered(self) -> None:
        """Go on with the next request, or part."""
        exchange, self._exchange = self._exchange, None
        self._state.total_requests += 1
        if exchange is None or self._transport.is_closing():
            return
        if not exchange.keep_alive:
            self._part(is_read=self._is_half_closed or not (exchange.has_more_body or self._unread))
            return
        self.resume_reading()
        if self._left:
            self._wait(Owes.HEAD)  # the rest of a small body that the answer did not wait for
        elif self._unread:
            self._loop.call_later(PIPELINED_S, self._go_on)
        elif self._is_half_closed:
            self.close()
        else:
            self._wait(Owes.NEXT_REQUEST)

    def pause_reading(self) -> None:
        """Let the client wait."""
        if not self._is_read_paused and not self._transport.is_closing():
            self._is_read_paused = True
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Let it send again, unless what it sent already is still to be used."""
        if self._is_read_paused and not self._unread and not self._transport.is_closing():
            self._is_read_paused = False
            self._transport.resume_reading()

    # Cutting what came into requests.

    def _go_on(self) -> None:
        data = self._unread
        if data and self._exchange is None and not self._transport.is_closing():
            self._keep(b"")
            self._take(data)
            if self._exchange is None and self._owes is None:
                self._wait(Owes.NEXT_REQUEST)  # it was a line too many behind a body, and no more
            self.resume_reading()

    def _take(self, data: bytes) -> None:
        try:
            while data and not self._transport.is_closing():
                if self._chunks is not None:
                    data = self._take_chunks(self._chunks, data)
                elif self._left:
                    data = self._take_content(data)
                elif self._exchange is None:
                    data = self._take_head(data)
                else:
                    # One request at a time: the next is read when this one is answered.
                    self.pause_reading()
                    self._keep(data)
                    return
        except Refused as exc:
            self._refuse(exc)

    def _take_head(self, data: bytes) -> bytes:
        """Begin a request if its head is whole; return what follows the head."""
        searched, self._searched = self._searched, 0
        if data[0] in b"\r\n":
            # Some send a line too many behind a body.
            data = data.lstrip(b"\r\n")
            if not data:
                return data
        end = data.find(_END, max(0, searched - len(_END)))
        limits = self._table.limits
        if (len(data) if end < 0 else end + len(_END)) > limits.head_bytes:
            raise Refused(431, "head_too_large", f"a request's head has at most {limits.head_bytes} bytes")
        if end < 0:
            if _LONE_LF.search(data, searched) is not None:
                raise Refused(400, "bad_request", "lines of a head end with CR LF")
            if self._owes is not Owes.HEAD:
                self._wait(Owes.HEAD)
            self._keep(data, searched=len(data))
            return b""
        head, rest = data[: end + len(_END)], data[end + len(_END) :]
        if head.count(b"\n") - 2 > limits.headers:
            raise Refused(431, "too_many_headers", f"a request has at most {limits.headers} headers")
        self._begin(heads.parse(head))
        return rest

    def _begin(self, head: Head) -> None:
        """Have a request answered."""
        scope = head.scope(server=self._server, client=self._client, state=self._app_state)
        exchange = Exchange(self, scope, keep_alive=head.keeps_alive, expects_continue=head.expects_continue)
        self._exchange = exchange
        if head.is_chunked:
            self._chunks = Chunks()
        elif head.length:
            self._left = head.length
            exchange.is_small_body = head.length <= _SMALL_BYTES
        else:
            self._end_body()
        self._wait(None)
        app = options.is_up if head.method == "OPTIONS" and options.is_about_server(head) else self._app
        task = self._loop.create_task(exchange.run(app))
        self._state.tasks.add(task)
        task.add_done_callback(self._state.tasks.discard)

    def _take_content(self, data: bytes) -> bytes:
        part, rest = data[: self._left], data[self._left :]
        self._left -= len(part)
        self._take_body(part)
        if not self._left:
            self._end_body()
        return rest

    def _take_chunks(self, chunks: Chunks, data: bytes) -> bytes:
        body, rest = chunks.feed(data)
        if body:
            self._take_body(body)
        if chunks.is_whole:
            self._chunks = None
            self._end_body()
        return rest

    def _take_body(self, part: bytes) -> None:
        exchange = self._exchange
        if exchange is None:
            return  # answered already
        exchange.body += part
        if len(exchange.body) > HIGH_WATER_BYTES:
            self.pause_reading()
        self._count()
        exchange.news()

    def _end_body(self) -> None:
        if self._exchange is None:
            self._wait(Owes.NEXT_REQUEST)
            return
        self._exchange.has_more_body = False
        self._exchange.news()

    # Parting.

    def _refuse(self, exc: Refused) -> None:
        """Answer a request that nobody else will see, and part."""
        self._keep(b"")
        logger.info("http.refused", extra={"status": exc.status, "code": exc.code, "peer": self._client})
        if self._lose_exchange():
            # Its answer is half out: nothing can be said any more.
            self._transport.abort()
            return
        self.write(refusal.answer(exc, default_headers=self.default_headers))
        self._part(is_read=False)

    def _lose_exchange(self) -> bool:
        """Tell whoever answers that nobody listens any more; tell whether an answer had begun."""
        exchange, self._exchange = self._exchange, None
        if exchange is None:
            return False
        exchange.is_disconnected = True
        exchange.body.clear()
        exchange.news()
        return exchange.is_out

    def _part(self, *, is_read: bool) -> None:
        """Close; if not all that was sent *is_read*, only after a while: a reset would take the answer with it."""
        self._left, self._chunks = 0, None
        self._keep(b"")
        if is_read or not self._transport.can_write_eof():
            self.close()
            return
        self._transport.write_eof()
        self.resume_reading()
        self._ends_at = self._loop.time() + _END_S
        self._wait(Owes.END)

    def _wait(self, owed: Owes | None) -> None:
        if self._owes is not None:
            self._table.stop_waiting(self, self._owes)
        self._owes = owed
        if owed is not None:
            self._table.wait(self, owed)

    def _keep(self, data: bytes, *, searched: int = 0) -> None:
        if data or self._unread:
            self._unread = data
            self._searched = searched
            self._count()

    def _count(self) -> None:
        body_bytes = 0 if self._exchange is None else len(self._exchange.body)
        self._table.hold_unread(self, len(self._unread) + body_bytes)
