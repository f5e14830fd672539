"""Sweeping up: whatever has had its time, and what nobody can have back."""

import asyncio
import collections
import contextlib
import functools
import logging
import math
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Final, TypeVar

from nanohook import clock, errors
from nanohook.database import Database, Lane, Transaction
from nanohook.faults import reach
from nanohook.flow import expire, replay
from nanohook.flow.cancel import RESTORE_US
from nanohook.rules.job import UNCLAIMED_FOR_US, Job, Stored, Unclaimed
from nanohook.storage import Storage
from nanohook.stores import accounts, idempotency, jobs, pictures, unclaimed
from nanohook.stores.retention import PURGED_UPLOADS, REVOKED_KEYS, Upload, old_uploads
from nanohook.work.orphans import Orphans
from nanohook.work.retain import Retention

logger = logging.getLogger(__name__)

EVERY_S: Final = 600.0
ROOM_EVERY_S: Final = 5.0
"""Between two rounds that make room: no index leads to what everybody has deleted."""
ROOM_WAIT_S: Final = 2.0
"""Whoever needs room waits for it so long: what goes may take minutes, and they can come back."""
AT_ONCE: Final = 50
"""Jobs or pictures removed for one look at the table."""
MAX_SKIPPED: Final = 500
"""Rows of one kind that cannot be treated, before the rest is left for the next round: all are in memory, and
found again with every page."""


Row = TypeVar("Row")


