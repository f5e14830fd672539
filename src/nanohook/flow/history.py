"""A job's moves: with every visible change goes one event, in the same transaction."""

import logging

import orjson

from nanohook import errors, logs
from nanohook.database import Topic, Transaction
from nanohook.flow import credits
from nanohook.rules import job as rules
from nanohook.rules import views
from nanohook.rules.job import Job, ResultPicture, Task
from nanohook.stores import deliveries, events, jobs, pictures, tasks
from nanohook.values import replace

logger = logging.getLogger(__name__)


async def record(
    tx: Transaction,
    before: Job,
    after: Job,
    *,
    more_follows: bool = False,
    always: bool = False,
    now_us: int,
) -> Job:
    """
    Store that *before* became *after*, with its event; nothing at all if nobody would see a difference.

    Args:
        more_follows: Another event of the job comes in this transaction: streams shall not end at this one.
        always: There is something new to see beside status, stage and progress.

    Returns:
        The job as stored, with the event's id.
    """
    if not always and not rules.shows_change(before, after):
        return before
    shown = await _pictures(tx, after)
    payload = orjson.dumps(views.event(after, shown, now_us=now_us)).decode()
    ended = after.status.is_final
    event_id = await events.append(
        tx,
        owner_id=after.owner_id,
        job_id=after.id,
        name="status",
        is_last=ended and not more_follows,
        payload=payload,
        now_us=now_us,
    )
    stored = replace(after, last_event_id=event_id, updated_at=now_us, completed_at=now_us if ended else None)
    if after.status is before.status and after.attempt == before.attempt:
        await jobs.update_progress(tx, stored)
    else:
        await jobs.update(tx, stored, before=before)
    if ended:
        await jobs.end_attempt(tx, stored, now_us=now_us)
    announce(tx, stored)
    return stored


def announce(tx: Transaction, job: Job) -> None:
    """Wake the streams and write the line of the log, once this is committed."""
    tx.wake(Topic.EVENTS)
    # One line an event: a stuck job can be followed from the log alone.
    line: dict[str, object] = {
        "job_id": job.id,
        "status": job.status.value,
        "progress": job.progress,
        "stage": job.stage.value,
        "attempt": job.attempt,
        "event_id": job.last_event_id,
        **({} if job.fault is None else {"error": job.fault.code, "detail": job.fault.detail}),
    }
    tx.after_commit.append(lambda: logs.info(logger, "job.event", line))


async def move(tx: Transaction, job: Job, task: Task, *, is_stored: bool = False, now_us: int) -> Job:
    """
    Store *task*, unless that *is_stored* already, and let its job and its owner's credits follow.

    Raises:
        LeaseLost: It is not of the job's present attempt.
    """
    if task.attempt != job.attempt:
        raise errors.LeaseLost(f"attempt {task.attempt} of job {job.id} has ended, it is at {job.attempt}")
    if not is_stored:
        await tasks.update(tx, task)
    if task.is_ended:
        await credits.settle(tx, task, now_us=now_us)
    if job.options.get("num_images") == 1:
        group = [task]
    else:
        group = await tasks.of_attempt(tx, job_id=job.id, attempt=job.attempt)
    return await record(tx, job, rules.summarise(job, group), now_us=now_us)


async def carry_out(
    tx: Transaction, job: Job, before: Task, after: Task, *, is_stored: bool = False, now_us: int
) -> None:
    """Store what a plan came to; the task's *job* follows, unless the task had ended for it already."""
    if before.is_ended:
        await tasks.update(tx, after)
    else:
        await move(tx, job, after, is_stored=is_stored, now_us=now_us)
    if before.task_id is None and after.task_id is not None:
        await deliveries.match_parked(tx, after, now_us=now_us)
    is_other = (after.step, after.due_at) != (before.step, before.due_at)
    if is_other and after.due_at is not None and after.due_at <= now_us:
        tx.wake(Topic.WORK)


async def _pictures(tx: Transaction, job: Job) -> list[ResultPicture]:
    if not job.status.is_final and job.options.get("num_images", 1) == 1:
        return []
    return await pictures.results(tx, job_id=job.id, owner_id=job.owner_id)
