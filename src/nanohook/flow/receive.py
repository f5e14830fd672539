"""
What NanoBanana says, by whichever way: callback or answer of ``record-info``. One way in, one log.

A delivery and what it changes (task, job, event, "finish is due") are stored in one transaction: there is no
moment between accepted and applied.
"""

import logging
from typing import Final, NamedTuple

from nanohook import errors
from nanohook.database import Topic, Transaction
from nanohook.flow import history
from nanohook.flow.terms import Terms
from nanohook.rules import addresses, callbacks
from nanohook.rules import job as rules
from nanohook.rules.callbacks import Reading
from nanohook.rules.job import Fault, Job, Step, Task
from nanohook.rules.status import Stage
from nanohook.stores import deliveries, jobs, tasks
from nanohook.stores.deliveries import Delivery, Effect
from nanohook.stores.tasks import Standing
from nanohook.values import frozen, replace

logger = logging.getLogger(__name__)

TASK_DELIVERIES: Final = 1_000
"""Deliveries taken for one task; the next is refused."""


@frozen
class Receipt:
    """What became of a delivery."""

    delivery_id: str
    is_new: bool
    job_id: str | None
    effect: Effect
    reason: str | None


class _Plan(NamedTuple):
    """What a reading means for a task: the task after it, or why there is nothing to do."""

    task: Task | None
    reason: str | None = None
    only_progress: bool = False
    """Nothing but stage and progress is changed."""


async def callback(tx: Transaction, delivery: Delivery, reading: Reading, *, terms: Terms, now_us: int) -> Receipt:
    """
    Take a callback whose address was signed for a job, attempt and task.

    Raises:
        SignatureInvalid: It names another job or task than its address was signed for.
        TooMany: The task has had ``TASK_DELIVERIES``.
    """
    if delivery.job_id is None or delivery.attempt is None or delivery.index is None:
        raise ValueError("a delivery by token names job, attempt and task")
    if reading.job_id is not None and reading.job_id != delivery.job_id:
        raise errors.SignatureInvalid("the body names another job than the address was signed for")
    standing = await tasks.standing(tx, job_id=delivery.job_id, attempt=delivery.attempt, index=delivery.index)
    if standing is None:
        return await _keep(tx, delivery, reading, None, effect=Effect.PARKED, reason="no such job here")
    known_id = standing.task.task_id
    if reading.task_id is not None and known_id is not None and reading.task_id != known_id:
        raise errors.SignatureInvalid("the body names another task than the address was signed for")
    return await _take(tx, delivery, reading, standing, terms=terms, now_us=now_us)


async def signed(tx: Transaction, delivery: Delivery, reading: Reading, *, terms: Terms, now_us: int) -> Receipt:
    """
    Take a callback that was signed by its headers: its task is found by what the body names.

    Raises:
        Invalid: The body does not tell which task is meant.
        TooMany: The task has had ``TASK_DELIVERIES``.
    """
    task = None if reading.task_id is None else await tasks.by_task_id(tx, reading.task_id)
    if task is None and reading.job_id is not None:
        task = await _only_task(tx, reading.job_id)
    elif task is None and reading.task_id is None:
        raise errors.Invalid("the body names neither task nor job")
    if task is None:
        return await _keep(tx, delivery, reading, None, effect=Effect.PARKED, reason="no such job here")
    if reading.job_id is not None and reading.job_id != task.job_id:
        raise errors.Invalid("the body's job and task do not belong together")
    if None not in {reading.task_id, task.task_id} and reading.task_id != task.task_id:
        raise errors.Invalid("the body's job and task do not belong together")
    standing = await tasks.standing(tx, job_id=task.job_id, attempt=task.attempt, index=task.index)
    if standing is None:
        raise errors.NotFound("the task is gone")
    placed = replace(delivery, job_id=task.job_id, attempt=task.attempt, index=task.index)
    return await _take(tx, placed, reading, standing, terms=terms, now_us=now_us)


async def answer(
    tx: Transaction,
    delivery: Delivery,
    record: callbacks.Record,
    asked: Task,
    *,
    terms: Terms,
    now_us: int,
) -> Receipt | None:
    """
    Take an answer of ``record-info``, which is believed, as a synthetic delivery; then say when to ask again.

    Args:
        asked: The task as it was claimed for asking.

    Returns:
        ``None`` if the job is gone.
    """
    job = await jobs.load(tx, asked.job_id)
    before = await tasks.load(tx, job_id=asked.job_id, attempt=asked.attempt, index=asked.index)
    if job is None or before is None:
        return None
    task = replace(before, asks=before.asks + 1)
    plan = _believed(job, task, record, terms=terms, now_us=now_us)
    effect = Effect.NO_EFFECT if plan.task is None else Effect.APPLIED
    is_new = await deliveries.insert(
        tx, delivery, owner_id=job.owner_id, task_id=asked.task_id, effect=effect, reason=plan.reason
    )
    after = plan.task or task
    if after.step is Step.ASK and after.claim == asked.claim:
        after = replace(after, due_at=now_us + terms.ask_interval_us(after.asks))
    if task.attempt == job.attempt:  # a retry may have come while the answer was on its way
        await _write(tx, job, before, after, now_us=now_us)
    return Receipt(delivery_id=delivery.id, is_new=is_new, job_id=job.id, effect=effect, reason=plan.reason)