class Sweeper:
    """Removes for good what nobody can have back."""

    def __init__(self, database: Database, storage: Storage, *, reserve_bytes: int = 0) -> None:
        self._database = database
        self._storage = storage
        self._reserve_bytes = reserve_bytes
        self._room_wanted = asyncio.Event()
        self._room_made = asyncio.Event()
        """Of the round under way, or of the one before that the next waits for."""
        self._room_made.set()
        self._is_between_rounds = False
        self.failures: collections.Counter[str] = collections.Counter()
        """How often something could not be treated, by its kind."""
        retention = Retention(database, self._skip)
        self._parts: dict[str, Callable[[int], Awaitable[Any]]] = {
            "upload": self._expire_uploads,
            "room": self._make_room_if_short,
            "deleted_job": self._purge_jobs,
            "late_result": self._expire_late_results,
            "session": lambda now_us: database.write(lambda tx: accounts.forget_sessions(tx, now_us=now_us)),
            "idempotency_key": lambda now_us: database.write(lambda tx: idempotency.forget(tx, now_us=now_us)),
            "parked_delivery": retention.give_up_parked,
            "delivery": retention.remove_deliveries,
            "event": retention.remove_events,
            "rejection": retention.remove_rejections,
            "revoked_key": functools.partial(retention.remove_leftovers, "revoked_key", REVOKED_KEYS),
            "purged_upload": functools.partial(retention.remove_leftovers, "purged_upload", PURGED_UPLOADS),
            "orphan": Orphans(database, storage).remove,
        }

    async def run(self) -> None:
        """Sweep now and then, until canceled; if it ends otherwise, it can be run again."""
        while True:
            reach("sweep.round")
            await self.sweep(now_us=clock.now_us())
            await asyncio.sleep(EVERY_S)

    async def sweep(self, *, now_us: int) -> None:
        """Remove what is due at *now_us* (µs); what cannot be removed now is tried again in the next round."""
        for kind, part in self._parts.items():
            try:
                await part(now_us)
            except (errors.Unavailable, errors.StorageFailed) as exc:
                logger.warning("sweep.put_off", extra={"kind": kind, "reason": str(exc)})
            except Exception:
                # Each part by itself: the others have nothing to do with it.
                self.failures[kind] += 1
                logger.exception("sweep.failed", extra={"kind": kind})

    def _skip(self, kind: str, row_id: str, exc: BaseException) -> None:
        """Go on without a row: it is logged, counted, and tried again in the next round."""
        self.failures[kind] += 1
        logger.error("sweep.row_skipped", extra={"kind": kind, "row_id": row_id, "reason": replay.why(exc)})

    async def _each(
        self,
        kind: str,
        find: Callable[[int], Awaitable[Sequence[Row]]],
        treat: Callable[[Row], Awaitable[None]],
        *,
        id_of: Callable[[Row], str],
        at_once: int = AT_ONCE,
    ) -> None:
        """
        Treat every row that is due, page by page, but those that cannot be.

        Args:
            find: Given how many at most; those that were treated are not found again.
            at_once: Rows treated side by side: those that only write share a commit.
        """
        skipped: set[str] = set()
        treated: set[str] = set()
        while len(skipped) < MAX_SKIPPED:
            found = await find(AT_ONCE + len(skipped))
            due = [row for row in found if id_of(row) not in skipped]
            if not due:
                return
            for start in range(0, len(due), at_once):
                rows = due[start : start + at_once]
                done = await asyncio.gather(*(treat(row) for row in rows), return_exceptions=True)
                for row, came in zip(rows, done, strict=True):
                    if isinstance(came, errors.Unavailable) or not isinstance(came, Exception | None):
                        raise came
                    was_treated = id_of(row) in treated
                    if came is not None or was_treated:
                        skipped.add(id_of(row))
                        self._skip(kind, id_of(row), came or RuntimeError("it is still due after it was treated"))
            treated = {id_of(row) for row in due} - skipped
        logger.error("sweep.gave_up", extra={"kind": kind, "skipped": len(skipped)})

    async def _expire_uploads(self, now_us: int) -> None:
        async def expire_one(old: Upload) -> None:
            if await self._database.write(lambda tx: expire.upload(tx, old, now_us=now_us)):
                logger.info("upload.expired", extra={"job_id": old.job_id})

        before = now_us - expire.UPLOAD_US
        await self._each(
            "upload",
            lambda most: self._database.read(
                lambda tx: old_uploads(tx, before_us=before, most=most), lane=Lane.HOUSEKEEPING
            ),
            expire_one,
            id_of=lambda old: old.job_id,
        )

    async def _expire_late_results(self, now_us: int) -> None:
        """
        Remove late results that nobody took: the row, then the file.

        Not the other way round: its owner may be taking it just now. Cut off in between, it is a
        file without a row.
        """

        async def expire_one(late: Unclaimed) -> None:
            if not await self._database.write(lambda tx: expire.late_result(tx, late)):
                return
            reach("unclaimed.rows_gone")
            try:
                await self._delete([late.stored])
            except errors.StorageFailed as exc:
                logger.warning("sweep.file_left", extra={"job_id": late.job_id, "reason": str(exc)})
            logger.info("unclaimed.expired", extra={"job_id": late.job_id, "index": late.index})

        before = now_us - UNCLAIMED_FOR_US
        await self._each(
            "late_result",
            lambda most: self._database.read(
                lambda tx: unclaimed.older_than(tx, before, most=most), lane=Lane.HOUSEKEEPING
            ),
            expire_one,
            id_of=lambda late: f"{late.job_id}/{late.attempt}/{late.index}",
        )

    async def run_room(self) -> None:
        """Make room whenever it is wanted, ``ROOM_EVERY_S`` apart, until canceled."""
        while True:
            self._is_between_rounds = False
            await self._room_wanted.wait()
            self._room_wanted.clear()
            self._room_made.clear()
            try:
                reach("sweep.room")
                await self._give_up_uploads(None, now_us=clock.now_us())
            except (errors.Unavailable, errors.StorageFailed) as exc:
                logger.warning("sweep.put_off", extra={"kind": "room", "reason": str(exc)})
            finally:
                self._is_between_rounds = True
                self._room_made.set()
            await asyncio.sleep(ROOM_EVERY_S)

    def want_room(self) -> None:
        """Have it removed soon what anybody has deleted of what was never generated; nobody waits for it."""
        if not self._is_between_rounds:
            self._room_made.clear()
        self._room_wanted.set()

    async def make_room(self, owner_id: str | None = None) -> None:
        """
        Remove at once what was never generated and was deleted a while ago; for ``ROOM_WAIT_S`` at most.

        Args:
            owner_id: Whose; ``None``: everybody's, once for all who ask at the same time.

        Raises:
            Unavailable: The database is away.
        """
        if owner_id is not None:
            until_s = time.monotonic() + ROOM_WAIT_S
            await self._give_up_uploads(owner_id, now_us=clock.now_us(), until_s=until_s)
            return
        self.want_room()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ROOM_WAIT_S):
                await self._room_made.wait()

    async def _give_up_uploads(self, owner_id: str | None, *, now_us: int, until_s: float = math.inf) -> None:
        give_up = functools.partial(expire.hasten, owner_id=owner_id, most=AT_ONCE, now_us=now_us)
        while time.monotonic() < until_s and (given_up := await self._database.write(give_up)):
            logger.info("upload.given_up", extra={"images": given_up})
            await self._purge_jobs(now_us, owner_id=owner_id)

    async def _make_room_if_short(self, now_us: int) -> None:
        if self._storage.free_bytes() < self._reserve_bytes:
            await self._give_up_uploads(None, now_us=now_us)

    async def _purge_jobs(self, now_us: int, *, owner_id: str | None = None) -> None:
        """Purge what is due; of one person, only what they never generated: that is what they wait for."""
        before = now_us - RESTORE_US - expire.PURGE_MARGIN_US
        find = jobs.to_purge if owner_id is None else functools.partial(jobs.uploads_to_purge, owner_id=owner_id)
        await self._each(
            "deleted_job",
            lambda most: self._database.read(
                lambda tx: find(tx, before_us=before, most=most), lane=Lane.HOUSEKEEPING
            ),
            lambda job: self._purge(job, now_us=now_us),
            id_of=lambda job: job.id,
            at_once=1,  # most of it is the disk's work, which others wait for too
        )

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

        results, original = await self._database.read(belongings, lane=Lane.HOUSEKEEPING)
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
