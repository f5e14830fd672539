"""The end of finishing: a stored picture becomes a result, or a failure becomes the task's end."""

from dataclasses import dataclass

from nanohook import errors
from nanohook.database import Transaction
from nanohook.flow import history
from nanohook.flow.terms import FINISH_FOR_US
from nanohook.rules import job as rules
from nanohook.rules.job import Fault, Job, ResultPicture, Step, Stored, Task
from nanohook.rules.status import Stage
from nanohook.stores import jobs, pictures, tasks
from nanohook.values import replace


@dataclass(frozen=True, kw_only=True, slots=True)
class Finishing:
    """What has to be finished."""

    job: Job
    task: Task
    size: tuple[int, int] | None
    """Exact size of the result in pixels, that of the original; ``None``: its own."""


async def begin(tx: Transaction, claimed: Task) -> Finishing:
    """
    Fetch what finishing *claimed* needs.

    Raises:
        LeaseLost: It is no longer ours to finish.
    """
    job = await jobs.load(tx, claimed.job_id)
    task = await tasks.held(tx, claimed, Step.FINISH)
    if job is None or task is None:
        raise _lost(claimed)
    original = await pictures.original(tx, job.original_id, owner_id=job.owner_id)
    size = None if original is None else (original.width_px, original.height_px)
    return Finishing(job=job, task=task, size=size)


async def progress(tx: Transaction, claimed: Task, stage: Stage, *, now_us: int) -> None:
    """Show that finishing has come to *stage*; nothing if the claim is no longer ours."""
    task = await tasks.held(tx, claimed, Step.FINISH)
    job = await jobs.load(tx, claimed.job_id)
    moved = None if task is None else rules.advance(task, stage)
    if moved is not None and job is not None:
        await history.move(tx, job, moved, now_us=now_us)


async def finished(tx: Transaction, claimed: Task, stored: Stored, *, sha256: bytes, now_us: int) -> None:
    """
    Take *stored* as the task's picture; the job's last task ends the job.

    Raises:
        LeaseLost: Somebody else finished it, or it was canceled: *stored* does not count.
    """
    job = await jobs.load(tx, claimed.job_id)
    task = await tasks.held(tx, claimed, Step.FINISH)
    completed = None if task is None else rules.advance(task, Stage.COMPLETED)
    if job is None or completed is None:
        raise _lost(claimed)
    picture = ResultPicture(index=claimed.index, attempt=claimed.attempt, stored=stored)
    await pictures.insert_result(tx, picture, job_id=job.id, owner_id=job.owner_id, sha256=sha256, now_us=now_us)
    await history.move(tx, job, completed, now_us=now_us)


async def failed(tx: Transaction, claimed: Task, fault: Fault, *, retry_at: int | None, now_us: int) -> bool:
    """
    Try again at *retry_at* (µs), or end the task when that is ``None`` or its day is over.

    Returns:
        Whether it will be tried again.

    Raises:
        LeaseLost: It is no longer ours.
    """
    job = await jobs.load(tx, claimed.job_id)
    task = await tasks.held(tx, claimed, Step.FINISH)
    if job is None or task is None:
        raise _lost(claimed)
    if retry_at is not None and now_us < (task.finish_since or now_us) + FINISH_FOR_US:
        await tasks.update(tx, replace(task, tries=task.tries + 1, due_at=retry_at))
        return True
    ended = rules.advance(task, Stage.FAILED, fault=fault) or task
    await history.move(tx, job, ended, now_us=now_us)
    return False


def _lost(claimed: Task) -> errors.LeaseLost:
    return errors.LeaseLost(f"task {claimed.index} of job {claimed.job_id} is no longer ours to finish")
