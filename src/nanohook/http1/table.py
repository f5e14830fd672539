"""
The table of connections that we wait for, how long we do, and what they hold.

A connection stands in a queue by what it owes us. Each queue has one time-out, so whoever came first is the first
to be over it: one look a second at the heads of the queues takes the place of a timer for each request. The same
order tells whom to close when there is no room for a newcomer.
"""

import asyncio
import collections
import enum
import itertools
from dataclasses import dataclass
from typing import Final, Protocol

MOST_CONNECTIONS: Final = 16_384
READ_BYTES: Final = 64 * 1024
"""Read at once of one connection, and so the most that it can hold of requests that are not looked at yet."""
_LOOK_S: Final = 1.0
_LOOKED_AT: Final = 16
"""Readers of which the slowest goes: those that pause for longest, so a fast one is seldom among them."""


class Owes(enum.Enum):
    """What a connection is waited for."""

    FIRST_BYTE = "first byte"
    """It is new and has been silent."""
    HEAD = "head"
    """The rest of a request's head."""
    NEXT_REQUEST = "next request"
    """It was answered and is kept alive."""
    END = "end"
    """It had its last answer; what it still sends is thrown away, so that the answer is not lost by a reset."""
    READ = "read"
    """It has not read what it was sent; this beside what else it owes."""


_SILENT_S: Final = {Owes.FIRST_BYTE: 1.0, Owes.HEAD: 1.0, Owes.NEXT_REQUEST: 5.0, Owes.END: 1.0}
"""
So long each of these is spared while slow readers are there to be closed: else newcomers whose request is on its
way would close each other, and the readers stay. In this order, those worth least first.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """How much of a stranger is borne, in bytes, headers, connections and seconds."""

    head_bytes: int = 64 * 1024
    """Request line and headers of one request."""
    headers: int = 100
    unread_bytes: int = 32 * 1024 * 1024
    """Of all that came and that nobody looked at yet: half a head, a body, requests behind the one under way."""
    unsent_bytes: int = 64 * 1024 * 1024
    """Of all answers that are not read; 1,000 pieces of a file."""
    connections: int = MOST_CONNECTIONS
    first_byte_s: float = 20.0
    head_s: float = 10.0
    keep_alive_s: float = 95.0
    """Longer than pools of proxies wait (nginx and AWS 60 s; Caddy 2 min unless told): they must close first."""
    end_s: float = 5.0
    read_s: float = 300.0
    """For one piece of an answer (64 KiB of a file): longer than anybody pauses who comes back."""
    behind_s: float = 1.0
    """So far behind the pace, a reader may be closed for a newcomer; as long as there is room it never is."""
    last_head_s: float = 2.0
    """For the rest of a head while the server goes down."""


class Waiting(Protocol):
    """A connection as the table sees it."""

    def give_up(self, owed: Owes) -> None:
        """Close it: *owed* did not come in time."""

    def cut(self) -> None:
        """Close it at once, and have the table forget it: its place, or what it holds, is needed."""

    def behind_s(self, now: float) -> float:
        """Tell how far its reader is behind the pace."""


class _Held:
    """Bytes that connections hold, each and together."""

    __slots__ = ("of", "total")

    def __init__(self) -> None:
        self.of: dict[Waiting, int] = {}
        self.total = 0

    def set(self, connection: Waiting, size_bytes: int) -> None:
        self.total += size_bytes - self.of.pop(connection, 0)
        if size_bytes:
            self.of[connection] = size_bytes


class Table:
    """Who is waited for; on the event loop alone."""

    def __init__(self, limits: Limits) -> None:
        self.limits: Final = limits
        self.buffer: Final = memoryview(bytearray(READ_BYTES))
        """Where each read lands, before it is looked at: the loop reads for one connection at a time."""
        self.is_ending = False
        """The server goes down: each answer is its connection's last."""
        self._queues: Final[dict[Owes, collections.OrderedDict[Waiting, float]]] = {
            owed: collections.OrderedDict() for owed in Owes
        }
        self._unread: Final = _Held()
        self._unsent: Final = _Held()
        self._timer: asyncio.TimerHandle | None = None

    def wait(self, connection: Waiting, owed: Owes) -> None:
        """Begin to wait for what *connection* owes."""
        loop = asyncio.get_running_loop()
        self._queues[owed].setdefault(connection, loop.time())
        if self._timer is None:
            self._timer = loop.call_later(_LOOK_S, self._look)

    def stop_waiting(self, connection: Waiting, owed: Owes) -> None:
        """It came, or the connection is gone."""
        self._queues[owed].pop(connection, None)

    def end(self) -> None:
        """The server goes down."""
        self.is_ending = True

    def make_room(self) -> bool:
        """Close the connection that is worth least; ``False``: all are at work, and read what they are sent."""
        now = asyncio.get_running_loop().time()
        found = (
            next(filter(None, (self._first(owed, now - silent_s) for owed, silent_s in _SILENT_S.items())), None)
            or self._slowest(now)
            or next(filter(None, (self._first(owed, now) for owed in _SILENT_S)), None)
        )
        if found is None:
            return False
        found.cut()
        return True

    def hold_unread(self, connection: Waiting, size_bytes: int) -> None:
        """
        Note that *connection* holds so much that nobody looked at; over the limit, those that hold most go.

        Down to three quarters of it, so that the next to hold something need not look at them all again.
        """
        self._unread.set(connection, size_bytes)
        if self._unread.total > self.limits.unread_bytes:
            for largest in sorted(self._unread.of, key=self._unread.of.__getitem__, reverse=True):
                if self._unread.total <= self.limits.unread_bytes * 3 // 4:
                    return
                largest.cut()

    def hold_unsent(self, connection: Waiting, size_bytes: int) -> None:
        """Note that *connection* has not read so much of its answer; over the limit, the longest paused go."""
        self._unsent.set(connection, size_bytes)
        if size_bytes:
            self.wait(connection, Owes.READ)
        else:
            self.stop_waiting(connection, Owes.READ)
        while self._unsent.total > self.limits.unsent_bytes:
            next(iter(self._queues[Owes.READ])).cut()

    def forget(self, connection: Waiting) -> None:
        """Let go of a connection that is gone."""
        for queue in self._queues.values():
            queue.pop(connection, None)
        self._unread.set(connection, 0)
        self._unsent.set(connection, 0)

    def _first(self, owed: Owes, until: float) -> Waiting | None:
        """Find who has owed this for longest, since *until* at least."""
        connection, since = next(iter(self._queues[owed].items()), (None, 0.0))
        return connection if since <= until else None

    def _slowest(self, now: float) -> Waiting | None:
        longest = list(itertools.islice(self._queues[Owes.READ], _LOOKED_AT))
        slowest = max(longest, key=lambda each: each.behind_s(now), default=None)
        return None if slowest is None or slowest.behind_s(now) < self.limits.behind_s else slowest

    def _seconds(self, owed: Owes) -> float:
        limits = self.limits
        return {
            Owes.FIRST_BYTE: limits.first_byte_s,
            Owes.HEAD: limits.last_head_s if self.is_ending else limits.head_s,
            Owes.NEXT_REQUEST: limits.keep_alive_s,
            Owes.END: limits.end_s,
            Owes.READ: limits.read_s,
        }[owed]

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        for owed, queue in self._queues.items():
            until = now - self._seconds(owed)
            while (connection := self._first(owed, until)) is not None:
                del queue[connection]
                connection.give_up(owed)
        is_empty = not any(self._queues.values())
        self._timer = None if is_empty else loop.call_later(_LOOK_S, self._look)
