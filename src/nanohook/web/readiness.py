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

FAILED_FOR_S: Final = 1.0
"""A write that failed is told of for so long: a broken disk is not asked by everybody who asks."""

TOLD_FOR_S: Final = 600.0
"""A jump of the wall clock is told of for so long."""


class Readiness:
    """What a load balancer asks for."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._proved_at = float("-inf")
        """By the monotonic clock, as all intervals."""
        self._proof: asyncio.Future[None] | None = None
        """The write under way, for all who ask meanwhile: on a disk that stands still, one is enough."""
        self._proof_began_at = float("-inf")
        self._failure: BaseException | None = None
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
        if time.monotonic() - self._proved_at < PROOF_EVERY_S:
            return
        proof = self._proof or self._begin()
        left_s = self._proof_began_at + PROOF_S - time.monotonic()
        try:
            async with asyncio.timeout(left_s):
                # Who gives up does not end it for the others.
                await asyncio.shield(proof)
        except TimeoutError:
            raise errors.Unavailable("the database does not commit", code="database_slow") from None

    def _begin(self) -> "asyncio.Future[None]":
        """
        Offer a write.

        Raises:
            Unavailable: The line is full.
            Exception: The last one failed a moment ago; its error.
        """
        began_at = time.monotonic()
        if self._failure is not None and began_at - self._proof_began_at < FAILED_FOR_S:
            raise self._failure.with_traceback(None)

        async def prove(tx: Transaction) -> None:
            await facts.put(tx, "ready_at", str(clock.now_us()))

        def ended(proof: "asyncio.Future[None]") -> None:
            self._proof = None
            if proof.cancelled():
                return
            self._failure = proof.exception()
            if self._failure is None:
                self._proved_at = began_at

        # Offered, not written: a full line is a reason, not something to wait for.
        self._proof = self._database.offer(prove)
        self._proof_began_at = began_at
        self._proof.add_done_callback(ended)
        return self._proof

    def clock_jumped(self, seconds: float) -> None:
        """Note that the wall clock was set, by so many seconds; below 0: back."""
        self._jumped = seconds, time.monotonic()

    @property
    def clock_jump_s(self) -> float | None:
        """By how much the wall clock was set within the last ``TOLD_FOR_S``; ``None``: it was not."""
        if self._jumped is None or time.monotonic() - self._jumped[1] > TOLD_FOR_S:
            return None
        return self._jumped[0]
