"""Forgetting: deliveries and events of long ago, in pages, so that no callback waits behind them for long."""

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

from nanohook import errors
from nanohook.database import Database, Lane
from nanohook.flow.terms import SECOND_US
from nanohook.stores import retention
from nanohook.stores.retention import Leftovers

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
LOOKED_AT: Final = 2_000
"""Rows looked at in one read, where no index leads to those that are due: some milliseconds."""
WALK_EVERY_US: Final = 24 * 3600 * SECOND_US
"""A whole table is walked this often at most."""
PAUSE_S: Final = 0.05
"""Between two pages: most of the writer's time is for those who wait."""
NOBODY_ASKED: Final = "parked for a day, nothing here has asked for it"

Id = TypeVar("Id", str, int)


class Retention:
    """
    Removes what was kept long enough.

    Every method takes the time of now (µs) and raises ``Unavailable`` if the database is away; what was removed so
    far stays so.

    Args:
        skip: Told of a row that cannot be removed: its kind, its id, and why.
    """

    def __init__(self, database: Database, skip: Callable[[str, str, BaseException], None]) -> None:
        self._database = database
        self._skip = skip
        self._walked_at: dict[str, int] = {}

    async def remove_deliveries(self, now_us: int) -> None:
        """Remove deliveries after ``KEPT_US``."""
        last_of = functools.partial(retention.last_delivery, before_us=now_us - KEPT_US, most_bytes=AT_ONCE_BYTES)
        await self._page_by_page("delivery", "", last_of, retention.remove_deliveries)

    async def remove_events(self, now_us: int) -> None:
        """Remove events after ``KEPT_US``."""
        last_of = functools.partial(retention.last_event, before_us=now_us - KEPT_US)
        await self._page_by_page("event", 0, last_of, retention.remove_events)

    async def give_up_parked(self, now_us: int) -> None:
        """Let what has waited for a day wait no longer; it stays in the log."""
        give_up = functools.partial(retention.give_up_parked, reason=NOBODY_ASKED)
        after = ""
        while some := await self._database.read(
            functools.partial(retention.parked, after=after, before_us=now_us - PARKED_US, most=AT_ONCE),
            lane=Lane.HOUSEKEEPING,
        ):
            after = some[-1]
            # Each by itself: they share a commit all the same.
            asked = (self._database.write(functools.partial(give_up, delivery_ids=[each])) for each in some)
            done = await asyncio.gather(*asked, return_exceptions=True)
            for delivery_id, came in zip(some, done, strict=True):
                if isinstance(came, errors.Unavailable) or not isinstance(came, int | Exception):
                    raise came
                if isinstance(came, Exception):
                    self._skip("parked_delivery", delivery_id, came)
            given_up = sum(came for came in done if isinstance(came, int))
            logger.info("delivery.given_up", extra={"deliveries": given_up})
            await asyncio.sleep(PAUSE_S)

    async def remove_rejections(self, now_us: int) -> None:
        """Remove refused requests after ``REJECTED_US``."""
        remove = functools.partial(retention.remove_rejections, before_us=now_us - REJECTED_US, most=AT_ONCE)
        while await self._database.write(remove) == AT_ONCE:  # noqa: ASYNC110 - a pause for who waits for the writer
            await asyncio.sleep(PAUSE_S)

    async def remove_leftovers(self, kind: str, what: Leftovers, now_us: int) -> None:
        """Remove rows that nobody can see any more ``KEPT_US`` after that; once in ``WALK_EVERY_US``."""
        walked_at = self._walked_at.get(kind)
        if walked_at is not None and 0 <= now_us - walked_at < WALK_EVERY_US:
            return
        before_us, after, removed = now_us - KEPT_US, "", 0
        find = functools.partial(retention.leftovers, what=what, before_us=before_us, most=LOOKED_AT)
        while True:
            last, due = await self._database.read(functools.partial(find, after=after), lane=Lane.HOUSEKEEPING)
            if last is None:
                break
            for start in range(0, len(due), AT_ONCE):
                removed += await self._remove_leftovers(kind, what, due[start : start + AT_ONCE], before_us)
            after = last
            await asyncio.sleep(PAUSE_S)
        # Not before it is done: one that was broken off is done again in the next round.
        self._walked_at[kind] = now_us
        if removed:
            logger.info("retention.applied", extra={"kind": kind, "rows": removed})

    async def _remove_leftovers(self, kind: str, what: Leftovers, due: Sequence[str], before_us: int) -> int:
        remove = functools.partial(retention.remove_leftovers, what=what, before_us=before_us)
        try:
            return await self._database.write(functools.partial(remove, row_ids=due))
        except errors.Unavailable:
            raise
        except Exception as exc:  # noqa: BLE001 - one of them, which is told of below
            if len(due) == 1:
                self._skip(kind, due[0], exc)
                return 0
        return sum([await self._remove_leftovers(kind, what, [each], before_us) for each in due])

    async def _page_by_page(
        self,
        kind: str,
        start: Id,
        last_of: Callable[..., Awaitable[Id | None]],
        remove: Callable[..., Awaitable[int]],
    ) -> None:
        """Remove page after page; one that cannot be removed as a whole, row by row."""
        after, removed = start, 0
        while (last := await self._last(last_of, after=after, most=AT_ONCE)) is not None:
            try:
                removed += await self._database.write(functools.partial(remove, after=after, until=last))
            except errors.Unavailable:
                raise
            except Exception:  # noqa: BLE001 - one of its rows, which is told of below
                removed += await self._row_by_row(kind, after, last, last_of, remove)
            after = last
            await asyncio.sleep(PAUSE_S)
        if removed:
            logger.info("retention.applied", extra={"kind": kind, "rows": removed})

    async def _row_by_row(
        self,
        kind: str,
        after: Id,
        until: Id,
        last_of: Callable[..., Awaitable[Id | None]],
        remove: Callable[..., Awaitable[int]],
    ) -> int:
        removed = 0
        while after != until and (last := await self._last(last_of, after=after, most=1)) is not None:
            try:
                removed += await self._database.write(functools.partial(remove, after=after, until=last))
            except errors.Unavailable:
                raise
            except Exception as exc:  # noqa: BLE001 - whatever it is, it is this row's alone
                self._skip(kind, str(last), exc)
            after = last
        return removed

    async def _last(self, last_of: Callable[..., Awaitable[Id | None]], *, after: Id, most: int) -> Id | None:
        return await self._database.read(
            functools.partial(last_of, after=after, most=most), lane=Lane.HOUSEKEEPING
        )
