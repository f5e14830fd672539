"""Sweeping up: files and words of jobs that were deleted a day ago, and what is remembered for a day."""

import asyncio
import logging
from typing import Final

from nanohook import clock, errors
from nanohook.database import Database, Transaction
from nanohook.faults import reach
from nanohook.flow.cancel import RESTORE_US
from nanohook.flow.terms import SECOND_US
from nanohook.rules.job import Job, Stored
from nanohook.storage import Storage
from nanohook.stores import accounts, idempotency, jobs, pictures

logger = logging.getLogger(__name__)

EVERY_S: Final = 600.0
AT_ONCE: Final = 50
"""Jobs purged for one look at the table."""
_MARGIN_US: Final = 60 * SECOND_US
"""Beyond the time in which a deletion can be taken back: the two never meet."""


class Sweeper:
    """Removes for good what nobody can have back."""

    def __init__(self, database: Database, storage: Storage) -> None:
        self._database = database
        self._storage = storage

    async def run(self) -> None:
        """Sweep now and then, until canceled."""
        while True:
            try:
                await self.sweep(now_us=clock.now_us())
            except errors.Unavailable as exc:
                logger.warning("sweep.failed", extra={"reason": str(exc)})
            await asyncio.sleep(EVERY_S)

    async def sweep(self, *, now_us: int) -> None:
        """Remove what is due at *now_us*; what cannot be removed holds up nothing else."""
        stuck: set[str] = set()
        while await self._purge_some(stuck, now_us=now_us):
            pass
        await self._database.write(lambda tx: accounts.forget_sessions(tx, now_us=now_us))
        await self._database.write(lambda tx: idempotency.forget(tx, now_us=now_us))

    async def _purge_some(self, stuck: set[str], *, now_us: int) -> bool:
        """Purge the next jobs but those in *stuck*, which grows by those that fail; ``False``: there are none."""
        before, most = now_us - RESTORE_US - _MARGIN_US, AT_ONCE + len(stuck)
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
            is_last = job.original_id is not None and await pictures.is_last_use(
                tx, job.original_id, job_id=job.id
            )
            original = await pictures.original(tx, job.original_id, owner_id=job.owner_id) if is_last else None
            return [picture.stored for picture in results], original

        async def forget(tx: Transaction) -> None:
            await pictures.remove_results(tx, job.id)
            await jobs.purge(tx, job.id, now_us=now_us)
            if original is not None and job.original_id is not None:
                await pictures.remove_original(tx, job.original_id)

        results, original = await self._database.read(belongings)
        for stored in [*results, *([] if original is None else [original])]:
            await self._storage.delete(stored.key)
            await self._storage.delete(stored.thumbnail_key)
        reach("purge.files_gone")
        await self._database.write(forget)
        logger.info(
            "job.purged", extra={"job_id": job.id, "pictures": len(results), "original": original is not None}
        )
