"""
The pace towards NanoBanana: submits and questions share one rate.

A moving window on the monotonic clock: a wall clock that is set back holds nobody up. While both wait, every
``QUESTION_EVERY``-th place goes to a question: a result may be waiting for it, and an endless line of submits must
not keep it from ever being asked for.
"""

import asyncio
import collections
from typing import Final

import limits

from nanohook import errors

QUESTION_EVERY: Final = 4

_Waiting = collections.deque["asyncio.Future[None]"]


class Pace:
    """
    Lets through what the rate allows, each kind in the order of asking.

    Args:
        rate: Such as ``20/10 seconds``.
    """

    def __init__(self, rate: str) -> None:
        parsed = limits.parse(rate)
        self._amount, self._window_s = parsed.amount, float(parsed.get_expiry())
        self._taken: collections.deque[float] = collections.deque(maxlen=self._amount)
        """When the newest places were taken, by the event loop's clock."""
        self._submits: _Waiting = collections.deque()
        self._questions: _Waiting = collections.deque()
        self._submits_since = 0
        """Submits let through since the last question."""
        self._timer: asyncio.TimerHandle | None = None
        self._is_closed = False

    def close(self) -> None:
        """Let nobody through any more: the service is going down."""
        self._is_closed = True
        for line in (self._submits, self._questions):
            while line:
                turn = line.popleft()
                if not turn.done():
                    turn.set_exception(_closed())

    async def submit(self) -> None:
        """
        Wait until a submit may go out.

        Raises:
            Unavailable: The service is going down.
        """
        await self._wait(self._submits)

    async def ask(self) -> None:
        """
        Wait until a question may go out.

        Raises:
            Unavailable: The service is going down.
        """
        await self._wait(self._questions)

    async def _wait(self, line: _Waiting) -> None:
        if self._is_closed:
            raise _closed()
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        line.append(turn)
        self._serve()
        # Whoever goes away is passed by when its turn comes; a place that was given already is lost.
        await turn

    def _serve(self) -> None:
        """Give places to who waits, as many as there are; look again when the next one is free."""
        now = asyncio.get_running_loop().time()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while (turn := self._next()) is not None:
            if len(self._taken) == self._amount and now - self._taken[0] < self._window_s:
                free_at = self._taken[0] + self._window_s
                self._timer = asyncio.get_running_loop().call_at(free_at, self._serve)
                return
            self._taken.append(now)
            line = self._line()
            self._submits_since = 0 if line is self._questions else self._submits_since + 1
            line.popleft()
            turn.set_result(None)

    def _next(self) -> "asyncio.Future[None] | None":
        for line in (self._submits, self._questions):
            while line and line[0].done():
                line.popleft()
        line = self._line()
        return line[0] if line else None

    def _line(self) -> _Waiting:
        """Choose whose turn it is."""
        if not self._submits:
            return self._questions
        is_due = self._submits_since >= QUESTION_EVERY - 1
        return self._questions if self._questions and is_due else self._submits


def _closed() -> errors.Unavailable:
    return errors.Unavailable("going down, nothing is sent upstream any more")
