"""Finishing: download, verify, resize, store; then the row."""

import asyncio
import hashlib
import logging
import mmap
import random
from dataclasses import dataclass, field
from typing import Final

from nanohook import clock, errors
from nanohook.database import Database
from nanohook.decoding import Decoder
from nanohook.faults import reach
from nanohook.flow import settle
from nanohook.flow.settle import Finishing, Kept
from nanohook.flow.terms import SECOND_US
from nanohook.remote.fetch import Fetcher
from nanohook.rules import backoff, downloads, imaging
from nanohook.rules.downloads import Candidate, Outcome
from nanohook.rules.job import Stored, Task
from nanohook.rules.status import Stage
from nanohook.storage import Storage
from nanohook.work.marks import Marks

logger = logging.getLogger(__name__)

GONE: Final = Candidate(url="")
"""In place of an address where there is none that is alive."""
_TOO_MUCH: Final = frozenset({"too_many_pixels", "too_many_scans"})
_FITS: Final[dict[object, imaging.Fit]] = {"cover": "cover", "contain": "contain", "stretch": "stretch"}
_FORMATS: Final[dict[object, imaging.Format]] = {"jpg": "jpg", "png": "png", "webp": "webp"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Finisher:
    """Finishes claimed tasks."""

    database: Database
    fetcher: Fetcher
    decoder: Decoder
    storage: Storage
    marks: Marks
    most_pixels: int
    can_ask: bool
    """NanoBanana can be asked for other addresses: there is a key."""
    _shown: set["asyncio.Future[None]"] = field(default_factory=set, init=False)

    async def do(self, claimed: Task) -> None:
        """Make *claimed*'s result a picture of ours, or say why not and what follows."""
        begun = await self.database.read(lambda tx: settle.begin(tx, claimed))
        reach("finish.claimed")
        if begun.is_there:
            await self.database.write(lambda tx: settle.take(tx, claimed, now_us=clock.now_us()))
            logger.info("image.taken", extra={"job_id": claimed.job_id, "index": claimed.index})
            return
        candidate = begun.task.next_candidate or GONE
        try:
            await self._finish(begun, candidate)
        except (errors.LeaseLost, errors.Unavailable):
            raise
        except Exception as exc:  # noqa: BLE001 - told apart by ``_outcome``, and logged if nobody thought of it
            await self._failed(claimed, candidate, exc)

    async def _finish(self, begun: Finishing, candidate: Candidate) -> None:
        task = begun.task
        logger.debug(
            "result.fetching",
            extra={"job_id": task.job_id, "index": task.index, "failures": candidate.failures},
        )
        if candidate is GONE:
            raise downloads.DownloadFailed("there is no address left to fetch it from", outcome=Outcome.MISSING)
        async with self.fetcher.get(candidate.url) as download:
            reach("finish.downloaded")
            finished = await self._decode(begun, download.body)
            reach("finish.resized")
            self._show(task, Stage.STORING)
            # Within the block: what is stored may be the very bytes that were fetched.
            stored, kept = await self._store(task, finished)
        reach("finish.settled")
        if kept is Kept.SPARE:
            await self._remove(stored)
        logger.info(
            "image.stored",
            extra={
                "job_id": task.job_id,
                "index": task.index,
                "kept": kept.value,
                "stored": f"{stored.width_px}x{stored.height_px}",
                "bytes": stored.size_bytes,
            },
        )

    async def _decode(self, begun: Finishing, body: bytes | mmap.mmap) -> imaging.Finished:
        """Make of *body* what is stored, within the bounds of what may be decoded at one time."""
        task, options = begun.task, begun.job.options
        is_suspect = task.suspect_deaths is not None
        # What may have ended the process is looked at while nothing else is decoded. Some headers need a decoder.
        probe = await self.decoder.run(
            task.owner_id,
            None if is_suspect else 0,
            self.marks.guard,
            task,
            imaging.probe_result,
            body,
            most_pixels=self.most_pixels,
        )
        logger.debug(
            "image.resizing",
            extra={
                "job_id": task.job_id,
                "index": task.index,
                "fetched": f"{probe.width_px}x{probe.height_px}",
                "wanted": None if begun.size is None else f"{begun.size[0]}x{begun.size[1]}",
            },
        )
        self._show(task, Stage.RESIZING)
        return await self.decoder.run(
            task.owner_id,
            None if is_suspect else probe.memory_bytes(begun.size),
            self.marks.guard,
            task,
            imaging.finish,
            body,
            size=begun.size,
            fit=_FITS.get(options.get("fit"), "cover"),
            output_format=_FORMATS.get(options.get("output_format")),
            most_pixels=self.most_pixels,
        )

    async def _store(self, task: Task, finished: imaging.Finished) -> tuple[Stored, Kept]:
        """Store the files, then the row that says that they are there."""
        stored = _place(task, finished)
        try:
            await self.storage.put(stored.thumbnail_key, finished.thumbnail.body)
            reach("finish.half_stored")
            await self.storage.put(stored.key, finished.picture.body)
            reach("finish.stored")
            digest = (await asyncio.to_thread(hashlib.sha256, finished.picture.body)).digest()
            kept = await asyncio.shield(
                self.database.write(
                    lambda tx: settle.finished(tx, task, stored, sha256=digest, now_us=clock.now_us())
                )
            )
        except errors.LeaseLost:
            await self._remove(stored)
            raise
        return stored, kept

    async def _remove(self, stored: Stored) -> None:
        """Another picture counts: remove our own, whose key nobody else has."""
        await self.storage.delete(stored.key)
        await self.storage.delete(stored.thumbnail_key)

    def _show(self, task: Task, stage: Stage) -> None:
        """Announce progress without waiting for its commit: finishing is what people wait for."""
        try:
            shown = self.database.offer(lambda tx: settle.progress(tx, task, stage, now_us=clock.now_us()))
        except errors.Unavailable:
            return  # a full line has better things to do
        self._shown.add(shown)
        shown.add_done_callback(self._was_shown)

    def _was_shown(self, shown: "asyncio.Future[None]") -> None:
        self._shown.discard(shown)
        if not shown.cancelled() and (exc := shown.exception()) is not None:
            logger.info("work.progress_not_shown", extra={"reason": type(exc).__name__})

    async def _failed(self, claimed: Task, candidate: Candidate, exc: Exception) -> None:
        outcome = _outcome(exc)
        detail = str(exc) if isinstance(exc, errors.NanohookError) else type(exc).__name__
        if outcome is Outcome.CRASHED:
            # Nobody thought of this one: it counts as a try, so that it ends with the others.
            logger.error("finish.crashed", extra={"job_id": claimed.job_id}, exc_info=exc)
        after_s = getattr(exc, "retry_after_s", None)
        pause_s = backoff.delay_s(candidate.failures + 1, chance=random.random(), retry_after_s=after_s)  # noqa: S311
        will_go_on = await self.database.write(
            lambda tx: settle.failed(
                tx,
                claimed,
                candidate.url,
                outcome,
                detail=detail,
                pause_us=int(pause_s * SECOND_US),
                can_ask=self.can_ask,
                now_us=clock.now_us(),
            )
        )
        logger.warning(
            "finish.failed",
            extra={
                "job_id": claimed.job_id,
                "index": claimed.index,
                "outcome": outcome.value,
                "code": downloads.PATIENCE[outcome].code,
                "reason": detail,
                "failures": candidate.failures + 1,
                "will_retry": will_go_on,
            },
        )


def _outcome(exc: Exception) -> Outcome:
    """Tell what became of a try that ended with *exc*."""
    if isinstance(exc, downloads.DownloadFailed):
        return exc.outcome
    if isinstance(exc, errors.StorageFailed):
        return Outcome.NOT_STORED
    if isinstance(exc, errors.ImageRejected) and exc.code in _TOO_MUCH:
        return Outcome.TOO_LARGE
    if isinstance(exc, errors.ImageRejected | errors.UnknownMediaType):
        return Outcome.BROKEN
    return Outcome.CRASHED


def _place(task: Task, finished: imaging.Finished) -> Stored:
    """Name the files by the claim, so that two who finish the same task never write the same one."""
    name = f"results/{task.job_id}/{task.attempt}-{task.index}-{task.claim}"
    picture = finished.picture
    return Stored(
        key=f"{name}.{picture.extension}",
        thumbnail_key=f"{name}-small.{finished.thumbnail.extension}",
        content_type=picture.content_type,
        width_px=picture.width_px,
        height_px=picture.height_px,
        size_bytes=len(picture.body),
    )
