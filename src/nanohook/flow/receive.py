"""
What NanoBanana says, by whichever way: callback or answer of ``record-info``. One way in, one log.

A delivery and what it changes (task, job, event, "finish is due") are stored in one transaction: there is no
moment between accepted and applied.
"""

from typing import Final

from nanohook import errors
from nanohook.database import Topic, Transaction
from nanohook.flow import credits, history, plans
from nanohook.flow.plans import Plan
from nanohook.flow.terms import SECOND_US, Terms
from nanohook.rules import callbacks
from nanohook.rules.callbacks import Reading
from nanohook.rules.job import Step, Task
from nanohook.rules.status import Stage
from nanohook.stores import deliveries, jobs, tasks, unclaimed
from nanohook.stores.deliveries import Delivery, Effect
from nanohook.stores.tasks import Standing
from nanohook.values import frozen, replace

TASK_DELIVERIES: Final = 1_000
"""Deliveries taken for one task; the next is refused."""
TEST_JOB: Final = "test"
"""The job that a test callback is signed for: there is none of this name."""
TEST_BYTES: Final = 4_096
TESTS_KEPT_US: Final = 3600 * SECOND_US
MOST_TESTS: Final = 100
"""Test callbacks kept of the last hour; the next is refused."""
MOST_PARKED: Final = 2_000
"""Deliveries kept for jobs that nobody knows here; the next is refused."""


@frozen
class Receipt:
    """What became of a delivery."""

    delivery_id: str
    is_new: bool
    job_id: str | None
    effect: Effect
    reason: str | None
    word: str | None = None
    """What it said, as it was spelt."""


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
        return await _park(tx, delivery, reading)
    known_id = standing.task.task_id
    if reading.task_id is not None and known_id is not None and reading.task_id != known_id:
        # The same may have been taken before NanoBanana's own answer told the task's id.
        first = await _repeated(tx, delivery)
        if first is None:
            raise errors.SignatureInvalid("the body names another task than the address was signed for")
        return Receipt(
            delivery_id=first,
            is_new=False,
            job_id=delivery.job_id,
            effect=Effect.NO_EFFECT,
            reason="the same again",
        )
    if known_id is None and reading.task_id is not None:
        other = await tasks.by_task_id(tx, reading.task_id)
        if other is not None and other.job_id != delivery.job_id:
            raise errors.SignatureInvalid("the body names a task of another job")
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
        return await _park(tx, delivery, reading)
    if reading.job_id is not None and reading.job_id != task.job_id:
        raise errors.Invalid("the body's job and task do not belong together")
    if None not in {reading.task_id, task.task_id} and reading.task_id != task.task_id:
        raise errors.Invalid("the body's job and task do not belong together")
    standing = await tasks.standing(tx, job_id=task.job_id, attempt=task.attempt, index=task.index)
    if standing is None:
        raise errors.NotFound("the task is gone")
    placed = replace(delivery, job_id=task.job_id, attempt=task.attempt, index=task.index)
    return await _take(tx, placed, reading, standing, terms=terms, now_us=now_us)


async def keep_unapplied(tx: Transaction, delivery: Delivery, *, reason: str, due_at: int) -> Receipt:
    """
    Store a delivery whose applying raised, to be tried again at *due_at* (µs).

    Raises:
        TooMany: There are ``TASK_DELIVERIES`` of its task.
    """
    await _check_room(tx, delivery)
    is_new = await deliveries.insert(
        tx, delivery, owner_id=None, task_id=None, effect=Effect.UNAPPLIED, reason=reason, due_at=due_at
    )
    tx.wake(Topic.UNAPPLIED)
    return Receipt(
        delivery_id=delivery.id if is_new else await _repeated(tx, delivery) or delivery.id,
        is_new=is_new,
        job_id=delivery.job_id,
        effect=Effect.UNAPPLIED,
        reason=reason,
    )


