"""How busy the service is, in SQL: the line, what is under way, and how long the newest jobs took."""

from typing import Final, NamedTuple

from nanohook.database import Transaction, Value
from nanohook.rules.status import ImageJobStatus

_WAITING: Final = (
    "SELECT COUNT(*) AS waiting, MIN(queued_at) AS oldest FROM tasks WHERE step = 'submit' AND held = 0"
)
_ACCEPTED: Final = "SELECT COUNT(*) AS n FROM tasks WHERE step IN ('ask', 'finish')"
# Those that NanoBanana has given no final word about: what is being fetched takes none of its places.
_RUNNING: Final = "SELECT COUNT(*) AS n FROM tasks WHERE step = 'ask' AND (candidates IS NULL OR said IS NOT NULL)"
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


async def count_accepted(tx: Transaction, *, owner_id: str | None = None) -> int:
    """Count the tasks that NanoBanana has, or that are being finished; of one person, or everybody's."""
    return await _count(tx, _ACCEPTED, {}, owner_id)


async def count_running(tx: Transaction) -> int:
    """Count the tasks that NanoBanana has taken, or may have, and has given no final word about."""
    return await _count(tx, _RUNNING, {}, None)


async def count_submitting(tx: Transaction, *, owner_id: str | None = None, now_us: int) -> int:
    """Count the tasks that are being submitted; of one person, or everybody's."""
    return await _count(tx, _HELD, {"now": now_us}, owner_id)


async def _count(tx: Transaction, sql: str, values: dict[str, Value], owner_id: str | None) -> int:
    if owner_id is not None:
        sql, values = f"{sql} AND owner_id = :owner_id", {**values, "owner_id": owner_id}
    row = await tx.one(sql, values)
    return 0 if row is None else int(row["n"])


async def load(tx: Transaction, *, owner_id: str | None, now_us: int) -> Load:
    """Tell what there is to do, for one person or (``None``) for everybody."""
    values: dict[str, Value] = {} if owner_id is None else {"owner_id": owner_id}
    # With its priorities named, a person's tasks are found along an index of their own.
    theirs = "" if owner_id is None else " AND priority IN (0, 1, 2) AND owner_id = :owner_id"
    line = await tx.one(f"{_WAITING}{theirs}", values)
    waiting, oldest = (0, None) if line is None else (int(line["waiting"]), line["oldest"])
    accepted = await count_accepted(tx, owner_id=owner_id)
    return Load(waiting, oldest, accepted + await count_submitting(tx, owner_id=owner_id, now_us=now_us))


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
