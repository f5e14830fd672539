"""
The line of the tasks that wait for their submit, in SQL: who is next, and where each one stands.

People take turns (weighted fair queuing). A person's tasks of one priority have turns one after the other, the
first no earlier than the turn that the line has come to; the lower the priority, the wider apart. Of one turn the
higher priority is served first. So the thousand tasks of one person, however urgent, do not keep another's only
one waiting, and an urgent one passes by all of its owner's others.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from nanohook.database import Transaction
from nanohook.stores import facts

PRIORITIES: Final = ("high", "normal", "low")
"""In the order in which those of one turn are served."""
STRIDES: Final = (1, 2, 4)
"""Turns from one task of a person to the next, by priority: who is in a hurry comes four times as often."""
LOOKED_PAST: Final = 10_000
"""Whoever stands further back than this is told so much."""

_FACT: Final = "line_turn"
_LAST: Final = "SELECT MAX(turn) AS turn FROM tasks WHERE step = 'submit' AND priority = ? AND owner_id = ?"
AHEAD: Final = (
    "SELECT COUNT(*) AS n FROM (SELECT 1 FROM tasks WHERE step = 'submit' AND held = 0 "
    "AND (turn, priority, queued_at) < (:turn, :priority, :queued_at) LIMIT :most)"
)


class Spot(NamedTuple):
    """A place in the line; of two, the lesser is served first."""

    turn: int
    priority: int
    queued_at: int


async def next_spot(tx: Transaction, *, owner_id: str, priority: str, now_us: int) -> Spot:
    """Choose the spot of the next task of *owner_id*."""
    number = PRIORITIES.index(priority)
    turn = await _come_to(tx)
    last = await tx.one(_LAST, (number, owner_id))
    if last is not None and last["turn"] is not None:
        turn = max(turn, int(last["turn"]) + STRIDES[number])
    return Spot(turn, number, now_us)


async def move_on(tx: Transaction, served: Sequence[Spot]) -> None:
    """Note that the line has come to the spots *served*."""
    turn = max((spot.turn for spot in served), default=0)
    if turn > await _come_to(tx):
        await facts.put(tx, _FACT, str(turn))


async def place(tx: Transaction, *, job_id: str, attempt: int) -> int | None:
    """Tell how many tasks are served before a job's first waiting one, that one included; ``None``: none waits."""
    row = await tx.one(
        "SELECT turn, priority, queued_at FROM tasks WHERE job_id = ? AND attempt = ? AND step = 'submit' "
        "AND submit_started_at IS NULL ORDER BY turn, priority, queued_at LIMIT 1",
        (job_id, attempt),
    )
    if row is None:
        return None
    ahead = await tx.one(AHEAD, {**dict(row), "most": LOOKED_PAST})
    return 1 + (0 if ahead is None else int(ahead["n"]))


async def _come_to(tx: Transaction) -> int:
    return int(await facts.get(tx, _FACT) or 0)
