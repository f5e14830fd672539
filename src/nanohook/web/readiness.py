"""Ready as long as a write went through lately and the service is not going down."""

import asyncio
import time
from typing import Final

from nanohook import clock, errors
from nanohook.database import Database, Transaction
from nanohook.stores import facts

PROOF_EVERY_S: Final = 5.0
"""A write proves that the service can take callbacks; it is made at most this often."""

PROOF_S: Final = 2.0

TOLD_FOR_S: Final = 600.0
"""A jump of the wall clock is told of for so long."""


class Readiness:
    """What a load balancer asks for."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._proved_at = float("-inf")
        """By the monotonic clock, as all intervals."""
        self._jumped: tuple[float, float] | None = None
        self.is_draining = False

    async def check(self) -> None:
        """
        Prove that a callback could be taken.

        Raises:
            Unavailable: It could not.
        """
        self._database.file.check()
        if self.is_draining:
            raise errors.Unavailable("the service is going down", code="draining")
        now_s = time.monotonic()
        if now_s - self._proved_at < PROOF_EVERY_S:
            return

        async def prove(tx: Transaction) -> None:
            await facts.put(tx, "ready_at", str(clock.now_us()))

        try:
            async with asyncio.timeout(PROOF_S):
                # Offered, not written: a full line is a reason, not something to wait for.
                await self._database.offer(prove)
        except TimeoutError:
            raise errors.Unavailable("the database does not commit", code="database_slow") from None
        self._proved_at = now_s

    def clock_jumped(self, seconds: float) -> None:
        """Note that the wall clock was set, by so many seconds; below 0: back."""
        self._jumped = seconds, time.monotonic()

    @property
    def clock_jump_s(self) -> float | None:
        """By how much the wall clock was set within the last ``TOLD_FOR_S``; ``None``: it was not."""
        if self._jumped is None or time.monotonic() - self._jumped[1] > TOLD_FOR_S:
            return None
        return self._jumped[0]