async def apply_again(
    tx: Transaction, delivery: Delivery, said: Reading | callbacks.Record, *, terms: Terms, now_us: int
) -> Receipt:
    """
    Apply a delivery that is stored already; its verdict and its time stand.

    Args:
        said: What its body says: a ``Record`` if it is an answer of ``record-info``.
    """
    reading = said.reading if isinstance(said, callbacks.Record) else said
    task = None
    if delivery.job_id is not None and delivery.attempt is not None and delivery.index is not None:
        task = await tasks.load(tx, job_id=delivery.job_id, attempt=delivery.attempt, index=delivery.index)
    elif reading is not None and reading.task_id is not None:
        task = await tasks.by_task_id(tx, reading.task_id)
    elif reading is not None and reading.job_id is not None:
        task = await _only_task(tx, reading.job_id)
    job = None if task is None else await jobs.load(tx, task.job_id)
    if job is None or task is None:
        return await _judged(tx, delivery, Plan(None, "the job is gone"), reading)
    if task.stage is Stage.CANCELED and not isinstance(said, callbacks.Record):
        await credits.charge(tx, task, now_us=now_us)
    task = await _heir(tx, task, job.attempt, said_id=None if reading is None else reading.task_id)
    kept = await kept_plan(tx, task)
    if kept is not None:
        plan = kept
    elif isinstance(said, callbacks.Record) and (reading is None or reading.task_id not in {None, task.task_id}):
        plan = Plan(None, "it says nothing about the task of now")
    elif isinstance(said, callbacks.Record):
        plan = plans.of_record(job.attempt, task, said, terms=terms, now_us=now_us)
    else:
        plan = plans.of_callback(job.attempt, task, said, terms=terms, now_us=now_us)
    if plan.task is not None:
        await history.carry_out(tx, job, task, plan.task, now_us=now_us)
    return await _judged(tx, delivery, plan, reading)


async def _judged(tx: Transaction, delivery: Delivery, plan: Plan, reading: Reading | None) -> Receipt:
    effect = Effect.NO_EFFECT if plan.task is None else Effect.APPLIED
    reason = noted(plan.reason, reading)
    await deliveries.judge(tx, delivery.id, effect=effect, reason=reason, due_at=None)
    return Receipt(delivery_id=delivery.id, is_new=False, job_id=delivery.job_id, effect=effect, reason=reason)


async def _take(
    tx: Transaction, delivery: Delivery, reading: Reading, standing: Standing, *, terms: Terms, now_us: int
) -> Receipt:
    """Plan, store the delivery with its effect, then carry the plan out: unless the same came before."""
    task = standing.task
    if standing.deliveries >= TASK_DELIVERIES:
        raise _too_many(task.job_id, task.index)
    if standing.job_is_deleted:
        plan = Plan(None, "the job was deleted")
    else:
        task = await _heir(tx, task, standing.job_attempt, said_id=reading.task_id)
        kept = await kept_plan(tx, task) if task.is_ended else None
        plan = kept or plans.of_callback(standing.job_attempt, task, reading, terms=terms, now_us=now_us)
    if standing.task.stage is Stage.CANCELED:
        # Whatever it says, NanoBanana has taken the task.
        await credits.charge(tx, standing.task, now_us=now_us)
    effect = Effect.NO_EFFECT if plan.task is None else Effect.APPLIED
    receipt = await _keep(tx, delivery, reading, task, effect=effect, reason=plan.reason)
    counted = standing.task if plan.task is None or plan.task.attempt != standing.task.attempt else plan.task
    if not receipt.is_new or plan.task is None:
        await tasks.took_delivery(tx, standing.task)
        return receipt
    await tasks.took_delivery(tx, counted)
    job = await jobs.load(tx, task.job_id)
    if job is None:
        raise errors.NotFound("the job is gone")
    # Stage and progress are stored with the count: often that is all.
    await history.carry_out(
        tx, job, task, plan.task, is_stored=plan.only_progress and counted is plan.task, now_us=now_us
    )
    return receipt


async def kept_plan(tx: Transaction, task: Task) -> Plan | None:
    """Plan nothing more for a task whose late result is kept; ``None``: there is none."""
    if not task.is_ended or not await unclaimed.is_kept(tx, task):
        return None
    is_asked = task.step is Step.ASK
    return Plan(replace(task, step=None, due_at=None) if is_asked else None, "its late result is kept already")


