"""
The pace towards NanoBanana: submits and questions share one rate.

A moving window on the monotonic clock: a wall clock that is set back holds nobody up. While both wait, every
``QUESTION_EVERY``-th place goes to a question: a result may be waiting for it, and an endless line of submits must
not keep it from ever being asked for. Of questions those come first that a deadline waits for, then the service's
own; what people ask for comes on top of these, and is shared between them (round robin).
"""

import asyncio
import collections
from typing import Final

import limits

from nanohook import errors
from nanohook.fair_queue import FairQueue

QUESTION_EVERY: Final = 4
MAX_CHECKS_OF_ONE: Final = 8
"""Questions of one person that wait: two jobs of four pictures."""
MAX_CHECKS: Final = 128
"""Questions of everybody that wait: people wait for ten seconds, and the default rate has 20 places in these."""

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
        self._deadlines: _Waiting = collections.deque()
        self._questions: _Waiting = collections.deque()
        self._checks: FairQueue[asyncio.Future[None]] = FairQueue(
            max_of_one=MAX_CHECKS_OF_ONE, max_of_all=MAX_CHECKS
        )
        self._submits_since = 0
        """Submits let through since the last question."""
        self._timer: asyncio.TimerHandle | None = None
        self._is_closed = False

    def close(self) -> None:
        """Let nobody through any more: the service is going down."""
        self._is_closed = True
        for turn in (*self._submits, *self._deadlines, *self._questions, *self._checks):
            if not turn.done():
                turn.set_exception(_closed())

    async def submit(self) -> None:
        """
        Wait until a submit may go out.

        Raises:
            Unavailable: The service is going down.
        """
        await self._wait(self._submits)

    async def ask(self, *, is_for_deadline: bool = False) -> None:
        """
        Wait until a question of the service's own may go out.

        Args:
            is_for_deadline: A task is past its deadline, and waits for this answer alone.

        Raises:
            Unavailable: The service is going down.
        """
        await self._wait(self._deadlines if is_for_deadline else self._questions)

    async def check(self, owner_id: str) -> bool:
        """
        Wait until a question may go out that a person asks for.

        Returns:
            ``False`` at once: too many of this person's wait, or of everybody's.

        Raises:
            Unavailable: The service is going down.
        """
        if self._is_closed:
            raise _closed()
        if self._checks.is_full_for(owner_id) or self._checks.is_full:
            return False
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._checks.put(owner_id, turn)
        self._serve()
        try:
            await turn
        finally:
            self._checks.remove(owner_id, turn)
        return True

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
        while (line := self._line()) is not None:
            if len(self._taken) == self._amount and now - self._taken[0] < self._window_s:
                free_at = self._taken[0] + self._window_s
                self._timer = asyncio.get_running_loop().call_at(free_at, self._serve)
                return
            turn = line.pop()[1] if isinstance(line, FairQueue) else line.popleft()
            if turn.done():  # whoever waited has gone away
                continue
            self._taken.append(now)
            self._submits_since = self._submits_since + 1 if line is self._submits else 0
            turn.set_result(None)

    def _line(self) -> "_Waiting | FairQueue[asyncio.Future[None]] | None":
        """Choose whose turn it is."""
        asking = next((line for line in (self._deadlines, self._questions, self._checks) if line), None)
        if not self._submits:
            return asking
        is_due = self._submits_since >= QUESTION_EVERY - 1
        return self._submits if asking is None or not is_due else asking


def _closed() -> errors.Unavailable:
    return errors.Unavailable("going down, nothing is sent upstream any more")
