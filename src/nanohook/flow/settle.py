"""The end of finishing: a stored picture becomes a result, or a failure becomes the task's end."""

import enum
from dataclasses import dataclass

from nanohook import errors
from nanohook.database import Transaction
from nanohook.flow import accept, credits, history
from nanohook.flow.terms import FINISH_FOR_US
from nanohook.rules import job as rules
from nanohook.rules.job import Fault, Job, ResultPicture, Step, Stored, Task, Unclaimed
from nanohook.rules.status import Stage
from nanohook.stores import jobs, pictures, tasks, unclaimed
from nanohook.values import replace


@dataclass(frozen=True, kw_only=True, slots=True)
class Finishing:
    """What has to be finished."""

    job: Job
    task: Task
    size: tuple[int, int] | None
    """Exact size of the result in pixels, that of the original; ``None``: its own."""
    is_there: bool
    """An unclaimed result is there for it: nothing needs to be fetched."""


class Kept(enum.Enum):
    """What became of a finished picture."""

    RESULT = "result"
    UNCLAIMED = "unclaimed"
    """Its task had ended already: kept for its owner, and nothing else changed."""
    SPARE = "spare"
    """There is one of this task already: the files are to be removed."""


async def begin(tx: Transaction, claimed: Task) -> Finishing:
    """
    Fetch what finishing *claimed* needs.

    Raises:
        LeaseLost: It is no longer ours to finish.
    """
    job, task = await _held(tx, claimed)
    original = await pictures.original(tx, job.original_id, owner_id=job.owner_id)
    size = None if original is None else (original.width_px, original.height_px)
    late = await unclaimed.of_task(tx, job_id=job.id, index=task.index) if task.takes_late else None
    return Finishing(job=job, task=task, size=size, is_there=late is not None)


async def progress(tx: Transaction, claimed: Task, stage: Stage, *, now_us: int) -> None:
    """Show that finishing has come to *stage*; nothing if the claim is no longer ours."""
    task = await tasks.held(tx, claimed, Step.FINISH)
    job = await jobs.load(tx, claimed.job_id)
    moved = None if task is None else rules.advance(task, stage)
    if moved is not None and job is not None:
        await history.move(tx, job, moved, now_us=now_us)


async def finished(tx: Transaction, claimed: Task, stored: Stored, *, sha256: bytes, now_us: int) -> Kept:
    """
    Take *stored* as the task's picture; the job's last task ends the job.

    Raises:
        LeaseLost: Somebody else finished it, or the job is gone: *stored* does not count.
    """
    job, task = await _held(tx, claimed)
    if task.is_ended:
        return await _keep(tx, job, task, stored, sha256=sha256, now_us=now_us)
    picture = ResultPicture(index=claimed.index, attempt=claimed.attempt, stored=stored)
    await pictures.insert_result(tx, picture, job_id=job.id, owner_id=job.owner_id, sha256=sha256, now_us=now_us)
    await history.move(tx, job, rules.completed(task), now_us=now_us)
    return Kept.RESULT


async def take(tx: Transaction, claimed: Task, *, now_us: int) -> None:
    """
    Take the unclaimed result that is there for the task as its picture.

    Raises:
        LeaseLost: The task is no longer ours, or the result is gone meanwhile: look again.
    """
    job, task = await _held(tx, claimed)
    found = await unclaimed.of_task(tx, job_id=job.id, index=task.index)
    if found is None or task.is_ended:
        raise _lost(claimed)
    await credits.live_on(tx, task, found, now_us=now_us)
    await accept.own(tx, found, now_us=now_us)
    await history.move(tx, job, rules.completed(task), now_us=now_us)


async def failed(tx: Transaction, claimed: Task, fault: Fault, *, retry_at: int | None, now_us: int) -> bool:
    """
    Try again at *retry_at* (µs), or end the task when that is ``None`` or its day is over.

    Returns:
        Whether it will be tried again.

    Raises:
        LeaseLost: It is no longer ours.
    """
    job, task = await _held(tx, claimed)
    if retry_at is not None and now_us < (task.finish_since or now_us) + FINISH_FOR_US:
        await tasks.update(tx, replace(task, tries=task.tries + 1, due_at=retry_at))
        return True
    if task.is_ended:
        await tasks.update(tx, replace(task, step=None, due_at=None))
        return False
    await history.move(tx, job, rules.advance(task, Stage.FAILED, fault=fault) or task, now_us=now_us)
    return False


async def _keep(tx: Transaction, job: Job, task: Task, stored: Stored, *, sha256: bytes, now_us: int) -> Kept:
    """Keep a picture that nobody waits for any more."""
    picture = Unclaimed(
        job_id=job.id,
        attempt=task.attempt,
        index=task.index,
        owner_id=job.owner_id,
        stored=stored,
        sha256=sha256,
        created_at=now_us,
    )
    await tasks.update(tx, replace(task, step=None, due_at=None))
    is_new = task.stage is not Stage.COMPLETED and await unclaimed.insert(tx, picture)
    return Kept.UNCLAIMED if is_new else Kept.SPARE


async def _held(tx: Transaction, claimed: Task) -> tuple[Job, Task]:
    job = await jobs.load(tx, claimed.job_id)
    task = await tasks.held(tx, claimed, Step.FINISH)
    if job is None or task is None:
        raise _lost(claimed)
    return job, task


def _lost(claimed: Task) -> errors.LeaseLost:
    return errors.LeaseLost(f"task {claimed.index} of job {claimed.job_id} is no longer ours to finish")