async def _heir(tx: Transaction, task: Task, job_attempt: int, *, said_id: str | None) -> Task:
    """Find who goes on with *task*: a retry may have taken its id over, and waits for the very same result."""
    if task.attempt == job_attempt:
        return task
    heir = await tasks.load(tx, job_id=task.job_id, attempt=job_attempt, index=task.index)
    known = task.task_id or said_id
    return heir if heir is not None and known is not None and heir.task_id == known else task


async def _park(tx: Transaction, delivery: Delivery, reading: Reading) -> Receipt:
    """
    Keep a delivery for a job that is not known here: not yet, or no more since a backup was restored.

    Raises:
        TooMany: There are ``MOST_PARKED`` of these, or ``TASK_DELIVERIES`` of this task.
    """
    if delivery.job_id == TEST_JOB:
        await _check_test(tx, delivery, now_us=delivery.received_at)
        return await _keep(tx, delivery, reading, None, effect=Effect.NO_EFFECT, reason="a test callback")
    await _check_room(tx, delivery)
    if await deliveries.count_parked(tx) >= MOST_PARKED:
        raise errors.TooMany("too many callbacks for jobs that are not known here", retry_after_s=60)
    return await _keep(tx, delivery, reading, None, effect=Effect.PARKED, reason="no such job here")


async def _check_test(tx: Transaction, delivery: Delivery, *, now_us: int) -> None:
    """
    Keep test callbacks few and small: those of an hour ago have been read.

    Raises:
        TooLarge: It is no test of ours.
        TooMany: There are ``MOST_TESTS`` of the last hour.
    """
    if len(delivery.body) > TEST_BYTES:
        raise errors.TooLarge(f"a test callback has at most {TEST_BYTES} bytes")
    await deliveries.forget_task(tx, job_id=TEST_JOB, before_us=now_us - TESTS_KEPT_US)
    await _check_room(tx, delivery, most=MOST_TESTS)


async def _check_room(tx: Transaction, delivery: Delivery, *, most: int = TASK_DELIVERIES) -> None:
    """
    Count what came for the task that *delivery* is signed for, where no row of the task's counts it.

    Raises:
        TooMany: There are *most*.
    """
    if delivery.job_id is None or delivery.attempt is None or delivery.index is None:
        return
    kept = await deliveries.count_of_task(
        tx, job_id=delivery.job_id, attempt=delivery.attempt, index=delivery.index
    )
    if kept >= most:
        raise _too_many(delivery.job_id, delivery.index)


def _too_many(job_id: str, index: int) -> errors.TooMany:
    return errors.TooMany(f"task {index} of job {job_id} has had its deliveries", retry_after_s=60)


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
        reason=noted(reason, reading),
    )
    return Receipt(
        delivery_id=delivery.id if is_new else await _repeated(tx, delivery) or delivery.id,
        is_new=is_new,
        job_id=delivery.job_id,
        effect=effect,
        reason=noted(reason, reading),
        word=reading.word,
    )


def noted(reason: str | None, reading: Reading | None) -> str | None:
    """Add to *reason* what had to be mended before the body could be read."""
    if reading is None or not reading.repairs:
        return reason
    mended = f"mended: {', '.join(reading.repairs)}"
    return mended if reason is None else f"{reason}; {mended}"


async def _repeated(tx: Transaction, delivery: Delivery) -> str | None:
    """Count *delivery* as a repeat of the first of its kind, and tell the id of that; ``None``: there is none."""
    first = await deliveries.same(tx, delivery)
    if first is not None:
        await deliveries.repeated(tx, first, now_us=delivery.received_at)
    return first


async def _only_task(tx: Transaction, job_id: str) -> Task | None:
    attempt = await jobs.attempt_of(tx, job_id)
    if attempt is None:
        return None
    group = await tasks.of_attempt(tx, job_id=job_id, attempt=attempt)
    if not group:
        raise errors.Invalid("the body names a job for which nothing was asked")
    if len(group) > 1:
        raise errors.Invalid("the body names a job of several tasks, but no task")
    return group[0]
