"""
The pace towards NanoBanana: submits and questions share one rate.

A moving window on the monotonic clock: a wall clock that is set back holds nobody up. While both wait, every
``QUESTION_EVERY``-th place goes to a question: a result may be waiting for it, and an endless line of submits must
not keep it from ever being asked for. Of questions those come first that a deadline waits for, then the service's
own; what people ask for comes on top of these, and is shared between them (round robin).

Submits are shared between people in the same way. A window that one of them has filled in a burst is closed to
everybody until it has moved on: so, while others are here, what one person takes of it beyond a part is spread
evenly over it, and whoever comes next waits for one place and not for the window. Once they wait for the burst of
somebody who was alone.
"""

import asyncio
import collections
from collections.abc import Container
from typing import Final

import limits

from nanohook import errors
from nanohook.fair_queue import FairQueue

QUESTION_EVERY: Final = 4
BURST_PART: Final = 4
"""One person takes a part of the window at once, while others are here: this one, a quarter."""
MAX_CHECKS_OF_ONE: Final = 8
"""Questions of one person that wait: two jobs of four pictures."""
MAX_CHECKS: Final = 128
"""Questions of everybody that wait: people wait for ten seconds, and the default rate has 20 places in these."""

_Line = FairQueue["asyncio.Future[None]"]


class Pace:
    """
    Lets through what the rate allows, each kind in the order of asking.

    Args:
        rate: Such as ``20/10 seconds``.
    """

    def __init__(self, rate: str) -> None:
        parsed = limits.parse(rate)
        self._amount, self._window_s = parsed.amount, float(parsed.get_expiry())
        self._taken: collections.deque[tuple[float, str]] = collections.deque()
        """The places of the window: when each was taken, by the event loop's clock, and for whom, if anybody."""
        self._of: collections.Counter[str] = collections.Counter()
        """Places of the window that each person has."""
        self._newest: dict[str, float] = {}
        """When each of these people's newest was."""
        # Those who submit, and those who ask, have places of their own: few at once.
        self._submits: _Line = FairQueue()
        self._deadlines: _Line = FairQueue()
        self._questions: _Line = FairQueue()
        self._checks: _Line = FairQueue(max_of_one=MAX_CHECKS_OF_ONE, max_of_all=MAX_CHECKS)
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

    async def submit(self, owner_id: str) -> None:
        """
        Wait until a submit of *owner_id* may go out.

        Raises:
            Unavailable: The service is going down.
        """
        await self._wait(self._submits, owner_id)

    async def ask(self, owner_id: str = "", *, is_for_deadline: bool = False) -> None:
        """
        Wait until a question of the service's own may go out.

        Args:
            owner_id: Whose task it is about, if about any.
            is_for_deadline: That is past its deadline, and waits for this answer alone.

        Raises:
            Unavailable: The service is going down.
        """
        if is_for_deadline:  # in the order of asking, whose it may be: nobody's is held back
            await self._wait(self._deadlines, "")
        else:
            await self._wait(self._questions, owner_id)

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
        await self._wait(self._checks, owner_id)
        return True

    async def _wait(self, line: _Line, owner_id: str) -> None:
        turn = self._turn()
        line.put(owner_id, turn)
        self._serve()
        try:
            await turn
        finally:
            line.remove(owner_id, turn)

    def _turn(self) -> "asyncio.Future[None]":
        if self._is_closed:
            raise _closed()
        return asyncio.get_running_loop().create_future()

    def _serve(self) -> None:
        """Give places to who waits, as many as there are; look again when the next one is free."""
        now = asyncio.get_running_loop().time()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._move_on(now)
        while True:
            held_back = self._held_back(now)
            line = self._line(held_back)
            if line is None or len(self._taken) >= self._amount:
                break
            whose, turn = line.pop(without=held_back)
            if turn.done():  # whoever waited has gone away
                continue
            self._submits_since = self._submits_since + 1 if line is self._submits else 0
            self._take(now, whose)
            turn.set_result(None)
        if line is not None:
            self._look_at(self._taken[0][0] + self._window_s)
        elif held_back:
            self._look_at(min(held_back.values()))

    def _look_at(self, when: float) -> None:
        self._timer = asyncio.get_running_loop().call_at(when, self._serve)

    def _move_on(self, now: float) -> None:
        """Forget the places that the window has left behind."""
        while self._taken and now - self._taken[0][0] >= self._window_s:
            _, whose = self._taken.popleft()
            if not whose:
                continue
            self._of[whose] -= 1
            if not self._of[whose]:
                del self._of[whose], self._newest[whose]

    def _take(self, now: float, whose: str) -> None:
        self._taken.append((now, whose))
        if whose:
            self._of[whose] += 1
            self._newest[whose] = now

    def _held_back(self, now: float) -> dict[str, float]:
        """Tell who has to wait though there may be places, and until when."""
        waiting = {*self._submits.people, *self._questions.people, *self._checks.people}
        if len(self._of.keys() | waiting - {""}) < 2:  # noqa: PLR2004 - nobody else is here
            return {}
        apart_s, burst = self._window_s / self._amount, max(1, self._amount // BURST_PART)
        until = {each: self._newest[each] + apart_s for each in waiting if self._of[each] >= burst}
        return {each: at for each, at in until.items() if at > now}

    def _line(self, held_back: Container[str]) -> _Line | None:
        """Choose whose turn it is."""
        questions = (self._deadlines, self._questions, self._checks)
        asking = next((line for line in questions if line.waits(without=held_back)), None)
        if not self._submits.waits(without=held_back):
            return asking
        is_due = self._submits_since >= QUESTION_EVERY - 1
        return self._submits if asking is None or not is_due else asking


def _closed() -> errors.Unavailable:
    return errors.Unavailable("going down, nothing is sent upstream any more")
