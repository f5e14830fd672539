"""
The line of the tasks that wait for their submit, in SQL: who is next, and where each one stands.

A higher priority goes first. Within one, people take turns (fair queuing): a task's *turn* is the one after that
of its owner's last task in line, and never before the turn that the line has come to. So the thousand tasks of
one person do not keep another's only one waiting.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from nanohook.database import Transaction
from nanohook.stores import facts

PRIORITIES: Final = ("high", "normal", "low")
"""In the order in which they are served."""
LOOKED_PAST: Final = 10_000
"""Whoever stands further back than this is told so much."""

_NEXT: Final = (
    "SELECT COALESCE(MAX(turn) + 1, 0) AS turn FROM tasks WHERE step = 'submit' AND priority = ? AND owner_id = ?"
)
AHEAD: Final = (
    "SELECT COUNT(*) AS n FROM (SELECT 1 FROM tasks WHERE step = 'submit' AND held = 0 "
    "AND (priority, turn, queued_at) < (:priority, :turn, :queued_at) LIMIT :most)"
)


class Spot(NamedTuple):
    """A place in the line; of two, the lesser is served first."""

    priority: int
    turn: int
    queued_at: int


async def next_spot(tx: Transaction, *, owner_id: str, priority: str, now_us: int) -> Spot:
    """Choose the spot of the next task of *owner_id*."""
    number = PRIORITIES.index(priority)
    row = await tx.one(_NEXT, (number, owner_id))
    own = 0 if row is None else int(row["turn"])
    return Spot(number, max(own, await _come_to(tx, number)), now_us)


async def move_on(tx: Transaction, served: Sequence[Spot]) -> None:
    """Note that the line has come to the spots *served*."""
    for number in range(len(PRIORITIES)):
        turns = [spot.turn for spot in served if spot.priority == number]
        if turns and max(turns) > await _come_to(tx, number):
            await facts.put(tx, _fact(number), str(max(turns)))


async def place(tx: Transaction, *, job_id: str, attempt: int) -> int | None:
    """Tell how many tasks are served before a job's first waiting one, that one included; ``None``: none waits."""
    row = await tx.one(
        "SELECT priority, turn, queued_at FROM tasks WHERE job_id = ? AND attempt = ? AND step = 'submit' "
        "AND submit_started_at IS NULL ORDER BY priority, turn, queued_at LIMIT 1",
        (job_id, attempt),
    )
    if row is None:
        return None
    ahead = await tx.one(AHEAD, {**dict(row), "most": LOOKED_PAST})
    return 1 + (0 if ahead is None else int(ahead["n"]))


async def _come_to(tx: Transaction, priority: int) -> int:
    return int(await facts.get(tx, _fact(priority)) or 0)


def _fact(priority: int) -> str:
    return f"line_turn_{priority}"
