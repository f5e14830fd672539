"""Forgetting: deliveries and events of long ago, in pages, so that no callback waits behind them for long."""

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from nanohook.database import Database
from nanohook.flow.terms import SECOND_US
from nanohook.stores import retention

logger = logging.getLogger(__name__)

KEPT_US: Final = 30 * 24 * 3600 * SECOND_US
"""How long deliveries and events are kept; those of an open job stay until it has ended."""
PARKED_US: Final = 24 * 3600 * SECOND_US
"""How long a delivery waits for a job that is not here."""
REJECTED_US: Final = 7 * 24 * 3600 * SECOND_US
"""How long refused requests are kept; how many of them, those see to who store them."""
AT_ONCE: Final = 500
"""Rows removed in one transaction: 2 ms and their commit. Of 1,000 it is 9, and others wait."""
AT_ONCE_BYTES: Final = 4 * 1024 * 1024
"""And their bodies: SQLite looks at every page of a long one that it frees."""
PAUSE_S: Final = 0.05
"""Between two pages: most of the writer's time is for those who wait."""
NOBODY_ASKED: Final = "parked for a day, nothing here has asked for it"

Id = TypeVar("Id", str, int)


class Retention:
    """Removes what was kept long enough."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def apply(self, *, now_us: int) -> None:
        """
        Remove what is too old at *now_us* (µs).

        Raises:
            Unavailable: The database is away; what was removed so far stays so.
        """
        await self._parked(now_us=now_us)
        before = now_us - KEPT_US
        deliveries = await self._page_by_page(
            "",
            functools.partial(retention.last_delivery, before_us=before, most=AT_ONCE, most_bytes=AT_ONCE_BYTES),
            retention.remove_deliveries,
        )
        events = await self._page_by_page(
            0, functools.partial(retention.last_event, before_us=before, most=AT_ONCE), retention.remove_events
        )
        await self._rejections(now_us=now_us)
        if deliveries or events:
            logger.info("retention.applied", extra={"deliveries": deliveries, "events": events})

    async def _page_by_page(
        self, start: Id, last_of: Callable[..., Awaitable[Id | None]], remove: Callable[..., Awaitable[int]]
    ) -> int:
        """Remove page after page; return how many rows that were."""
        after, removed = start, 0
        while (last := await self._database.read(functools.partial(last_of, after=after))) is not None:
            removed += await self._database.write(functools.partial(remove, after=after, until=last))
            after = last
            await asyncio.sleep(PAUSE_S)
        return removed

    async def _parked(self, *, now_us: int) -> None:
        """Let what has waited for a day wait no longer; it stays in the log."""
        before = now_us - PARKED_US
        while some := await self._database.read(lambda tx: retention.parked(tx, before_us=before, most=AT_ONCE)):
            given_up = await self._database.write(
                lambda tx: retention.give_up_parked(tx, some, reason=NOBODY_ASKED)
            )
            logger.info("delivery.given_up", extra={"deliveries": given_up})
            await asyncio.sleep(PAUSE_S)

    async def _rejections(self, *, now_us: int) -> None:
        remove = functools.partial(retention.remove_rejections, before_us=now_us - REJECTED_US, most=AT_ONCE)
        while True:
            if await self._database.write(remove) < AT_ONCE:
                return
            await asyncio.sleep(PAUSE_S)
