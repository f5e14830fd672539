"""Turns at what takes long: one at a time for each person, a few at once for all, and everybody in turn."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final

from nanohook import errors
from nanohook.fair_queue import FairQueue

MAX_WAITING_OF_ONE: Final = 32
"""Requests of one person that wait for a turn; a browser has six connections."""
MAX_WAITING: Final = 512
"""Requests of everybody that wait for a turn."""
_COME_BACK_S: Final = 2


class Turns:
    """
    Lets requests through in turn; on the event loop alone.

    Args:
        limit: How many at once, each of another person.
        name: What they wait to do, as it is told to who is refused.
        max_waiting_of_one: Requests of one person that wait.
        max_waiting: Requests of everybody that wait.
    """

    def __init__(
        self,
        limit: int,
        *,
        name: str,
        max_waiting_of_one: int = MAX_WAITING_OF_ONE,
        max_waiting: int = MAX_WAITING,
    ) -> None:
        self._limit = limit
        self._name = name
        self._max_waiting_of_one = max_waiting_of_one
        self._busy: set[str] = set()
        self._waiting: FairQueue[asyncio.Future[None]] = FairQueue(
            max_of_one=max_waiting_of_one, max_of_all=max_waiting
        )

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._waiting)

    @contextlib.asynccontextmanager
    async def take(self, owner_id: str) -> AsyncIterator[None]:
        """
        Wait for a turn of *owner_id*, and hold it.

        Raises:
            TooMany: As many of this person's wait as may.
            Unavailable: As many of everybody's do.
        """
        if len(self._busy) < self._limit and owner_id not in self._busy:
            # Whoever waits then waits for a turn of their own to end.
            self._busy.add(owner_id)
        else:
            await self._wait(owner_id)
        try:
            yield
        finally:
            self._end(owner_id)

    async def _wait(self, owner_id: str) -> None:
        if self._waiting.is_full_for(owner_id):
            raise errors.TooMany(
                f"at most {self._max_waiting_of_one} {self._name} wait",
                code="too_many_waiting",
                retry_after_s=_COME_BACK_S,
            )
        if self._waiting.is_full:
            raise errors.Unavailable(f"too many {self._name} wait, try again", retry_after_s=_COME_BACK_S)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.put(owner_id, turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # it had just come
                self._end(owner_id)
            self._waiting.remove(owner_id, turn)
            raise

    def _end(self, owner_id: str) -> None:
        """End a turn of *owner_id*; the next begins, of somebody else if anybody else waits."""
        had = set(self._busy)
        self._busy.discard(owner_id)
        while len(self._busy) < self._limit:
            without = had if self._waiting.waits(without=had) else self._busy
            if not self._waiting.waits(without=without):
                return
            whose, turn = self._waiting.pop(without=without)
            if not turn.done():  # else they have gone away
                self._busy.add(whose)
                had.add(whose)
                turn.set_result(None)