async def keep_unapplied(tx: Transaction, delivery: Delivery, *, reason: str, due_at: int) -> Receipt:
    """Store a delivery whose applying raised, to be tried again at *due_at* (µs)."""
    is_new = await deliveries.insert(
        tx, delivery, owner_id=None, task_id=None, effect=Effect.UNAPPLIED, reason=reason, due_at=due_at
    )
    tx.wake(Topic.UNAPPLIED)
    return Receipt(
        delivery_id=delivery.id if is_new else await _first(tx, delivery),
        is_new=is_new,
        job_id=delivery.job_id,
        effect=Effect.UNAPPLIED,
        reason=reason,
    )


async def apply_again(tx: Transaction, delivery: Delivery, reading: Reading, *, terms: Terms, now_us: int) -> None:
    """Apply a delivery that is stored as unapplied; its verdict and its time stand."""
    task = None
    if delivery.job_id is not None and delivery.attempt is not None and delivery.index is not None:
        task = await tasks.load(tx, job_id=delivery.job_id, attempt=delivery.attempt, index=delivery.index)
    elif reading.task_id is not None:
        task = await tasks.by_task_id(tx, reading.task_id)
    job = None if task is None else await jobs.load(tx, task.job_id)
    if job is None or task is None:
        await deliveries.judge(tx, delivery.id, effect=Effect.NO_EFFECT, reason="the job is gone", due_at=None)
        return
    plan = _plan(job.attempt, task, reading, terms=terms, now_us=now_us)
    effect = Effect.NO_EFFECT if plan.task is None else Effect.APPLIED
    await deliveries.judge(tx, delivery.id, effect=effect, reason=plan.reason, due_at=None)
    if plan.task is not None:
        await _write(tx, job, task, plan.task, now_us=now_us)


async def _take(
    tx: Transaction, delivery: Delivery, reading: Reading, standing: Standing, *, terms: Terms, now_us: int
) -> Receipt:
    """Plan, store the delivery with its effect, then carry the plan out: unless the same came before."""
    task = standing.task
    if standing.deliveries >= TASK_DELIVERIES:
        raise errors.TooMany(f"task {task.index} of job {task.job_id} has had its deliveries", retry_after_s=60)
    if standing.job_is_deleted:
        plan = _Plan(None, "the job was deleted")
    else:
        plan = _plan(standing.job_attempt, task, reading, terms=terms, now_us=now_us)
    effect = Effect.NO_EFFECT if plan.task is None else Effect.APPLIED
    receipt = await _keep(tx, delivery, reading, task, effect=effect, reason=plan.reason)
    if not receipt.is_new or plan.task is None:
        await tasks.took_delivery(tx, task)
        return receipt
    await tasks.took_delivery(tx, plan.task)
    job = await jobs.load(tx, task.job_id)
    if job is None:
        raise errors.NotFound("the job is gone")
    # Stage and progress are stored with the count: often that is all.
    await _write(tx, job, task, plan.task, is_stored=plan.only_progress, now_us=now_us)
    return receipt


async def _keep(
    tx: Transaction,
    delivery: Delivery,
    reading: Reading,
    task: Task | None,
    *,
    effect: Effect,
    reason: str | None,
) -> Receipt:
    is_new = await deliveries.insert(
        tx,
        delivery,
        owner_id=None if task is None else task.owner_id,
        task_id=reading.task_id,
        effect=effect,
        reason=reason,
    )
    return Receipt(
        delivery_id=delivery.id if is_new else await _first(tx, delivery),
        is_new=is_new,
        job_id=delivery.job_id,
        effect=effect,
        reason=reason,
    )


async def _first(tx: Transaction, delivery: Delivery) -> str:
    return await deliveries.same(tx, delivery) or delivery.id


async def _write(
    tx: Transaction, job: Job, before: Task, after: Task, *, is_stored: bool = False, now_us: int
) -> None:
    """Store what a plan came to; the task's *job* follows."""
    await history.move(tx, job, after, is_stored=is_stored, now_us=now_us)
    is_other = (after.step, after.due_at) != (before.step, before.due_at)
    if is_other and after.due_at is not None and after.due_at <= now_us:
        tx.wake(Topic.WORK)


