"""Pictures for which nothing was ever paid, in SQL: how much a person keeps of them, and what may go early."""

from typing import Final

from nanohook.database import Transaction
from nanohook.values import frozen

MAX_COUNT: Final = 10_000
"""Pictures of one person that are summed up: the sum is part of a write, and others wait for it."""

# A job has the size of its upload until it is paid: one that was canceled in time, or failed, still has it.
_NEVER_GENERATED: Final = "upload_bytes IS NOT NULL AND purged_at IS NULL"
_NOTHING_SENT: Final = "NOT EXISTS (SELECT 1 FROM tasks WHERE job_id = jobs.id AND submit_started_at IS NOT NULL)"


@frozen
class Kept:
    """What some pictures take together."""

    number: int
    size_bytes: int


async def note(tx: Transaction, job_id: str, *, size_bytes: int) -> None:
    """Store the size of the picture that a job was made of."""
    await tx.run("UPDATE jobs SET upload_bytes = ? WHERE id = ?", (size_bytes, job_id))


async def forget(tx: Transaction, job_id: str) -> None:
    """Count the picture of a job no more: it was paid for."""
    await tx.run("UPDATE jobs SET upload_bytes = NULL WHERE id = ? AND upload_bytes IS NOT NULL", (job_id,))


async def kept(tx: Transaction, owner_id: str) -> Kept:
    """Sum up a person's pictures that were never generated, and the covers of their projects."""
    one = await _sum(tx, f"jobs WHERE owner_id = ? AND {_NEVER_GENERATED} AND deleted_at IS NULL", owner_id)
    other = await _sum(tx, "projects WHERE owner_id = ? AND bytes IS NOT NULL", owner_id, column="bytes")
    return Kept(number=one.number + other.number, size_bytes=one.size_bytes + other.size_bytes)


async def deleted(tx: Transaction, owner_id: str) -> Kept:
    """Sum up those that are deleted, and can still be had back."""
    return await _sum(tx, f"jobs WHERE owner_id = ? AND {_NEVER_GENERATED} AND deleted_at IS NOT NULL", owner_id)


async def hasten(tx: Transaction, *, owner_id: str | None, before_us: int, until_us: int, most: int) -> int:
    """
    Let pictures that were deleted before *before_us* (µs) count as deleted at *until_us*, which is long ago.

    From then on nobody can have them back, and housekeeping removes them as it does all others.

    Args:
        owner_id: Whose; ``None``: everybody's.
        most: So many at once.

    Returns:
        How many those were.
    """
    whose = "" if owner_id is None else "AND owner_id = :owner_id"
    return await tx.run(
        f"UPDATE jobs SET deleted_at = :until WHERE id IN (SELECT id FROM jobs WHERE {_NEVER_GENERATED} {whose} "
        f"AND {_NOTHING_SENT} AND deleted_at > :until AND deleted_at < :before LIMIT :most)",
        {"owner_id": owner_id, "before": before_us, "until": until_us, "most": most},
    )


async def _sum(tx: Transaction, rows: str, owner_id: str, *, column: str = "upload_bytes") -> Kept:
    # Of an index alone, and no more of it than matters.
    row = await tx.one(
        f"SELECT COUNT(*) AS number, COALESCE(SUM({column}), 0) AS size_bytes "
        f"FROM (SELECT {column} FROM {rows} LIMIT {2 * MAX_COUNT})",
        (owner_id,),
    )
    return Kept(number=0, size_bytes=0) if row is None else Kept(**dict(row))
