"""Looking after everybody's jobs: hurrying those that wait, clearing those that have ended."""

from collections.abc import Sequence

from nanohook.database import Topic, Transaction
from nanohook.flow import cancel
from nanohook.rules.job import Job, Step
from nanohook.rules.status import ImageJobStatus
from nanohook.stores import audit, job_lists, jobs, open_jobs, tasks, unclaimed
from nanohook.values import frozen


@frozen
class Hurried:
    """What came of hurrying."""

    due: int
    """Tasks that are asked for, or finished, at once."""
    unknown: list[str]
    """Ids of jobs with a task of unknown outcome: only its callback, or its deadline, can tell."""


async def reconcile(tx: Transaction, job_ids: Sequence[str] | None, *, actor: str, now_us: int) -> Hurried:
    """
    Ask NanoBanana at once for what it has, and finish at once what it has made.

    Args:
        job_ids: Of these jobs; ``None``: of all.
    """
    group = None
    if job_ids is None:
        unknown = await open_jobs.unknown(tx)
    else:
        group = [task for each in (await tasks.of_jobs(tx, job_ids)).values() for task in each]
        unknown = sorted({task.job_id for task in group if task.step is Step.ASK and task.task_id is None})
    due = await open_jobs.hurry(tx, group, now_us=now_us)
    for subject in ["all jobs"] if job_ids is None else job_ids:
        await audit.append(tx, actor=actor, action="job.reconcile", subject=subject, now_us=now_us)
    tx.wake(Topic.WORK)
    return Hurried(due=due, unknown=unknown)


async def ended(
    tx: Transaction, statuses: tuple[ImageJobStatus, ...], *, before_us: int, below_id: str | None, most: int
) -> tuple[list[str], str | None]:
    """
    List jobs that ended with one of *statuses* before *before_us* (µs), looking at *most*, newest first.

    Returns:
        Their ids, and the id below which to go on; ``None``: there are no more.
    """
    wanted = job_lists.Filter(owner_id=None, statuses=statuses, before_id=below_id)
    page, after = await job_lists.page(tx, wanted, most=most)
    return [job.id for job in page if _is_old(job, before_us)], after


async def clear(
    tx: Transaction,
    job_ids: Sequence[str],
    statuses: tuple[ImageJobStatus, ...],
    *,
    before_us: int,
    actor: str,
    now_us: int,
) -> int:
    """
    Hide jobs as their owners can, if they still are as ``ended`` found them; return how many.

    Those with a late result that waits to be accepted are left. Each can be had back within ``cancel.RESTORE_US``.
    """
    cleared = 0
    for job_id in job_ids:
        job = await jobs.load(tx, job_id)
        # Retried meanwhile, or gone: no longer what was meant.
        if job is None or job.status not in statuses or not _is_old(job, before_us):
            continue
        if (await unclaimed.of_jobs(tx, [job_id]))[job_id]:
            continue  # NanoBanana has made its picture after all, and somebody may want it
        await cancel.delete(tx, owner_id=job.owner_id, job_id=job_id, now_us=now_us)
        await audit.append(tx, actor=actor, action="job.clear", subject=job_id, before=job.status, now_us=now_us)
        cleared += 1
    return cleared


def _is_old(job: Job, before_us: int) -> bool:
    return job.completed_at is not None and job.completed_at < before_us
