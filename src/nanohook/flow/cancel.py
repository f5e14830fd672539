"""Ending a job because a person wants it: cancel and delete; and taking a deletion back."""

from typing import Final

import orjson

from nanohook import errors
from nanohook.database import Topic, Transaction
from nanohook.flow import credits, history
from nanohook.flow.terms import SECOND_US
from nanohook.rules import downloads, views
from nanohook.rules import job as rules
from nanohook.rules.job import Fault, Job, Step, Task
from nanohook.rules.status import ImageJobStatus, Stage
from nanohook.stores import events, jobs, pictures, projects, tasks, unclaimed
from nanohook.values import replace

RESTORE_US: Final = 24 * 3600 * SECOND_US
"""How long a deleted job can be had back; then its files go."""


async def cancel(tx: Transaction, *, owner_id: str | None, job_id: str, now_us: int) -> Job:
    """
    Cancel an open job; one that is canceled already stays so.

    Args:
        owner_id: ``None`` for an admin, who may cancel anybody's.

    Raises:
        NotFound: No such job of this person.
        Conflict: ``job_ended``: there is nothing to cancel, or not yet.
    """
    job = await jobs.get(tx, owner_id=owner_id, job_id=job_id)
    if job is None:
        raise errors.NotFound("no such image")
    if job.status is ImageJobStatus.CANCELED:
        return job
    if not job.is_open:
        raise errors.Conflict("there is nothing running to cancel", code="job_ended")
    return await _stop(tx, job, now_us=now_us)


async def delete(tx: Transaction, *, owner_id: str, job_id: str, now_us: int) -> None:
    """
    Hide a job at once, canceling it if it is open; its stream is told and ends.

    Raises:
        NotFound: No such job of this person.
    """
    job = await jobs.get(tx, owner_id=owner_id, job_id=job_id)
    if job is None:
        raise errors.NotFound("no such image")
    if job.is_open:
        job = await _stop(tx, job, more_follows=True, now_us=now_us)
    event_id = await events.append(
        tx,
        owner_id=owner_id,
        job_id=job_id,
        name="deleted",
        is_last=True,
        payload=orjson.dumps({"job_id": job_id}).decode(),
        now_us=now_us,
    )
    await tasks.let_go(tx, job_id)  # what was bought stays known by its id: a restored job can be retried
    await jobs.hide(tx, job, now_us=now_us)
    history.announce(tx, replace(job, last_event_id=event_id))


async def restore(tx: Transaction, *, owner_id: str, job_id: str, now_us: int) -> Job:
    """
    Take a deletion back, within ``RESTORE_US``; what was open stays canceled. One that is there already stays.

    Raises:
        NotFound: No such job of this person, or it is gone for good.
    """
    present = await jobs.get(tx, owner_id=owner_id, job_id=job_id)
    if present is not None:
        return present
    job = await jobs.hidden(tx, owner_id=owner_id, job_id=job_id, since_us=now_us - RESTORE_US)
    if job is None:
        raise errors.NotFound("no such image, or it was deleted for good")
    if job.project_id is not None:
        project = await projects.get(tx, owner_id=owner_id, project_id=job.project_id)
        job = job if project is not None else replace(job, project_id=None)
    await jobs.show(tx, job)
    await _want_again(tx, job, now_us=now_us)
    shown = await pictures.results(tx, job_id=job_id, owner_id=owner_id)
    event_id = await events.append(
        tx,
        owner_id=owner_id,
        job_id=job_id,
        name="status",
        is_last=job.status.is_final,
        payload=orjson.dumps(views.event(job, shown, now_us=now_us)).decode(),
        now_us=now_us,
    )
    restored = replace(job, last_event_id=event_id, updated_at=now_us)
    await jobs.update(tx, restored, before=job)
    history.announce(tx, restored)
    return restored


async def _want_again(tx: Transaction, job: Job, *, now_us: int) -> None:
    """Ask after what was canceled when NanoBanana had it, in whichever attempt: it is paid."""
    kept = {(late.attempt, late.index) for late in (await unclaimed.of_jobs(tx, [job.id]))[job.id]}
    # An id is asked for once, for the newest attempt that went on with it.
    canceled = await tasks.canceled(tx, job.id)
    wanted = {task.task_id or tuple(each.url for each in task.candidates): task for task in canceled}
    for task in wanted.values():
        if (task.attempt, task.index) not in kept:
            alive = downloads.fresh(task.candidates, now_us=now_us)
            again = replace(task, candidates=alive, due_at=now_us, finish_since=task.finish_since or now_us)
            await tasks.update(tx, replace(again, step=Step.FINISH if task.task_id is None else Step.ASK))
            tx.wake(Topic.WORK)


async def _stop(tx: Transaction, job: Job, *, more_follows: bool = False, now_us: int) -> Job:
    group = await tasks.of_attempt(tx, job_id=job.id, attempt=job.attempt)
    stopped = []
    for task in group:
        ended = rules.advance(task, Stage.CANCELED, fault=Fault(code="canceled"))
        if ended is not None:
            await tasks.update(tx, _still_wanted(task, ended, now_us=now_us))
            await credits.stop(tx, task, now_us=now_us)
        stopped.append(ended or task)
    return await history.record(tx, job, rules.summarise(job, stopped), more_follows=more_follows, now_us=now_us)


def _still_wanted(task: Task, ended: Task, *, now_us: int) -> Task:
    """
    Plan what is still to be done for a task that is canceled.

    What NanoBanana has of it is paid, and fetched for its owner all the same. While it is not known whether
    NanoBanana has it, its price stays set aside until its deadline.
    """
    is_coming = task.step is Step.FINISH and not task.takes_late
    if is_coming or (task.step is Step.ASK and task.task_id is not None):
        return replace(ended, step=task.step, due_at=task.due_at)
    if task.submit_started_at is not None and task.task_id is None and not is_coming:
        return replace(ended, step=Step.ASK, due_at=now_us)  # from where it is put off until then
    return ended
