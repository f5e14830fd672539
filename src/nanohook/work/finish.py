"""Finishing: download, verify, resize, store; then the row."""

import asyncio
import collections
import hashlib
import logging
import mmap
import random
from dataclasses import dataclass, field
from typing import Final

from nanohook import clock, errors
from nanohook.database import Database, Transaction
from nanohook.decoding import Decoder
from nanohook.faults import reach
from nanohook.flow import settle
from nanohook.flow.settle import Finishing, Kept
from nanohook.flow.terms import SECOND_US
from nanohook.remote.fetch import Fetcher
from nanohook.rules import backoff, downloads, imaging
from nanohook.rules.job import Fault, Stored, Task
from nanohook.rules.status import Stage
from nanohook.storage import Storage

logger = logging.getLogger(__name__)

MOST_BROKEN: Final = 3
"""Downloads in a row of what is no picture; then the task fails; a retry asks NanoBanana anew."""
_FINAL: Final = frozenset({downloads.Outcome.MISSING, downloads.Outcome.TOO_LARGE, downloads.Outcome.REFUSED})
_FITS: Final[dict[object, imaging.Fit]] = {"cover": "cover", "contain": "contain", "stretch": "stretch"}
_FORMATS: Final[dict[object, imaging.Format]] = {"jpg": "jpg", "png": "png", "webp": "webp"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Finisher:
    """Finishes claimed tasks."""

    database: Database
    fetcher: Fetcher
    decoder: Decoder
    storage: Storage
    most_pixels: int
    _shown: set["asyncio.Future[None]"] = field(default_factory=set, init=False)
    _broken: collections.Counter[tuple[str, int, int]] = field(default_factory=collections.Counter, init=False)
    """Downloads in a row that were no picture, by task."""

    async def is_open(self, _tx: Transaction) -> int:
        """How many more may be finished now: the trade's own bound is the only one."""
        return 1_000

    async def do(self, claimed: Task) -> None:
        """Make *claimed*'s result a picture of ours, or say why not and whether to try again."""
        begun = await self.database.read(lambda tx: settle.begin(tx, claimed))
        reach("finish.claimed")
        if begun.is_there:
            await self.database.write(lambda tx: settle.take(tx, claimed, now_us=clock.now_us()))
            logger.info("image.taken", extra={"job_id": claimed.job_id, "index": claimed.index})
            return
        name = (claimed.job_id, claimed.attempt, claimed.index)
        try:
            await self._finish(begun)
        except downloads.DownloadFailed as exc:
            again = exc.outcome not in _FINAL
            await self._failed(claimed, Fault(code=exc.code, detail=str(exc)), exc=exc, again=again)
        except errors.Permanent as exc:
            await self._failed(claimed, Fault(code=exc.code, detail=str(exc)), exc=exc, again=False)
        except errors.Transient as exc:
            await self._failed(claimed, Fault(code=exc.code, detail=str(exc)), exc=exc, again=True)
        except (errors.ImageRejected, errors.UnknownMediaType) as exc:
            code = "too_large" if exc.code == "too_many_pixels" else "not_an_image"
            # A host's own error page, or a half of the picture, may be the whole one a moment later.
            self._broken[name] += 1
            again = code == "not_an_image" and self._broken[name] < MOST_BROKEN
            await self._failed(claimed, Fault(code=code, detail=str(exc)), exc=exc, again=again)
            if again:
                return
        except errors.StorageFailed as exc:
            await self._failed(claimed, Fault(code="storage_failed", detail=str(exc)), exc=exc, again=True)
        except (errors.LeaseLost, errors.Unavailable):
            raise
        except Exception as exc:
            # Nobody thought of this one: it counts as a try, so that it ends with the others after a day.
            logger.exception("finish.crashed", extra={"job_id": claimed.job_id})
            fault = Fault(code="internal", detail=type(exc).__name__)
            await self._failed(claimed, fault, exc=exc, again=True)
        # In a row: whatever else came of it begins anew.
        self._broken.pop(name, None)

    async def _finish(self, begun: Finishing) -> None:
        task = begun.task
        logger.debug("result.fetching", extra={"job_id": task.job_id, "index": task.index, "tries": task.tries})
        if task.result_url is None:
            raise errors.Permanent("the late result that was to be taken is gone", code="download_failed")
        async with self.fetcher.get(task.result_url) as download:
            await self._keep(begun, download.body)

    async def _keep(self, begun: Finishing, body: bytes | mmap.mmap) -> None:
        task, options = begun.task, begun.job.options
        reach("finish.downloaded")
        # What a host delivers may have endless headers: not on the event loop.
        probe = await asyncio.to_thread(imaging.probe_result, body, most_pixels=self.most_pixels)
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
        finished = await self.decoder.run(
            probe.memory_bytes(begun.size),
            imaging.finish,
            body,
            size=begun.size,
            fit=_FITS.get(options.get("fit"), "cover"),
            output_format=_FORMATS.get(options.get("output_format")),
            most_pixels=self.most_pixels,
        )
        reach("finish.resized")
        self._show(task, Stage.STORING)
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
        reach("finish.settled")
        if kept is Kept.SPARE:
            await self._remove(stored)
        logger.info(
            "image.stored",
            extra={
                "job_id": task.job_id,
                "index": task.index,
                "kept": kept.value,
                "fetched": f"{probe.width_px}x{probe.height_px}",
                "stored": f"{stored.width_px}x{stored.height_px}",
                "bytes": stored.size_bytes,
            },
        )

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

    async def _failed(self, claimed: Task, fault: Fault, *, exc: Exception, again: bool) -> None:
        after_s = exc.retry_after_s if isinstance(exc, errors.Transient | downloads.DownloadFailed) else None
        pause_s = backoff.delay_s(claimed.tries + 1, chance=random.random(), retry_after_s=after_s)  # noqa: S311
        now = clock.now_us()
        retry_at = now + int(pause_s * SECOND_US) if again else None
        will_retry = await self.database.write(
            lambda tx: settle.failed(tx, claimed, fault, retry_at=retry_at, now_us=now)
        )
        logger.warning(
            "finish.failed",
            extra={
                "job_id": claimed.job_id,
                "index": claimed.index,
                "code": fault.code,
                "reason": fault.detail,
                "will_retry": will_retry,
            },
        )


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
