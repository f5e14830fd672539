"""Results that came too late: into the job after all, because their owner wants them."""

from nanohook import errors
from nanohook.database import Transaction
from nanohook.flow import credits, history
from nanohook.rules import job as rules
from nanohook.rules.job import Job, ResultPicture, Task, Unclaimed
from nanohook.rules.status import Stage
from nanohook.stores import jobs, pictures, tasks, unclaimed
from nanohook.values import replace


async def accept_late(tx: Transaction, *, owner_id: str | None, job_id: str, now_us: int) -> Job:
    """
    Take the unclaimed results of a job that has ended as its own; what was given back for them is paid again.

    Args:
        owner_id: ``None`` for an admin, who may do it for anybody.

    Raises:
        NotFound: No such job of this person.
        Conflict: ``job_running``: it has not ended; ``nothing_late``: there is none for a task without a picture.
        TooPoor: The owner has fewer credits than were given back.
    """
    job = await jobs.get(tx, owner_id=owner_id, job_id=job_id)
    if job is None:
        raise errors.NotFound("no such image")
    if job.is_open:
        raise errors.Conflict("this image is being generated", code="job_running")
    group = await tasks.of_attempt(tx, job_id=job.id, attempt=job.attempt)
    taken = [await take(tx, task, now_us=now_us) for task in group]
    if taken == group:
        raise errors.Conflict("no result of this image waits to be accepted", code="nothing_late")
    return await history.record(tx, job, rules.summarise(job, taken), always=True, now_us=now_us)


async def take(tx: Transaction, task: Task, *, now_us: int) -> Task:
    """Complete *task*, which ended without a picture, by an unclaimed one; it stays as it is if there is none."""
    found = None
    if task.stage is not Stage.COMPLETED:
        found = await unclaimed.of_task(tx, job_id=task.job_id, index=task.index)
    if found is None:
        return task
    await credits.pay_again(tx, found, now_us=now_us)
    # Its own purchase, of which nobody knows whether NanoBanana took it, has no task to wait for any more.
    await credits.release(tx, task, now_us=now_us)
    await own(tx, found, now_us=now_us)
    completed = rules.completed(task)
    await tasks.update(tx, completed)
    return completed


async def own(tx: Transaction, found: Unclaimed, *, now_us: int) -> None:
    """Make an unclaimed picture one of its job's; the file stays where it is."""
    await unclaimed.remove(tx, found)
    picture = ResultPicture(index=found.index, attempt=found.attempt, stored=found.stored)
    await pictures.insert_result(
        tx, picture, job_id=found.job_id, owner_id=found.owner_id, sha256=found.sha256, now_us=now_us
    )


def resumed(task: Task, *, now_us: int) -> Task:
    """Plan that *task* takes an unclaimed picture when it is finished: nothing is downloaded or bought."""
    return replace(task, step=rules.Step.FINISH, candidates=(), due_at=now_us, tries=0, finish_since=now_us)
