"""Ending a job because a person wants it: cancel and delete."""

import orjson

from nanohook import errors
from nanohook.database import Transaction
from nanohook.flow import history
from nanohook.rules import job as rules
from nanohook.rules.job import Fault, Job
from nanohook.rules.status import ImageJobStatus, Stage
from nanohook.stores import events, jobs, tasks
from nanohook.values import replace


async def cancel(tx: Transaction, *, owner_id: str, job_id: str, now_us: int) -> Job:
    """
    Cancel an open job; one that is canceled already stays so.

    Raises:
        NotFound: No such job of this person.
        Conflict: ``job_ended``, or ``not_started``: nothing was asked for.
    """
    job = await jobs.get(tx, owner_id=owner_id, job_id=job_id)
    if job is None:
        raise errors.NotFound("no such image")
    if job.status is ImageJobStatus.CANCELED:
        return job
    if not job.is_open:
        code = "not_started" if job.stage is Stage.UPLOADED else "job_ended"
        raise errors.Conflict("there is nothing running to cancel", code=code)
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
    await jobs.hide(tx, owner_id=owner_id, job_id=job_id, now_us=now_us)
    history.announce(tx, replace(job, last_event_id=event_id))


async def _stop(tx: Transaction, job: Job, *, more_follows: bool = False, now_us: int) -> Job:
    group = await tasks.of_attempt(tx, job_id=job.id, attempt=job.attempt)
    stopped = []
    for task in group:
        ended = rules.advance(task, Stage.CANCELED, fault=Fault(code="canceled"))
        if ended is not None:
            await tasks.update(tx, ended)
        stopped.append(ended or task)
    return await history.record(tx, job, rules.summarise(job, stopped), more_follows=more_follows, now_us=now_us)
