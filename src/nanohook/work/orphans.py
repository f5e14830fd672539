"""Files that no row names: left by a crash between a file and its row, or between the rows and the files."""

import logging
from typing import Final

from nanohook import errors
from nanohook.database import Database, Lane
from nanohook.flow.terms import SECOND_US
from nanohook.storage import Found, Storage
from nanohook.stores import media

logger = logging.getLogger(__name__)

YOUNG_US: Final = 24 * 3600 * SECOND_US
"""A file is written before its row: whatever is younger may be about to get one."""
EVERY_US: Final = 3600 * SECOND_US
"""The folder is walked this often at most."""


class Orphans:
    """Finds and removes them."""

    def __init__(self, database: Database, storage: Storage) -> None:
        self._database = database
        self._storage = storage
        self._walked_at: int | None = None

    async def remove(self, now_us: int) -> None:
        """
        Walk the folder and remove what is nobody's and not young at *now_us* (µs), unless it was just walked.

        Raises:
            Unavailable: The database is away.
            StorageFailed: The folder cannot be read.
        """
        if self._walked_at is not None and now_us - self._walked_at < EVERY_US:
            return
        before = now_us - YOUNG_US
        async for found in self._storage.walk():
            old = [file for file in found if file.modified_at < before]
            if old:
                await self._remove(old, before_us=before)
        # Not before it is done: one that was broken off is done again in the next round.
        self._walked_at = now_us

    async def _remove(self, files: list[Found], *, before_us: int) -> None:
        """Remove those of *files* that no row names."""
        named = await self._database.read(
            lambda tx: media.named(tx, [file.name for file in files]), lane=Lane.HOUSEKEEPING
        )
        for file in files:
            if file.name in named:
                continue
            try:
                if await self._storage.remove_stray(file, before_us=before_us):
                    logger.info("orphan.removed", extra={"key": file.shown})
            except errors.StorageFailed as exc:
                logger.warning("orphan.not_removed", extra={"key": file.shown, "reason": str(exc)})
