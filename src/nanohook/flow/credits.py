"""
What a job costs its owner: set aside when an attempt begins, then spent or given back, task by task.

A balance and its ledger change together. The ledger has at most one entry of a kind for each task of an
attempt, so whatever repeats itself pays and returns nothing twice.
"""

import functools
from collections.abc import Iterable

from nanohook import errors
from nanohook.database import Transaction
from nanohook.rules.credit import Kind
from nanohook.rules.job import Job, Step, Task, Unclaimed
from nanohook.rules.status import Stage
from nanohook.stores import ledger, uploads


async def require(tx: Transaction, owner_id: str, amount: int) -> None:
    """
    Check that *owner_id* has *amount*; before anything is written, so that a refusal has nothing to undo.

    Raises:
        TooPoor: They have less.
    """
    balance = await ledger.balance(tx, owner_id)
    if balance.available < amount:
        raise errors.TooPoor(f"this costs {amount} credits, {balance.available} are available")


async def reserve(tx: Transaction, job: Job, indexes: Iterable[int], *, price: int, now_us: int) -> None:
    """
    Set *price* aside for each of the tasks *indexes* of the attempt *job* is in.

    Raises:
        TooPoor: The owner has less.
    """
    for index in indexes:
        after = await ledger.post(
            tx,
            Kind.RESERVE,
            owner_id=job.owner_id,
            available=-price,
            reserved=price,
            task=(job.id, job.attempt, index),
            now_us=now_us,
        )
        if after is None:
            raise errors.TooPoor(f"this costs {price} credits a picture, fewer are available")


async def settle(tx: Transaction, task: Task, *, now_us: int) -> None:
    """Spend what was set aside for *task*, which has ended, if its picture is stored; else give it back."""
    await _close(tx, task, Kind.CHARGE if task.stage is Stage.COMPLETED else Kind.RETURN, now_us=now_us)


async def stop(tx: Transaction, task: Task, *, now_us: int) -> None:
    """
    Settle *task*, which its owner cancels: it is paid if NanoBanana is known to have taken it.

    While that is not known, because its submit has begun and was not answered, the price stays set aside: until
    ``charge``, or ``refund``. Nothing is paid for one that was to take a late result, or to ask whether there is
    any: what comes of it waits to be accepted, and is paid then.
    """
    is_hoped_for = task.takes_late or (task.may_buy and task.step is Step.ASK)
    if task.submit_started_at is None or is_hoped_for:
        await _close(tx, task, Kind.RETURN, now_us=now_us)
    elif task.is_known_bought:
        await charge(tx, task, now_us=now_us)


async def charge(tx: Transaction, task: Task, *, now_us: int) -> None:
    """Spend what is still set aside for *task*, which was canceled: NanoBanana turned out to have taken it."""
    await _close(tx, task, Kind.CHARGE, now_us=now_us)


async def release(tx: Transaction, task: Task, *, now_us: int) -> None:
    """Give back what is still set aside for *task*: its time is over, or something else has taken its place."""
    await _close(tx, task, Kind.RETURN, now_us=now_us)


async def refund(tx: Transaction, task: Task, *, now_us: int) -> None:
    """Give back what *task* cost, or what is still set aside for it: it was canceled, and was not taken."""
    await release(tx, task, now_us=now_us)
    written = await ledger.of_task(tx, job_id=task.job_id, attempt=task.attempt, index=task.index)
    if Kind.CHARGE in written and Kind.RETURN not in written:
        await _change(tx, task, Kind.RETURN, available=-written[Kind.RESERVE], reserved=0, now_us=now_us)


async def pay_again(tx: Transaction, found: Unclaimed, *, now_us: int) -> None:
    """
    Charge an unclaimed result that is accepted, if what was reserved for it had been given back.

    Raises:
        TooPoor: Its owner has fewer credits than that.
    """
    purchase = await ledger.purchase(tx, job_id=found.job_id, index=found.index, until_attempt=found.attempt)
    if purchase is None or not purchase.was_returned:
        return
    after = await ledger.post(
        tx,
        Kind.CHARGE,
        owner_id=found.owner_id,
        available=-purchase.price,
        reserved=0,
        task=(found.job_id, purchase.attempt, found.index),
        now_us=now_us,
    )
    if after is None:
        raise errors.TooPoor(f"this costs {purchase.price} credits, given back before; fewer are available")
    await uploads.forget(tx, found.job_id)


async def live_on(tx: Transaction, task: Task, found: Unclaimed, *, now_us: int) -> None:
    """Give back what is set aside for *task*, which takes *found*, if that is paid already."""
    purchase = await ledger.purchase(tx, job_id=found.job_id, index=found.index, until_attempt=found.attempt)
    if purchase is not None and purchase.is_paid:
        await _close(tx, task, Kind.RETURN, now_us=now_us)


async def _close(tx: Transaction, task: Task, kind: Kind, *, now_us: int) -> None:
    written = await ledger.of_task(tx, job_id=task.job_id, attempt=task.attempt, index=task.index)
    if set(written) == {Kind.RESERVE}:
        price = -written[Kind.RESERVE]
        given = price if kind is Kind.RETURN else 0
        await _change(tx, task, kind, available=given, reserved=-price, now_us=now_us)
        if kind is Kind.CHARGE:
            await uploads.forget(tx, task.job_id)


async def _change(tx: Transaction, task: Task, kind: Kind, *, available: int, reserved: int, now_us: int) -> None:
    post = functools.partial(
        ledger.post,
        tx,
        kind,
        owner_id=task.owner_id,
        available=available,
        reserved=reserved,
        task=(task.job_id, task.attempt, task.index),
        now_us=now_us,
    )
    if await post() is not None:
        return
    # The ledger has it set aside: a balance that has not was changed by somebody else, and holds nobody up.
    if not await ledger.rebuild_balance(tx, task.owner_id) or await post() is None:
        raise RuntimeError(f"the balance of {task.owner_id} and its ledger do not agree")
