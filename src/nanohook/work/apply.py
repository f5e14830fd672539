"""Deliveries whose applying raised: stored, answered, and tried again here."""

import logging
import random
from typing import Final

from nanohook import clock, errors
from nanohook.bell import Bell
from nanohook.database import Database
from nanohook.faults import reach
from nanohook.flow import replay
from nanohook.flow.terms import SECOND_US, Terms
from nanohook.rules import backoff
from nanohook.stores import deliveries
from nanohook.stores.deliveries import Delivery, Effect

logger = logging.getLogger(__name__)

MOST_TRIES: Final = 8
"""After this many a delivery is dead: kept with its error, for a person to look at and replay."""
LOOK_S: Final = 1.0
_AT_ONCE: Final = 20
_LEASE_US: Final = 30 * SECOND_US


class Applier:
    """Tries unapplied deliveries again, with growing pauses."""

    def __init__(self, database: Database, terms: Terms) -> None:
        self._database = database
        self._terms = terms
        self._bell = Bell()

    def wake(self) -> None:
        """There may be one."""
        self._bell.ring()

    async def run(self) -> None:
        """Look every second, until canceled."""
        while True:
            await self._bell.wait(LOOK_S)
            reach("apply.look")
            try:
                await self._look()
            except errors.Unavailable as exc:
                logger.warning("apply.database_away", extra={"reason": str(exc)})

    async def _look(self) -> None:
        due = await self._database.read(deliveries.next_due)
        now = clock.now_us()
        if due is None or now < due <= now + deliveries.FURTHEST_US:
            return
        claimed = await self._database.write(
            lambda tx: deliveries.claim_unapplied(tx, now_us=now, lease_until_us=now + _LEASE_US, most=_AT_ONCE)
        )
        for delivery in claimed:
            await self._apply(delivery)
        if len(claimed) == _AT_ONCE:
            self._bell.ring()  # there may be more

    async def _apply(self, delivery: Delivery) -> None:
        try:
            await self._database.write(
                lambda tx: replay.apply(tx, delivery, terms=self._terms, now_us=clock.now_us())
            )
        except errors.Unavailable:
            raise
        except Exception as exc:
            logger.exception("delivery.unapplied", extra={"delivery_id": delivery.id, "tries": delivery.tries})
            await self._put_off(delivery, reason=replay.why(exc))
        else:
            logger.info("delivery.applied", extra={"delivery_id": delivery.id, "job_id": delivery.job_id})

    async def _put_off(self, delivery: Delivery, *, reason: str) -> None:
        is_dead = delivery.tries >= MOST_TRIES
        pause_s = backoff.delay_s(delivery.tries, chance=random.random())  # noqa: S311 - spreads load
        due_at = None if is_dead else clock.now_us() + int(pause_s * SECOND_US)
        effect = Effect.DEAD if is_dead else Effect.UNAPPLIED
        await self._database.write(
            lambda tx: deliveries.judge(tx, delivery.id, effect=effect, reason=reason, due_at=due_at)
        )
