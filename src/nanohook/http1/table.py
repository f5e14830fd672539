"""
The table of connections that we wait for, and how long we do.

A connection without a request under way stands in one of four queues, by what it owes us. Each queue has one
time-out, so whoever came first is the first to be over it: one look a second at the heads of the queues takes the
place of a timer for each request. The same order tells whom to close when there is no room for a newcomer.
"""

import asyncio
import collections
import enum
from dataclasses import dataclass
from typing import Final, Protocol

MOST_CONNECTIONS: Final = 16_384
_LOOK_S: Final = 1.0


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


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """How much of a stranger is borne, in bytes, headers, connections and seconds."""

    head_bytes: int = 64 * 1024
    """Request line and headers of one request."""
    headers: int = 100
    all_heads_bytes: int = 32 * 1024 * 1024
    """Of all heads that are not whole yet."""
    connections: int = MOST_CONNECTIONS
    first_byte_s: float = 20.0
    head_s: float = 10.0
    keep_alive_s: float = 95.0
    """Longer than pools of proxies wait (nginx and AWS 60 s, Caddy 90 s): they must be the first to close."""
    end_s: float = 5.0

    def seconds(self, owed: Owes) -> float:
        """Tell how long *owed* is waited for."""
        return {
            Owes.FIRST_BYTE: self.first_byte_s,
            Owes.HEAD: self.head_s,
            Owes.NEXT_REQUEST: self.keep_alive_s,
            Owes.END: self.end_s,
        }[owed]


class Waiting(Protocol):
    """A connection as the table sees it."""

    def give_up(self, owed: Owes) -> None:
        """Close it: *owed* did not come in time, or somebody else needs its place."""


class Table:
    """Who is waited for; on the event loop alone."""

    def __init__(self, limits: Limits) -> None:
        self.limits: Final = limits
        self._queues: Final[dict[Owes, collections.OrderedDict[Waiting, float]]] = {
            owed: collections.OrderedDict() for owed in Owes
        }
        self._heads_bytes = 0
        self._timer: asyncio.TimerHandle | None = None

    def wait(self, connection: Waiting, owed: Owes) -> None:
        """Begin to wait for what *connection* owes."""
        loop = asyncio.get_running_loop()
        self._queues[owed][connection] = loop.time()
        if self._timer is None:
            self._timer = loop.call_later(_LOOK_S, self._look)

    def stop_waiting(self, connection: Waiting, owed: Owes) -> None:
        """It came, or the connection is gone."""
        self._queues[owed].pop(connection, None)

    def make_room(self) -> bool:
        """Close the connection that is worth least, the longest silent one; ``False``: all are at work."""
        return any(self._give_up_first(owed) for owed in Owes)

    def hold(self, size_bytes: int) -> None:
        """Count bytes of heads that are not whole, below 0 those gone; over the limit, the oldest head goes."""
        self._heads_bytes += size_bytes
        while self._heads_bytes > self.limits.all_heads_bytes and self._give_up_first(Owes.HEAD):
            pass

    def _give_up_first(self, owed: Owes) -> bool:
        queue = self._queues[owed]
        if not queue:
            return False
        connection, _ = queue.popitem(last=False)
        connection.give_up(owed)
        return True

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        for owed, queue in self._queues.items():
            over = now - self.limits.seconds(owed)
            while queue and next(iter(queue.values())) <= over:
                self._give_up_first(owed)
        is_empty = not any(self._queues.values())
        self._timer = None if is_empty else loop.call_later(_LOOK_S, self._look)
