"""Sweeping up: whatever has had its time, and what nobody can have back."""

import asyncio
import functools
import logging
import time
from collections.abc import Iterable
from typing import Final

from nanohook import clock, errors
from nanohook.database import Database, Transaction
from nanohook.faults import reach
from nanohook.flow import expire
from nanohook.flow.cancel import RESTORE_US
from nanohook.rules.job import Job, Stored
from nanohook.storage import Storage
from nanohook.stores import accounts, idempotency, jobs, pictures, unclaimed
from nanohook.work.orphans import Orphans
from nanohook.work.retain import Retention

logger = logging.getLogger(__name__)

EVERY_S: Final = 600.0
ROOM_EVERY_S: Final = 5.0
AT_ONCE: Final = 50
"""Jobs or pictures removed for one look at the table."""


class Sweeper:
    """Removes for good what nobody can have back."""

    def __init__(self, database: Database, storage: Storage, *, reserve_bytes: int = 0) -> None:
        self._database = database
        self._storage = storage
        self._reserve_bytes = reserve_bytes
        self._making_room = asyncio.Lock()
        self._next_room_at = 0.0
        self._retention = Retention(database)
        self._orphans = Orphans(database, storage)

    async def run(self) -> None:
        """Sweep now and then, until canceled."""
        while True:
            try:
                await self.sweep(now_us=clock.now_us())
            except (errors.Unavailable, errors.StorageFailed) as exc:
                logger.warning("sweep.failed", extra={"reason": str(exc)})
            await asyncio.sleep(EVERY_S)

    async def sweep(self, *, now_us: int) -> None:
        """
        Remove what is due at *now_us* (µs); what cannot be removed holds up nothing else.

        Raises:
            Unavailable: The database is away.
            StorageFailed: The folder of the media cannot be read.
        """
        await self._expire_uploads(now_us=now_us)
        if self._storage.free_bytes() < self._reserve_bytes:
            await self.make_room(now_us=now_us)
        stuck: set[str] = set()
        while await self._purge_some(stuck, now_us=now_us):
            pass
        await self._expire_unclaimed(now_us=now_us)
        await self._database.write(lambda tx: accounts.forget_sessions(tx, now_us=now_us))
        await self._database.write(lambda tx: idempotency.forget(tx, now_us=now_us))
        await self._retention.apply(now_us=now_us)
        await self._orphans.remove(now_us=now_us)

    async def make_room(self, owner_id: str | None = None, *, now_us: int | None = None) -> None:
        """
        Remove at once what was never generated and was deleted a while ago.

        Args:
            owner_id: Whose; ``None``: everybody's, once in ``ROOM_EVERY_S`` at most: no index leads to those.
            now_us: In place of the time.

        Raises:
            Unavailable: The database is away.
        """
        now = clock.now_us() if now_us is None else now_us
        give_up = functools.partial(expire.hasten, owner_id=owner_id, most=AT_ONCE, now_us=now)
        async with self._making_room:
            if owner_id is None:
                if time.monotonic() < self._next_room_at:
                    return
                self._next_room_at = time.monotonic() + ROOM_EVERY_S
            while given_up := await self._database.write(give_up):
                logger.info("upload.given_up", extra={"images": given_up})
                await self._purge_some(set(), now_us=now)

    async def _expire_uploads(self, *, now_us: int) -> None:
        while gone := await self._database.write(lambda tx: expire.uploads(tx, most=AT_ONCE, now_us=now_us)):
            for job_id in gone:
                logger.info("upload.expired", extra={"job_id": job_id})

    async def _expire_unclaimed(self, *, now_us: int) -> None:
        """
        Remove late results that nobody took: the row, then the file.

        Not the other way round: its owner may be taking it just now. Cut off in between, it is a
        file without a row.
        """
        take = functools.partial(expire.late_results, most=AT_ONCE, now_us=now_us)
        while gone := await self._database.write(take):
            reach("unclaimed.rows_gone")
            for late in gone:
                try:
                    await self._delete([late.stored])
                except errors.StorageFailed as exc:
                    logger.warning("sweep.unclaimed_failed", extra={"job_id": late.job_id, "reason": str(exc)})
                logger.info("unclaimed.expired", extra={"job_id": late.job_id, "index": late.index})

    async def _purge_some(self, stuck: set[str], *, now_us: int) -> bool:
        """Purge the next jobs but those in *stuck*, which grows by those that fail; ``False``: there are none."""
        before, most = now_us - RESTORE_US - expire.PURGE_MARGIN_US, AT_ONCE + len(stuck)
        found = await self._database.read(lambda tx: jobs.to_purge(tx, before_us=before, most=most))
        due = [job for job in found if job.id not in stuck]
        for job in due:
            try:
                await self._purge(job, now_us=now_us)
            except errors.StorageFailed as exc:
                stuck.add(job.id)
                logger.warning("sweep.job_failed", extra={"job_id": job.id, "reason": str(exc)})
        return bool(due)

    async def _purge(self, job: Job, *, now_us: int) -> None:
        """Remove a job's files, then its rows: cut off in between, it is done again."""

        async def belongings(tx: Transaction) -> tuple[list[Stored], Stored | None]:
            results = await pictures.results(tx, job_id=job.id, owner_id=job.owner_id)
            late = (await unclaimed.of_jobs(tx, [job.id]))[job.id]
            is_last = job.original_id is not None and await pictures.is_last_use(
                tx, job.original_id, job_id=job.id
            )
            original = await pictures.original(tx, job.original_id, owner_id=job.owner_id) if is_last else None
            return [*(picture.stored for picture in results), *(picture.stored for picture in late)], original

        results, original = await self._database.read(belongings)
        await self._delete([*results, *([] if original is None else [original])])
        reach("purge.files_gone")
        await self._database.write(
            lambda tx: expire.purge(tx, job, with_original=original is not None, now_us=now_us)
        )
        logger.info(
            "job.purged", extra={"job_id": job.id, "pictures": len(results), "original": original is not None}
        )

    async def _delete(self, gone: Iterable[Stored]) -> None:
        for stored in gone:
            await self._storage.delete(stored.key)
            await self._storage.delete(stored.thumbnail_key)
