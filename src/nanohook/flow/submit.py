"""
Around the POST that is paid for: what is committed before it, and what its outcome means.

``submit_started_at`` is committed before the POST; whoever finds it set without an answer must take the outcome
as unknown, and never sends again by itself.
"""

from dataclasses import dataclass
from typing import Final

from nanohook import errors
from nanohook.database import Topic, Transaction
from nanohook.flow import accept, credits, gate, history, plans
from nanohook.flow.terms import SECOND_US, Terms
from nanohook.rules import job as rules
from nanohook.rules.job import Fault, Job, Step, Stored, Task
from nanohook.rules.status import Stage
from nanohook.stores import claims, deliveries, jobs, pictures, tasks, unclaimed
from nanohook.values import replace

ONCE_MORE_AFTER_US: Final = 60 * SECOND_US
"""After a clear "server error" that took nothing, one more try."""
BACKOFF_US: Final = 60 * SECOND_US
"""What waits of itself waits no longer than this."""
IN_FLIGHT_US: Final = 90 * SECOND_US
"""So long a POST may be on its way, answer and all, in a process that was frozen: nobody else judges it before."""
TUNNEL_PAUSE_US: Final = 3 * SECOND_US
"""While the tunnel is away, a picture that NanoBanana has to fetch waits this long, and again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Submission:
    """What has to be sent for a task."""

    job: Job
    task: Task
    source: Stored | None
    """The picture to change, or ``None`` for text to image."""
    public_url: str | None
    """Where NanoBanana is told to fetch it and to call back, whatever that is when it answers."""


async def begin(
    tx: Transaction, claimed: Task, *, terms: Terms, is_probe: bool = False, now_us: int
) -> Submission | None:
    """
    Mark the submit of *claimed* as started.

    Returns:
        What to send, or ``None`` if nothing may be: an earlier try was cut off before its answer was stored (the
        outcome is unknown, and has been dealt with), a late result of an earlier attempt is taken instead, the
        gate has closed since it was claimed, or the tunnel is away.

    Raises:
        LeaseLost: It is no longer ours to submit.
    """
    job, task = await _held(tx, claimed)
    if task.submit_started_at is not None or task.task_id is not None:
        # Started and not answered; or a callback has named the task meanwhile. Either way it may be paid.
        judged_at = (task.submit_started_at or 0) + IN_FLIGHT_US
        if task.task_id is None and task.said is None and now_us < judged_at <= now_us + IN_FLIGHT_US:
            await tasks.update(tx, replace(task, due_at=judged_at))
        else:
            await _outcome_unknown(tx, job, task, terms=terms, now_us=now_us)
        return None
    if await unclaimed.of_task(tx, job_id=job.id, index=task.index) is not None:
        await tasks.update(tx, accept.resumed(task, now_us=now_us))
        tx.wake(Topic.WORK)
        return None
    state = await gate.read(tx)
    if state.paused_at is not None or (state.blocked_code is not None and not is_probe):
        await tasks.update(tx, replace(task, due_at=now_us))
        return None
    source = await _source(tx, job)
    if source is not None and terms.public_url is None and terms.awaits_callbacks:
        # The tunnel is away for a moment, and NanoBanana could not fetch the picture.
        await tasks.update(tx, replace(task, due_at=now_us + TUNNEL_PAUSE_US))
        return None
    started = replace(task, submit_started_at=now_us)
    moved = rules.advance(started, Stage.SUBMITTING) or started
    job = await history.move(tx, job, moved, now_us=now_us)
    return Submission(job=job, task=moved, source=source, public_url=terms.public_url)


async def _source(tx: Transaction, job: Job) -> Stored | None:
    """Fetch the picture that NanoBanana shall start from."""
    if job.options.get("use") == "result" and job.source_job_id is not None:
        results = await pictures.results(tx, job_id=job.source_job_id, owner_id=job.owner_id)
        return results[0].stored if results else None
    return await pictures.original(tx, job.original_id, owner_id=job.owner_id)


async def accepted(
    tx: Transaction,
    submitted: Task,
    task_id: str,
    *,
    terms: Terms,
    is_misled: bool = False,
    now_us: int,
) -> None:
    """
    Store NanoBanana's id for the task, and when to ask for it if no callback comes.

    A callback may have been faster: then the task has moved on and only lacks its id, if even that.

    Args:
        is_misled: Our address has changed since NanoBanana was told it: its callback will not find us.
    """
    task = await _as_stored(tx, submitted)
    if task is None:
        return
    # Its own answer counts, whatever a callback may have called the task, or noted: now it can be asked.
    known = task.candidates if task.said is None else ()
    taken = replace(task, task_id=task_id, accepted_at=now_us, tries=0, candidates=known)
    after_us = terms.ask_every_us if is_misled else _first_ask_us(terms)
    first_ask = plans.next_question(taken, now_us + after_us, terms=terms, now_us=now_us)
    job = await jobs.load(tx, submitted.job_id)
    if job is None or job.attempt != task.attempt or task.is_ended:
        # Canceled, deleted or failed while the answer was on its way: what was bought stays known by its id.
        if task.stage is Stage.CANCELED:
            await credits.charge(tx, task, now_us=now_us)
        if job is None:
            taken = replace(taken, step=None, due_at=None)
        elif task.stage is not Stage.COMPLETED and (task.step is None or _waits_for_answer(task)):
            taken = replace(taken, step=Step.ASK, due_at=first_ask)
        await tasks.update(tx, taken)
        await deliveries.match_parked(tx, taken, now_us=now_us)
        return
    if _waits_for_answer(task) or _is_same_submit(task, submitted):
        # A final word that came before the answer is confirmed at once.
        due_at = first_ask if taken.said is None else now_us
        taken = replace(taken, step=Step.ASK, due_at=due_at)
        taken = rules.advance(taken, Stage.GENERATING) or taken
    await history.move(tx, job, taken, now_us=now_us)
    await deliveries.match_parked(tx, taken, now_us=now_us)
    tx.wake(Topic.WORK)


def _waits_for_answer(task: Task) -> bool:
    """Tell whether *task* was taken for one of unknown outcome before its submit was answered."""
    return task.step is Step.ASK and task.task_id is None


def _is_same_submit(task: Task, submitted: Task) -> bool:
    """
    Tell whether *task* still waits for the answer to the submit that *submitted* was sent with.

    Whoever has claimed it meanwhile (a lease lapses while a laptop sleeps): its time stands for the submit.
    """
    started_at = submitted.submit_started_at
    return task.step is Step.SUBMIT and started_at is not None and task.submit_started_at == started_at


def _first_ask_us(terms: Terms) -> int:
    return terms.deadline_us if terms.ask_after_us is None else terms.ask_after_us


async def again(
    tx: Transaction,
    submitted: Task,
    *,
    due_at: int,
    tries: int | None = None,
    fault: Fault | None = None,
    now_us: int,
) -> None:
    """Nothing was taken: submit again at *due_at* (µs); *fault* is what it ends with if that goes on and on."""
    found = await _in_submit(tx, submitted)
    if found is None:
        await _note(tx, submitted, task_id=None, now_us=now_us)
        return
    job, task = found
    if await _as_said(tx, job, task, now_us=now_us):
        return
    await tasks.update(
        tx,
        replace(
            task,
            submit_started_at=None,
            tries=task.tries + 1 if tries is None else tries,
            due_at=due_at,
            fault=fault,
        ),
    )


async def once_more(tx: Transaction, submitted: Task, fault: Fault, *, now_us: int) -> None:
    """NanoBanana failed before it took anything: submit again once, a while from now; the second time it fails."""
    if await tasks.may_try_once_more(tx, submitted):
        await again(tx, submitted, due_at=now_us + ONCE_MORE_AFTER_US, now_us=now_us)
    else:
        await refused(tx, submitted, fault, now_us=now_us)


async def recover(tx: Transaction, *, terms: Terms, now_us: int) -> int:
    """
    Take over what a former process held, and let no submit that it began wait for the gate to open.

    Only for a process that knows it works alone.

    Returns:
        How many tasks were taken over.
    """
    taken = await claims.take_over(tx, now_us=now_us)
    # What waits for longer than its back-off was written by a clock that has been set back since, or for a host
    # that asked for more: it is tried once too often.
    taken += await claims.pull_in(tx, now_us=now_us, furthest_us=BACKOFF_US)
    for task in await tasks.cut_off(tx):
        job = await jobs.load(tx, task.job_id)
        if job is not None:
            await _outcome_unknown(tx, job, task, terms=terms, now_us=now_us)
    return taken


async def refused(tx: Transaction, submitted: Task, fault: Fault, *, now_us: int) -> None:
    """NanoBanana does not take it: the task fails."""
    found = await _in_submit(tx, submitted)
    if found is None:
        await _note(tx, submitted, task_id=None, now_us=now_us)
        return
    job, task = found
    if await _as_said(tx, job, task, now_us=now_us):
        return
    # Nothing was taken, so a retry may submit without asking whether to pay again.
    free = replace(task, submit_started_at=None)
    await history.move(tx, job, rules.advance(free, Stage.FAILED, fault=fault) or free, now_us=now_us)


async def unknown(tx: Transaction, submitted: Task, *, task_id: str | None, terms: Terms, now_us: int) -> None:
    """Nobody knows whether it was taken: it waits for its callback and is never sent again by itself."""
    found = await _in_submit(tx, submitted)
    if found is None:
        if task_id is not None:
            await _note(tx, submitted, task_id=task_id, now_us=now_us)
        else:
            await _fetch_noted(tx, submitted, now_us=now_us)
        return
    job, task = found
    known = replace(task, task_id=task.task_id or task_id)
    await _outcome_unknown(tx, job, known, terms=terms, now_us=now_us)


async def give_up(tx: Transaction, claimed: Task, *, terms: Terms, now_us: int) -> None:
    """
    Fail a task of unknown outcome when its deadline has passed, for there is no id to ask by; before, put it off.

    One that was canceled meanwhile is only given its price back.

    Raises:
        LeaseLost: It was settled meanwhile.
    """
    task = await claims.held(tx, claimed, Step.ASK)
    if task is None or task.task_id is not None:
        raise errors.LeaseLost(f"task {claimed.index} of job {claimed.job_id} has moved on")
    deadline = plans.deadline_of(task, terms)
    if now_us < deadline:
        await tasks.update(tx, replace(task, due_at=deadline))
        return
    if task.is_ended:
        await tasks.update(tx, replace(task, step=None, due_at=None))
        await _fetch_noted(tx, task, now_us=now_us)
        await credits.release(tx, task, now_us=now_us)
        return
    job = await jobs.load(tx, claimed.job_id)
    if job is None:
        raise errors.LeaseLost(f"job {claimed.job_id} is gone")
    failed = rules.advance(task, Stage.FAILED, fault=Fault(code="unknown_outcome")) or task
    await history.move(tx, job, failed, now_us=now_us)


async def _outcome_unknown(tx: Transaction, job: Job, task: Task, *, terms: Terms, now_us: int) -> None:
    if await _as_said(tx, job, task, now_us=now_us):
        return
    if task.task_id is not None:
        first_ask = plans.next_question(task, now_us + terms.ask_interval_us(0), terms=terms, now_us=now_us)
        waiting = replace(task, step=Step.ASK, due_at=first_ask)
        moved = rules.advance(waiting, Stage.GENERATING) or waiting
        await deliveries.match_parked(tx, moved, now_us=now_us)
    elif terms.awaits_callbacks:
        moved = replace(task, step=Step.ASK, due_at=plans.deadline_of(task, terms))
    else:
        # No callback can ever come, and there is no id to ask by.
        moved = rules.advance(task, Stage.FAILED, fault=Fault(code="unknown_outcome")) or task
    await history.move(tx, job, moved, now_us=now_us)


async def _as_said(tx: Transaction, job: Job, task: Task, *, now_us: int) -> bool:
    """
    Take the final word of a callback that came before the answer, if that brought no id to ask by.

    Returns:
        ``False``: there is none, or nothing follows from it.
    """
    moved = None
    if task.said is not None and task.task_id is None:
        moved, _ = plans.by_signature(task, now_us=now_us)
    if moved is None:
        return False
    await history.move(tx, job, moved, now_us=now_us)
    tx.wake(Topic.WORK)
    return True


async def _fetch_noted(tx: Transaction, submitted: Task, *, now_us: int) -> None:
    """Fetch what a callback has told of a task that was canceled during its submit, whose answer brought no id."""
    task = await _as_stored(tx, submitted)
    if task is None or not task.is_ended or task.task_id is not None or not task.candidates:
        return
    if task.said == Stage.COMPLETED and await jobs.load(tx, task.job_id) is not None:
        moved, _ = plans.by_signature(task, now_us=now_us)
        await tasks.update(tx, moved or task)
        tx.wake(Topic.WORK)


async def _as_stored(tx: Transaction, submitted: Task) -> Task | None:
    return await tasks.load(tx, job_id=submitted.job_id, attempt=submitted.attempt, index=submitted.index)


async def _note(tx: Transaction, submitted: Task, *, task_id: str | None, now_us: int) -> None:
    """
    Note on a task that ended during its submit what came of that, and change nothing else.

    One that is still waiting because its lease had lapsed, so that the outcome was taken for unknown, goes on.

    Args:
        task_id: What was bought, perhaps; ``None``: nothing was taken.
    """
    task = await _as_stored(tx, submitted)
    if task is None or not (task.is_ended or _waits_for_answer(task)):
        return  # a callback was faster, and knows more
    if task_id is not None:
        known = replace(task, task_id=task.task_id or task_id)
        is_missed = task.is_ended and task.step is None and task.stage is not Stage.COMPLETED
        if _waits_for_answer(task) or (is_missed and await jobs.load(tx, task.job_id) is not None):
            known = replace(known, step=Step.ASK, due_at=now_us)
        if task.stage is Stage.CANCELED:
            await credits.charge(tx, task, now_us=now_us)
        await tasks.update(tx, known)
        await deliveries.match_parked(tx, known, now_us=now_us)
    elif task.is_known_bought:
        return
    elif task.is_ended:
        # A retry that came meanwhile had to pay for itself: the outcome was unknown to it.
        is_over = replace(task, step=None, due_at=None) if _waits_for_answer(task) else task
        await tasks.update(tx, replace(is_over, submit_started_at=None))
        await credits.refund(tx, task, now_us=now_us)
    else:
        await tasks.update(tx, replace(task, step=Step.SUBMIT, submit_started_at=None, due_at=now_us))


async def _in_submit(tx: Transaction, submitted: Task) -> tuple[Job, Task] | None:
    """Fetch the task, if it still waits for this submit's answer: a callback may have settled it meanwhile."""
    task = await _as_stored(tx, submitted)
    job = await jobs.load(tx, submitted.job_id)
    if job is None or task is None or job.attempt != task.attempt or not _is_same_submit(task, submitted):
        return None
    return job, task


async def _held(tx: Transaction, claimed: Task) -> tuple[Job, Task]:
    task = await claims.held(tx, claimed, Step.SUBMIT)
    job = None if task is None else await jobs.load(tx, claimed.job_id)
    if job is None or task is None or job.attempt != task.attempt:
        raise errors.LeaseLost(f"task {claimed.index} of job {claimed.job_id} is not ours to submit")
    return job, task
