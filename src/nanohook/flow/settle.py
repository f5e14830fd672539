"""The end of finishing: a stored picture becomes a result, or a failure becomes the task's end."""

import enum
from dataclasses import dataclass
from typing import Final

from nanohook import errors
from nanohook.database import Transaction
from nanohook.flow import accept, credits, history, plans
from nanohook.rules import downloads
from nanohook.rules import job as rules
from nanohook.rules.downloads import Outcome
from nanohook.rules.job import Fault, Job, ResultPicture, Step, Stored, Task, Unclaimed
from nanohook.rules.status import Stage
from nanohook.stores import claims, jobs, pictures, tasks, unclaimed
from nanohook.values import replace

MAX_DEATHS: Final = 3
"""Deaths of the process while one task alone was decoded; then it is given up."""


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
    task = await claims.held(tx, claimed, Step.FINISH)
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
    await history.move(tx, job, replace(rules.completed(task), suspect_deaths=None), now_us=now_us)
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


async def failed(
    tx: Transaction,
    claimed: Task,
    url: str,
    outcome: Outcome,
    *,
    detail: str,
    pause_us: int,
    can_ask: bool,
    now_us: int,
) -> bool:
    """
    Note what came of trying *url*, and plan what follows: another try, a question, or the task's end.

    Args:
        pause_us: Back-off before *url* is tried again.
        can_ask: ``record-info`` can be asked for other addresses.

    Returns:
        Whether the task goes on.

    Raises:
        LeaseLost: It is no longer ours.
    """
    job, task = await _held(tx, claimed)
    known = tuple(
        downloads.tried(each, outcome, pause_us=pause_us, now_us=now_us) if each.url == url else each
        for each in task.candidates
    )
    fault = task.fault if task.is_ended else Fault(code=downloads.PATIENCE[outcome].code, detail=detail)
    after = replace(task, candidates=known, fault=fault)
    is_asked = downloads.is_reconcile_due(known) or after.next_candidate is None
    if is_asked and known and can_ask and task.task_id is not None:
        after = replace(after, step=Step.ASK, due_at=now_us, tries=0)
    else:
        after = plans.fetch_or_end(after, now_us=now_us)
    await history.carry_out(tx, job, task, after, now_us=now_us)
    return after.step is not None


async def suspect(tx: Transaction, *, job_id: str, attempt: int, index: int, now_us: int) -> None:
    """
    Note that the process died while it decoded a task's result.

    From then on the task is decoded alone; dying ``MAX_DEATHS`` times at that, it ends.
    """
    task = await tasks.load(tx, job_id=job_id, attempt=attempt, index=index)
    if task is None or task.step is not Step.FINISH:
        return
    deaths = 0 if task.suspect_deaths is None else task.suspect_deaths + 1
    after = replace(task, suspect_deaths=deaths)
    job = await jobs.load(tx, job_id)
    if deaths >= MAX_DEATHS:
        fault = Fault(code="internal", detail=f"decoding its result ended the process {deaths} times")
        dead = (replace(each, outcome=Outcome.DEADLY, is_dead=True) for each in task.candidates)
        after = replace(after, candidates=tuple(dead))
        after = rules.advance(after, Stage.FAILED, fault=fault) or replace(after, step=None, due_at=None)
    if job is None:
        await tasks.update(tx, after)
    else:
        await history.carry_out(tx, job, task, after, now_us=now_us)


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
    await tasks.update(tx, replace(task, step=None, due_at=None, suspect_deaths=None))
    is_new = task.stage is not Stage.COMPLETED and await unclaimed.insert(tx, picture)
    return Kept.UNCLAIMED if is_new else Kept.SPARE


async def _held(tx: Transaction, claimed: Task) -> tuple[Job, Task]:
    job = await jobs.load(tx, claimed.job_id)
    task = await claims.held(tx, claimed, Step.FINISH)
    if job is None or task is None:
        raise _lost(claimed)
    return job, task


def _lost(claimed: Task) -> errors.LeaseLost:
    return errors.LeaseLost(f"task {claimed.index} of job {claimed.job_id} is no longer ours to finish")
