"""
Refused callbacks: counted all, some kept.

They have bounds of their own and never stand in the line of the writer one by one: whatever is kept waits here
and goes as one write, so a flood of them costs a real callback nothing.
"""

import asyncio
import collections
import logging
from typing import Final

from nanohook import clock, errors, ids
from nanohook.database import Database
from nanohook.faults import reach
from nanohook.stores import rejections
from nanohook.stores.rejections import Rejection

logger = logging.getLogger(__name__)

KEPT_A_MINUTE: Final = 100
KEPT_A_MINUTE_AND_PEER: Final = 10
BODY_BYTES: Final = 4_096
MOST_ROWS: Final = 10_000
KEPT_FOR_US: Final = 7 * 24 * 3600 * 1_000_000
FLUSH_S: Final = 1.0
_MINUTE_US: Final = 60_000_000


class Rejections:
    """What was refused lately."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._minute = 0
        self._kept: collections.Counter[str] = collections.Counter()
        self._waiting: list[Rejection] = []
        self.total = 0

    @property
    def waiting(self) -> int:
        """Those kept that are not stored yet; never more than ``KEPT_A_MINUTE``."""
        return len(self._waiting)

    def add(self, *, reason: str, peer: str, headers: str, body: bytes) -> None:
        """Count a refusal, and keep it if this minute still has room."""
        self.total += 1
        now = clock.now_us()
        if now // _MINUTE_US != self._minute:
            self._minute = now // _MINUTE_US
            self._kept.clear()
        if self._kept.total() >= KEPT_A_MINUTE or self._kept[peer] >= KEPT_A_MINUTE_AND_PEER:
            return
        if len(self._waiting) >= KEPT_A_MINUTE:  # the database takes its time
            return
        self._kept[peer] += 1
        self._waiting.append(
            Rejection(
                id=ids.new_id(),
                reason=reason,
                peer=peer,
                headers=headers[:BODY_BYTES],
                body=body[:BODY_BYTES],
                received_at=now,
            )
        )

    async def run(self) -> None:
        """Store what was kept, every second, until canceled."""
        while True:
            await asyncio.sleep(FLUSH_S)
            reach("rejections.flush")
            await self.flush()

    async def flush(self) -> None:
        """Store what was kept so far, in one write."""
        if not self._waiting:
            return
        waiting, self._waiting = self._waiting, []
        try:
            await self._database.write(
                lambda tx: rejections.insert(tx, waiting, most=MOST_ROWS, oldest_us=clock.now_us() - KEPT_FOR_US)
            )
        except errors.Unavailable:
            logger.warning("rejections.not_stored", extra={"count": len(waiting)})
