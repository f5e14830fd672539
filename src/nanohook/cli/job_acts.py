"""What ``nanohook jobs`` does to everybody's jobs, a few in a transaction: a service beside it goes on."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from nanohook import clock, errors
from nanohook.database import Database, Transaction
from nanohook.flow import cancel, retries, tend, workload
from nanohook.flow.retries import Rights
from nanohook.flow.tend import Hurried
from nanohook.flow.workload import Workload
from nanohook.rules.status import ImageJobStatus
from nanohook.settings import Settings
from nanohook.stores import audit
from nanohook.stores.audit import COMMAND_LINE
from nanohook.values import frozen

AT_ONCE: Final = 50
"""Jobs of one transaction: a service beside us never waits behind more."""
ENDED: Final = (ImageJobStatus.FAILED, ImageJobStatus.CANCELED)
"""What can be cleared: a completed job is its owner's picture."""
_LOOK_S: Final = 0.5


@frozen
class Done:
    """What came of doing something to several jobs."""

    done: list[str]
    skipped: list[tuple[str, str]]
    """Ids, each with the code of what stood against it."""


def _rights(settings: Settings, *, may_buy_again: bool = False) -> Rights:
    return Rights(
        owner_id=None,
        actor=COMMAND_LINE,
        # `auto` counts: the running service knows the address.
        can_fetch=settings.public_url is not None,
        prices=settings.prices,
        may_buy_again=may_buy_again,
    )


async def retry(found: Database, settings: Settings, job_ids: Sequence[str], *, may_buy_again: bool) -> Done:
    """Retry these jobs; each in a transaction of its own, so that what is told was done."""
    rights, done = _rights(settings, may_buy_again=may_buy_again), Done(done=[], skipped=[])
    for job_id in job_ids:
        more = await found.write(
            lambda tx: retries.some(tx, [job_id], rights=rights, now_us=clock.now_us())  # noqa: B023 - awaited here
        )
        done.done.extend(more.retried)
        done.skipped.extend(more.skipped)
    return done


async def retry_failed(found: Database, settings: Settings) -> Done:
    """Retry every failed job whose error says that it can help."""
    rights, done = _rights(settings), Done(done=[], skipped=[])
    cursor: str | None = None
    while True:
        more, cursor = await found.write(
            lambda tx: retries.failed(
                tx,
                before_id=cursor,  # noqa: B023 - awaited here
                most=AT_ONCE,
                rights=rights,
                now_us=clock.now_us(),
            )
        )
        done.done.extend(more.retried)
        done.skipped.extend(more.skipped)
        if cursor is None:
            return done


async def stop(found: Database, job_ids: Sequence[str]) -> Done:
    """Cancel these jobs."""
    done = Done(done=[], skipped=[])
    for job_id in job_ids:
        try:
            await found.write(lambda tx: _stop(tx, job_id))  # noqa: B023 - awaited here
        except errors.Rejected as exc:
            done.skipped.append((job_id, exc.code))
        else:
            done.done.append(job_id)
    return done


async def _stop(tx: Transaction, job_id: str) -> None:
    now = clock.now_us()
    job = await cancel.cancel(tx, owner_id=None, job_id=job_id, now_us=now)
    await audit.append(tx, actor=COMMAND_LINE, action="job.cancel", subject=job_id, after=job.status, now_us=now)


async def reconcile(found: Database, job_ids: Sequence[str] | None) -> Hurried:
    """Ask and finish at once for these jobs, or (``None``) for all."""
    return await found.write(lambda tx: tend.reconcile(tx, job_ids, actor=COMMAND_LINE, now_us=clock.now_us()))


async def pause(found: Database, *, is_draining: bool) -> Workload:
    """Submit nothing from now on."""
    return await found.write(
        lambda tx: workload.pause(tx, is_draining=is_draining, actor=COMMAND_LINE, now_us=clock.now_us())
    )


async def resume(found: Database) -> Workload:
    """Submit again."""
    return await found.write(lambda tx: workload.resume(tx, actor=COMMAND_LINE, now_us=clock.now_us()))


async def drained(found: Database, tell: Callable[[Workload], None]) -> Workload:
    """Wait for the end of draining, or until somebody ends it otherwise; *tell* hears of every look."""
    while True:
        stands = await found.read(lambda tx: workload.read(tx, now_us=clock.now_us()))
        tell(stands)
        if stands.state != "draining":
            return stands
        await asyncio.sleep(_LOOK_S)


async def to_clear(found: Database, statuses: tuple[ImageJobStatus, ...], *, before_us: int) -> list[str]:
    """List the ids of all jobs that ended so before *before_us* (µs)."""
    found_ids: list[str] = []
    cursor: str | None = None
    while True:
        more, cursor = await found.read(
            lambda tx: tend.ended(
                tx,
                statuses,
                before_us=before_us,
                below_id=cursor,  # noqa: B023 - awaited here
                most=1_000,
            )
        )
        found_ids += more
        if cursor is None:
            return found_ids


async def clear(
    found: Database, job_ids: Sequence[str], statuses: tuple[ImageJobStatus, ...], *, before_us: int
) -> int:
    """Hide these jobs, if they still are what ``to_clear`` found; return how many were."""
    cleared = 0
    for first in range(0, len(job_ids), AT_ONCE):
        chunk = job_ids[first : first + AT_ONCE]
        cleared += await found.write(
            lambda tx: tend.clear(
                tx,
                chunk,  # noqa: B023 - awaited here
                statuses,
                before_us=before_us,
                actor=COMMAND_LINE,
                now_us=clock.now_us(),
            )
        )
    return cleared
