"""How busy the service is, in SQL: the line, what is under way, and how long the newest jobs took."""

from typing import Final, NamedTuple

from nanohook.database import Transaction, Value
from nanohook.rules.status import ImageJobStatus

_WAITING: Final = (
    "SELECT COUNT(*) AS waiting, MIN(queued_at) AS oldest FROM tasks WHERE step = 'submit' AND held = 0"
)
_ACCEPTED: Final = "SELECT COUNT(*) AS n FROM tasks WHERE step IN ('ask', 'finish')"
# Whoever holds a submit has moved its due time to the end of the lease: few lines of an index, however many wait.
_HELD: Final = "SELECT COUNT(*) AS n FROM tasks WHERE step = 'submit' AND due_at > :now AND held = 1"


class Load(NamedTuple):
    """What there is to do."""

    waiting: int
    """Tasks that wait for their submit."""
    oldest: int | None
    """Since when the first of these has waited, µs."""
    under_way: int
    """Tasks that are being submitted, or that NanoBanana has, or that are being finished."""


async def load(tx: Transaction, *, owner_id: str | None, now_us: int) -> Load:
    """Tell what there is to do, for one person or (``None``) for everybody."""
    values: dict[str, Value] = {} if owner_id is None else {"owner_id": owner_id}
    whose = "" if owner_id is None else " AND owner_id = :owner_id"
    # With its priorities named, a person's tasks are found along an index of their own.
    theirs = "" if owner_id is None else f" AND priority IN (0, 1, 2){whose}"
    line = await tx.one(f"{_WAITING}{theirs}", values)
    accepted = await tx.one(f"{_ACCEPTED}{whose}", values)
    held = await tx.one(f"{_HELD}{whose}", {**values, "now": now_us})
    waiting, oldest = (0, None) if line is None else (int(line["waiting"]), line["oldest"])
    return Load(waiting, oldest, sum(int(row["n"]) for row in (accepted, held) if row is not None))


class Run(NamedTuple):
    """How the newest attempt of a job went; µs."""

    waited: int
    """From its place in the line to its first submit."""
    took: int
    """From there to its end."""
    ended_at: int


async def runs(
    tx: Transaction, *, owner_id: str | None, statuses: tuple[ImageJobStatus, ...], most: int
) -> list[Run]:
    """List how the newest jobs went that ended with one of *statuses*; those never submitted left out."""
    whose = "" if owner_id is None else "AND owner_id = :owner_id "
    newest = " UNION ALL ".join(
        "SELECT * FROM (SELECT id, attempt FROM jobs WHERE deleted_at IS NULL "
        f"{whose}AND status = '{status.value}' ORDER BY id DESC LIMIT :most)"
        for status in statuses
    )
    rows = await tx.all(
        "SELECT MIN(tasks.submit_started_at) - MIN(tasks.queued_at) AS waited, "
        "attempts.ended_at - MIN(tasks.submit_started_at) AS took, attempts.ended_at "
        f"FROM (SELECT * FROM ({newest}) ORDER BY id DESC LIMIT :most) AS newest "
        "JOIN attempts ON attempts.job_id = newest.id AND attempts.number = newest.attempt "
        "JOIN tasks ON tasks.job_id = newest.id AND tasks.attempt = newest.attempt "
        # A task that a retry resumed was submitted before it stood in line again.
        "WHERE tasks.submit_started_at >= tasks.queued_at AND attempts.ended_at IS NOT NULL "
        "GROUP BY newest.id",
        {"most": most, **({} if owner_id is None else {"owner_id": owner_id})},
    )
    return [Run(row["waited"], row["took"], row["ended_at"]) for row in rows]


async def count_unclaimed(tx: Transaction) -> int:
    """Count the results that came too late and are still kept."""
    row = await tx.one("SELECT COUNT(*) AS n FROM unclaimed")
    return 0 if row is None else int(row["n"])
