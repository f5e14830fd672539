"""Ready as long as a write went through lately and the service is not going down."""

import asyncio
from typing import Final

from nanohook import clock, errors
from nanohook.database import Database, Transaction
from nanohook.stores import facts

PROOF_US: Final = 5_000_000
"""A write proves that the service can take callbacks; it is made at most this often."""

PROOF_S: Final = 2.0


class Readiness:
    """What a load balancer asks for."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._proved_at = 0
        self.is_draining = False
        self.dead_part: str | None = None
        """A part of the service that ended by an error: it must be started anew."""

    async def check(self) -> None:
        """
        Prove that a callback could be taken.

        Raises:
            Unavailable: It could not.
        """
        if self.is_draining:
            raise errors.Unavailable("the service is going down", code="draining")
        if self.dead_part is not None:
            raise errors.Unavailable(f"the service's {self.dead_part} has died", code="part_died")
        now = clock.now_us()
        if now - self._proved_at < PROOF_US:
            return

        async def prove(tx: Transaction) -> None:
            await facts.put(tx, "ready_at", str(now))

        try:
            async with asyncio.timeout(PROOF_S):
                # Offered, not written: a full line is a reason, not something to wait for.
                await self._database.offer(prove)
        except TimeoutError:
            raise errors.Unavailable("the database does not commit", code="database_slow") from None
        self._proved_at = now
