"""The sending side of a connection: who is sent something waits until the client has read what came before."""

import asyncio
from typing import Final

from nanohook.http1.pace import Pace
from nanohook.http1.table import Owes, Table

_UNSENT_BYTES: Final = 4 * 1024
"""Of an answer that the kernel does not take; more, and it is counted, and whoever answers waits."""


class FlowControl(asyncio.BufferedProtocol):
    """
    What asyncio's own mixin of this name does, and an account of it in the table.

    Args:
        table: Of all connections of this server.
    """

    __slots__ = ("_drained", "_loop", "_pace", "_table", "_transport", "is_write_paused")

    def __init__(self, table: Table, loop: asyncio.AbstractEventLoop) -> None:
        self._table = table
        self._loop = loop
        self._transport: asyncio.Transport
        self._drained: asyncio.Event | None = None
        self._pace: Pace | None = None
        self.is_write_paused = False

    def begin_sending(self, transport: asyncio.Transport) -> None:
        """Send over *transport*."""
        self._transport = transport
        transport.set_write_buffer_limits(high=_UNSENT_BYTES)

    def end_sending(self) -> None:
        """Nothing can be sent any more: whoever waits is told."""
        if self._drained is not None:
            self._drained.set()

    def pause_writing(self) -> None:
        """The client reads less than it is sent."""
        self.is_write_paused = True
        self._begin_pace()
        self._table.hold_unsent(self, self._transport.get_write_buffer_size())
        if self._drained is not None:
            self._drained.clear()

    def resume_writing(self) -> None:
        """It has caught up."""
        self.is_write_paused = False
        if self._pace is not None:
            self._pace.end(self._loop.time(), self._transport.get_write_buffer_size())
        if not self._transport.is_closing():
            self._table.hold_unsent(self, 0)
        if self._drained is not None:
            self._drained.set()

    def behind_s(self, now: float) -> float:
        """Tell how far the client is behind the pace in reading what it is sent."""
        return 0.0 if self._pace is None else self._pace.behind_s(now, self._transport.get_write_buffer_size())

    async def drain(self) -> None:
        """Wait until the client has caught up."""
        if self._drained is None:
            self._drained = asyncio.Event()
        if self.is_write_paused:
            await self._drained.wait()

    def write(self, data: bytes) -> None:
        """Send *data*."""
        self._transport.write(data)

    def close(self) -> None:
        """Close once the client has read what it was sent."""
        if self._transport.get_write_buffer_size():
            if not self.is_write_paused:
                self._begin_pace()
            self._table.wait(self, Owes.READ)
        self._transport.close()

    def abort(self) -> None:
        """Cut the connection."""
        self._transport.abort()

    def give_up(self, owed: Owes) -> None:
        """Close: *owed* did not come in time."""
        raise NotImplementedError

    def cut(self) -> None:
        """Cut the connection at once, and have the table forget it."""
        self._table.forget(self)
        self._transport.abort()

    def _begin_pace(self) -> None:
        self._pace = self._pace or Pace()
        self._pace.begin(self._loop.time(), self._transport.get_write_buffer_size())