async def _only_task(tx: Transaction, job_id: str) -> Task | None:
    job = await jobs.load(tx, job_id)
    if job is None:
        return None
    group = await tasks.of_attempt(tx, job_id=job_id, attempt=job.attempt)
    if len(group) != 1:
        raise errors.Invalid("the body names a job of several tasks, but no task")
    return group[0]


def _plan(job_attempt: int, task: Task, reading: Reading, *, terms: Terms, now_us: int) -> _Plan:
    """Tell what a callback's *reading* means for *task*."""
    if task.attempt != job_attempt:
        return _Plan(None, f"attempt {task.attempt} has ended, the job is at {job_attempt}")
    if task.is_ended:
        return _Plan(None, f"the task has ended: {task.stage}")
    adopted = None
    if task.task_id is None and reading.task_id is not None:
        # NanoBanana speaks of it, so it was accepted; from now on it can be asked for.
        first_ask = now_us + terms.ask_interval_us(0)
        sooner = first_ask if task.step is Step.ASK and (task.due_at or 0) > first_ask else task.due_at
        adopted = replace(task, task_id=reading.task_id, accepted_at=task.accepted_at or now_us, due_at=sooner)
    named = adopted or task
    if reading.stage is None:
        return _Plan(adopted, f"no news: {reading.word}")
    if not reading.stage.is_final:
        moved = rules.advance(named, reading.stage, progress=reading.progress)
        reason = None if moved else f"already at {task.stage} {task.progress} %"
        return _Plan(moved or adopted, reason, only_progress=adopted is None)
    if named.step is Step.FINISH:
        return _Plan(adopted, "the first final word won: its result is being fetched")
    if reading.is_success and addresses.is_listed(reading.urls[0], terms.believed_hosts):
        return _Plan(_finish(named, reading.urls[0], now_us=now_us))
    if named.task_id is None and reading.stage is not Stage.COMPLETED:
        # Nothing to ask by: the signature is all there is to go by.
        return _Plan(_end(named, reading.stage, reading))
    doubted = replace(named, said=reading.stage, step=Step.ASK, due_at=now_us)
    if named.task_id is None:
        return _Plan(adopted, "a success without address or task id")
    return _Plan(doubted, "asked record-info first")


def _believed(job: Job, task: Task, record: callbacks.Record, *, terms: Terms, now_us: int) -> _Plan:
    """Tell what an answer of ``record-info`` means for *task*."""
    if task.attempt != job.attempt or task.is_ended:
        return _Plan(None, "the task has ended")
    if task.step is Step.FINISH:
        return _Plan(None, "its result is being fetched")
    reading = record.reading
    if reading is not None and reading.is_success:
        return _Plan(_finish(task, reading.urls[0], now_us=now_us))
    has_failed = reading is not None and reading.stage in {Stage.FAILED, Stage.CANCELED}
    if task.may_buy and (has_failed or record.is_gone):
        return _Plan(_buy(task, now_us=now_us), "NanoBanana has none: bought again")
    if has_failed and reading is not None:
        return _Plan(_end(task, reading.stage or Stage.FAILED, reading))
    if not record.found and task.said in {Stage.FAILED, Stage.CANCELED}:
        return _Plan(rules.advance(task, Stage(task.said), fault=Fault(code=_ended_code(Stage(task.said)))))
    if now_us >= deadline_of(task, terms):
        return _Plan(rules.advance(task, Stage.FAILED, fault=Fault(code="deadline")), "past its deadline")
    if reading is not None and reading.stage is not None and not reading.stage.is_final:
        moved = rules.advance(task, reading.stage)
        return _Plan(moved, None if moved else "still running")
    return _Plan(None, "not found yet" if not record.found else "no news")


def deadline_of(task: Task, terms: Terms) -> int:
    """When NanoBanana's time for *task* is over, µs; counted from its acceptance, else from the submit."""
    started = task.accepted_at or task.submit_started_at or 0
    return started + terms.deadline_us


def _finish(task: Task, url: str, *, now_us: int) -> Task:
    moved = rules.advance(task, Stage.DOWNLOADING) or task
    return replace(moved, result_url=url, step=Step.FINISH, due_at=now_us, tries=0, finish_since=now_us, said=None)


def _buy(task: Task, *, now_us: int) -> Task:
    return replace(
        task,
        task_id=None,
        step=Step.SUBMIT,
        due_at=now_us,
        tries=0,
        asks=0,
        submit_started_at=None,
        accepted_at=None,
        said=None,
        may_buy=False,
    )


def _end(task: Task, stage: Stage, reading: Reading) -> Task | None:
    code = callbacks.fault_code(reading) if stage is Stage.FAILED else _ended_code(stage)
    return rules.advance(task, stage, fault=Fault(code=code, detail=reading.error_message))


def _ended_code(stage: Stage) -> str:
    return "canceled" if stage is Stage.CANCELED else "upstream_failed"
