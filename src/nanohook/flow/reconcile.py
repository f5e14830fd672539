"""
What ``record-info`` says, or does not say, about a task that was asked for.

An answer is believed, and enters as a synthetic delivery: one log for all that NanoBanana says.
"""

from nanohook.database import Transaction
from nanohook.flow import history, plans, receive
from nanohook.flow.terms import Terms
from nanohook.rules import callbacks
from nanohook.rules.job import Step, Task
from nanohook.stores import claims, deliveries, jobs, tasks
from nanohook.stores.deliveries import Delivery, Effect
from nanohook.values import replace


async def answer(
    tx: Transaction,
    delivery: Delivery,
    record: callbacks.Record,
    asked: Task,
    *,
    terms: Terms,
    chance: float = 0.0,
    now_us: int,
) -> receive.Receipt | None:
    """
    Take an answer of ``record-info``, which is believed, as a synthetic delivery; then say when to ask again.

    Args:
        asked: The task as it was claimed for asking.
        chance: The dice, 0 up to but not including 1: tasks of one moment are not all asked after at one moment.

    Returns:
        ``None`` if the job is gone.
    """
    job = await jobs.load(tx, asked.job_id)
    before = await tasks.load(tx, job_id=asked.job_id, attempt=asked.attempt, index=asked.index)
    if job is None or before is None:
        return None
    if before.task_id != asked.task_id:
        # Bought anew meanwhile: what is said of the former is nothing about this one.
        return await _keep_answer(tx, delivery, asked, owner_id=job.owner_id)
    task = replace(before, asks=before.asks + 1)
    if task.step is Step.ASK:
        task = replace(task, tries=task.tries + 1 if record.is_fault else 0)
    kept = await receive.kept_plan(tx, task)
    plan = kept or plans.of_record(job.attempt, task, record, terms=terms, now_us=now_us)
    effect = Effect.NO_EFFECT if plan.task is None else Effect.APPLIED
    is_new = await deliveries.insert(
        tx,
        delivery,
        owner_id=job.owner_id,
        task_id=asked.task_id,
        effect=effect,
        reason=receive.noted(plan.reason, record.reading),
    )
    after = plan.task or task
    if after.step is Step.ASK and after.claim == asked.claim:
        due_at = now_us + terms.ask_interval_us(after.asks, chance=chance)
        after = replace(after, due_at=plans.next_question(after, due_at, terms=terms, now_us=now_us))
    await history.carry_out(tx, job, before, after, now_us=now_us)
    return receive.Receipt(
        delivery_id=delivery.id, is_new=is_new, job_id=job.id, effect=effect, reason=plan.reason
    )


async def _keep_answer(tx: Transaction, delivery: Delivery, asked: Task, *, owner_id: str) -> receive.Receipt:
    """Keep an answer about a task that is no longer the one that is waited for."""
    reason = "the task was bought anew since it was asked for"
    is_new = await deliveries.insert(
        tx, delivery, owner_id=owner_id, task_id=asked.task_id, effect=Effect.NO_EFFECT, reason=reason
    )
    return receive.Receipt(
        delivery_id=delivery.id, is_new=is_new, job_id=asked.job_id, effect=Effect.NO_EFFECT, reason=reason
    )


async def no_answer(
    tx: Transaction, asked: Task, *, is_unreadable: bool, pause_us: int, terms: Terms, now_us: int
) -> None:
    """
    Note that ``record-info`` gave no answer about *asked* that says anything, and plan what follows.

    Args:
        asked: The task as it was claimed for asking.
        is_unreadable: There was an answer, and no sense in it; else nobody answered.
        pause_us: Back-off to the next question.
    """
    task = await claims.held(tx, asked, Step.ASK)
    job = await jobs.load(tx, asked.job_id)
    if task is None or job is None:
        return
    after = plans.of_silence(task, is_unreadable=is_unreadable, pause_us=pause_us, terms=terms, now_us=now_us)
    await history.carry_out(tx, job, task, after, now_us=now_us)
