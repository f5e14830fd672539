"""NanoBanana refuses the account, whatever is submitted: all wait, and whoever has waited too long fails."""

from typing import Final

from nanohook.database import Transaction
from nanohook.flow import gate, history, submit
from nanohook.flow.terms import SECOND_US
from nanohook.rules import job as rules
from nanohook.rules.job import Fault, Task
from nanohook.rules.status import Stage
from nanohook.stores import jobs, tasks

BLOCKED_FOR_US: Final = 3600 * SECOND_US
"""How long a job waits while NanoBanana refuses the account; then it fails."""
BLOCKED_TRIES: Final = 120
"""The same for one that is refused again and again while others are taken: about an hour of pauses."""


async def blocked(tx: Transaction, submitted: Task, code: int, *, due_at: int, now_us: int) -> None:
    """
    NanoBanana refuses the account: nobody submits for now; *submitted* itself again at *due_at* (µs).

    It keeps its place but lets others pass: what is left of the credit may do for them.
    """
    await gate.block(tx, code, now_us=now_us)
    fault = _refusal(code)
    # Tries that came to nothing for other reasons do not count.
    before = submitted.tries if submitted.fault is not None and submitted.fault.code == fault.code else 0
    if before < BLOCKED_TRIES:
        await submit.again(tx, submitted, due_at=due_at, tries=before + 1, fault=fault, now_us=now_us)
    else:
        await submit.refused(tx, submitted, fault, now_us=now_us)


def _refusal(code: int) -> Fault:
    return Fault(code=gate.fault_code(code), detail=f"code {code}")


async def fail_blocked(tx: Transaction, *, most: int, now_us: int) -> int:
    """
    Fail what has waited for ``BLOCKED_FOR_US`` while NanoBanana refused the account.

    Returns:
        How many tasks; at most *most*, so that nobody waits for one long transaction.
    """
    state = await gate.read(tx)
    if state.paused_at is not None or state.blocked_code is None:
        return 0
    if state.blocked_since is None or state.blocked_since > now_us - BLOCKED_FOR_US:
        return 0
    fault = _refusal(state.blocked_code)
    waiting = await tasks.waits_since(tx, before_us=now_us - BLOCKED_FOR_US, most=most)
    for task in waiting:
        job = await jobs.load(tx, task.job_id)
        if job is not None and job.attempt == task.attempt:
            await history.move(tx, job, rules.advance(task, Stage.FAILED, fault=fault) or task, now_us=now_us)
    return len(waiting)
