"""The pace towards NanoBanana: submits and questions share one rate, and submits go first."""

import asyncio
import time
from typing import Final

import limits
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import MovingWindowRateLimiter

from nanohook import errors

MOST_BEHIND_S: Final = 10.0
"""A question lets submits go first for so long; a result may be waiting for it."""
_LEAST_WAIT_S: Final = 0.01


class Pace:
    """
    Lets through what the rate allows.

    Args:
        rate: Such as ``20/10 seconds``.
    """

    def __init__(self, rate: str) -> None:
        self._rate = limits.parse(rate)
        self._limiter = MovingWindowRateLimiter(MemoryStorage())
        self._submits_waiting = 0
        self._turn = asyncio.Lock()
        """Goes round in the order of asking: who has waited long enough is not passed by again."""
        self._no_submits = asyncio.Event()
        self._no_submits.set()
        self._is_closed = False

    def close(self) -> None:
        """Let nobody through any more: the service is going down."""
        self._is_closed = True

    async def submit(self) -> None:
        """
        Wait until a submit may go out.

        Raises:
            Unavailable: The service is going down.
        """
        self._submits_waiting += 1
        self._no_submits.clear()
        try:
            async with self._turn:
                await self._take()
        finally:
            self._submits_waiting -= 1
            if not self._submits_waiting:
                self._no_submits.set()

    async def ask(self) -> None:
        """Wait until a question may go out: after the submits that wait, but not behind an endless line."""
        try:
            async with asyncio.timeout(MOST_BEHIND_S):
                await self._no_submits.wait()
        except TimeoutError:
            async with self._turn:
                await self._take()
        else:
            await self._take()

    async def _take(self) -> None:
        while self._is_closed or not await self._limiter.hit(self._rate, "upstream"):
            if self._is_closed:
                raise errors.Unavailable("going down, nothing is sent upstream any more")
            window = await self._limiter.get_window_stats(self._rate, "upstream")
            await asyncio.sleep(max(_LEAST_WAIT_S, window.reset_time - time.time()))
