"""The next attempt of a job: it resumes at the step that failed, and buys nothing that may be paid already."""

from collections.abc import Collection, Sequence

from nanohook import errors
from nanohook.database import Topic, Transaction
from nanohook.flow import accept, create, credits, history
from nanohook.rules import credit, downloads
from nanohook.rules.job import Job, Step, Task
from nanohook.rules.status import ImageJobStatus, Stage
from nanohook.stores import jobs, ledger, tasks, unclaimed
from nanohook.values import replace


async def retry(
    tx: Transaction,
    *,
    owner_id: str | None,
    job_id: str,
    may_buy_again: bool,
    can_fetch: bool = True,
    prices: credit.Prices,
    now_us: int,
) -> Job:
    """
    Start the next attempt.

    A task whose picture is stored is carried over; one whose result is known is finished; one with an id is
    asked for first. Only a task that was certainly never taken is submitted without more words.

    Args:
        owner_id: ``None`` for an admin, who may retry anybody's.
        may_buy_again: The caller accepts to pay again for a task of unknown outcome.
        can_fetch: NanoBanana can fetch pictures of ours; only what has to be made anew needs that.

    Raises:
        NotFound: No such job of this person.
        Conflict: ``not_failed``: there is nothing to retry; ``may_be_paid``: see *may_buy_again*;
            ``no_public_url``: see *can_fetch*.
        TooPoor: The owner has fewer credits than this costs.
    """
    job = await jobs.get(tx, owner_id=owner_id, job_id=job_id)
    if job is None:
        raise errors.NotFound("no such image")
    group = await tasks.of_attempt(tx, job_id=job.id, attempt=job.attempt)
    unfinished = [task for task in group if task.stage is not Stage.COMPLETED]
    if not job.status.is_final or not unfinished:
        raise errors.Conflict("only a job with failed or canceled tasks can be retried", code="not_failed")
    late = {found.index for found in (await unclaimed.of_jobs(tx, [job.id]))[job.id]}
    if not may_buy_again and any(_outcome_is_unknown(task) for task in unfinished if task.index not in late):
        raise errors.Conflict(
            "NanoBanana may have taken this; send buy_again to pay once more", code="may_be_paid"
        )
    is_anew = any(_is_bought(task, may_buy_again) and task.index not in late for task in unfinished)
    if is_anew and job.has_input and not can_fetch:
        raise errors.Conflict(create.NO_PUBLIC_URL, code="no_public_url")
    owed = await _owed(tx, job, unfinished, late=late)
    price = prices.of(job.model or "", job.options.get("resolution"))
    await credits.require(tx, job.owner_id, price * len(owed))
    queued = replace(
        job,
        status=ImageJobStatus.PENDING,
        stage=Stage.QUEUED,
        progress=Stage.QUEUED.progress or 0,
        fault=None,
        attempt=job.attempt + 1,
    )
    started = await history.record(tx, job, queued, now_us=now_us)
    await jobs.start_attempt(tx, started, now_us=now_us)
    await credits.reserve(tx, started, owed, price=price, now_us=now_us)
    for task in group:
        await _go_on(tx, started, task, is_late=task.index in late, may_buy_again=may_buy_again, now_us=now_us)
    tx.wake(Topic.WORK)
    return started


async def _owed(tx: Transaction, job: Job, unfinished: Sequence[Task], *, late: Collection[int]) -> list[int]:
    """
    Tell for which tasks, by index, the next attempt has to be paid.

    A task that was canceled too late is paid already: what NanoBanana made of it is not paid again, nor what it is
    made anew because there is nothing of it. Only who buys another beside one that may exist pays twice.
    """
    paid = await ledger.paid(tx, job.id)
    return [
        task.index
        for task in unfinished
        if task.index not in paid or (_outcome_is_unknown(task) and task.index not in late)
    ]


async def _go_on(
    tx: Transaction, started: Job, task: Task, *, is_late: bool, may_buy_again: bool, now_us: int
) -> None:
    """Store *task*'s successor; what is still fetched for *task* passes to it, unless it takes what was before."""
    successor = _next(started, task, may_buy_again=may_buy_again, now_us=now_us)
    if is_late and task.stage is not Stage.COMPLETED:
        successor = accept.resumed(successor, now_us=now_us)
    if successor.step is not Step.SUBMIT and not successor.takes_late and task.step is not None:
        await tasks.update(tx, replace(task, step=None, due_at=None))
    await tasks.insert(tx, successor, priority=started.priority, now_us=now_us)


def _outcome_is_unknown(task: Task) -> bool:
    return not _may_have_result(task) and task.submit_started_at is not None


def _may_have_result(task: Task) -> bool:
    return task.task_id is not None or bool(task.candidates)


def _is_dead(task: Task) -> bool:
    """Tell whether the result of *task* was told, and is at none of the addresses any more."""
    return task.has_result and not any(each.may_be_there for each in task.candidates)


def _is_bought(task: Task, may_buy_again: bool) -> bool:  # noqa: FBT001 - the two go together
    """Tell whether *task* has to be submitted anew; only who accepts to pay twice does so beside a dead result."""
    return not _may_have_result(task) or (may_buy_again and _is_dead(task))


def _next(job: Job, task: Task, *, may_buy_again: bool, now_us: int) -> Task:
    """Build *task*'s successor in the attempt that *job* has come to."""
    if task.stage is Stage.COMPLETED:
        return replace(task, attempt=job.attempt)
    anew = create.fresh_task(job, task.index, now_us=now_us)
    if _is_bought(task, may_buy_again):
        return anew
    resumed = replace(
        anew,
        task_id=task.task_id,
        submit_started_at=task.submit_started_at,
        accepted_at=now_us,
        may_buy=True,
        # What has ended the process once is decoded alone from then on, whoever asks for it again.
        suspect_deaths=None if task.suspect_deaths is None else 0,
    )
    is_told = task.said is None or task.task_id is None  # not merely noted, with an id to confirm it by
    if task.candidates and is_told and (task.task_id is None or not _is_dead(task)):
        alive = [each for each in task.candidates if each.may_be_there] or task.candidates
        again = downloads.fresh(alive, now_us=now_us)
        return replace(resumed, step=Step.FINISH, candidates=again, finish_since=now_us)
    return replace(resumed, step=Step.ASK)
