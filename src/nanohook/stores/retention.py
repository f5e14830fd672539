"""
What is old enough to go, in SQL.

Old rows are found by a read, a page at a time, and removed by a write that touches no other: a callback waits for
one page at most.
"""

from collections.abc import Sequence
from typing import Final

from nanohook import ids
from nanohook.database import Transaction
from nanohook.rules.status import ImageJobStatus, Stage
from nanohook.stores import events, facts
from nanohook.stores.deliveries import Effect
from nanohook.values import frozen

_FINAL: Final = ", ".join(f"'{status}'" for status in ImageJobStatus if status.is_final)
_OPEN: Final = (
    "(EXISTS (SELECT 1 FROM jobs WHERE jobs.id = {0}.job_id AND jobs.attempt > 0 "
    f"AND jobs.status NOT IN ({_FINAL})) "
    "OR EXISTS (SELECT 1 FROM tasks WHERE tasks.job_id = {0}.job_id AND tasks.step IS NOT NULL))"
)


@frozen
class Upload:
    """A picture for which nothing was ever asked."""

    job_id: str
    owner_id: str


@frozen
class Leftovers:
    """Rows that nobody can see any more, of a table that has no index of them; its ids tell when each was made."""

    table: str
    condition: str
    """With ``:before``, µs."""


REVOKED_KEYS: Final = Leftovers(table="api_keys", condition="revoked_at < :before")
PURGED_UPLOADS: Final = Leftovers(
    table="jobs",
    condition="purged_at < :before AND attempt = 0 AND "
    + " AND ".join(
        f"NOT EXISTS (SELECT 1 FROM {table} AS other WHERE other.{column} = jobs.id)"
        for table, column in (
            ("attempts", "job_id"),
            ("tasks", "job_id"),
            ("pictures", "job_id"),
            ("unclaimed", "job_id"),
            ("ledger", "job_id"),
            ("deliveries", "job_id"),
            ("events", "job_id"),
            ("jobs", "source_job_id"),
        )
    ),
)
"""For which nothing was ever asked: no money, no delivery and no event names them."""


async def leftovers(
    tx: Transaction, what: Leftovers, *, after: str, before_us: int, most: int
) -> tuple[str | None, list[str]]:
    """
    Look at the next *most* rows from before *before_us* (µs), whatever they are.

    Returns:
        The last of their ids, ``None`` if there are no more; and the ids of those that are to be removed.
    """
    row = await tx.one(
        f"SELECT MAX(id) AS last FROM (SELECT id FROM {what.table} WHERE id > ? AND id < ? ORDER BY id LIMIT ?)",
        (after, ids.earliest(before_us), most),
    )
    if row is None or row["last"] is None:
        return None, []
    rows = await tx.all(
        f"SELECT id FROM {what.table} WHERE id > :after AND id <= :last AND {what.condition}",
        {"after": after, "last": row["last"], "before": before_us},
    )
    return str(row["last"]), [found["id"] for found in rows]


async def remove_leftovers(tx: Transaction, what: Leftovers, row_ids: Sequence[str], *, before_us: int) -> int:
    """Remove those of *row_ids* that are still to be removed; return how many those were."""
    names = {f"id{number}": row_id for number, row_id in enumerate(row_ids)}
    return await tx.run(
        f"DELETE FROM {what.table} WHERE id IN ({', '.join(f':{name}' for name in names)}) AND {what.condition}",
        {**names, "before": before_us},
    )


async def last_delivery(tx: Transaction, *, after: str, before_us: int, most: int, most_bytes: int) -> str | None:
    """
    Find the end of a page of deliveries from before *before_us* (µs); ``None``: there are no more.

    Args:
        most_bytes: Of their bodies together; one that has more is a page of its own.
    """
    # The id tells the time: no other index is needed.
    rows = await tx.all(
        "SELECT id, length(body) AS size FROM deliveries WHERE id > ? AND id < ? ORDER BY id LIMIT ?",
        (after, ids.earliest(before_us), most),
    )
    last, size_bytes = None, 0
    for row in rows:
        size_bytes += row["size"]
        if last is not None and size_bytes > most_bytes:
            break
        last = str(row["id"])
    return last


async def remove_deliveries(tx: Transaction, *, after: str, until: str) -> int:
    """Remove the deliveries of a page but those of open jobs, and those that are still to be applied."""
    return await tx.run(
        f"DELETE FROM deliveries WHERE id > ? AND id <= ? AND due_at IS NULL AND NOT {_OPEN.format('deliveries')}",
        (after, until),
    )


async def last_event(tx: Transaction, *, after: int, before_us: int, most: int) -> int | None:
    """Find the end of a page of events from before *before_us* (µs); ``None``: there are no more."""
    rows = await tx.all("SELECT id, created_at FROM events WHERE id > ? ORDER BY id LIMIT ?", (after, most))
    last = None
    for row in rows:
        if row["created_at"] >= before_us:
            break
        last = int(row["id"])
    return last


async def remove_events(tx: Transaction, *, after: int, until: int) -> int:
    """Remove the events of a page but those of open jobs, and remember that there is no going back behind them."""
    rows = await tx.all(
        f"DELETE FROM events WHERE id > ? AND id <= ? AND NOT {_OPEN.format('events')} RETURNING id",
        (after, until),
    )
    newest = max((int(row["id"]) for row in rows), default=0)
    if newest > await events.removed_to(tx):
        await facts.put(tx, events.REMOVED_TO, str(newest))
    return len(rows)


async def parked(tx: Transaction, *, after: str, before_us: int, most: int) -> list[str]:
    """List deliveries with an id after *after*, from before *before_us* (µs), that wait for a job not here."""
    rows = await tx.all(
        f"SELECT id FROM deliveries WHERE effect = '{Effect.PARKED}' AND id > ? AND id < ? ORDER BY id LIMIT ?",
        (after, ids.earliest(before_us), most),
    )
    return [row["id"] for row in rows]


async def give_up_parked(tx: Transaction, delivery_ids: list[str], *, reason: str) -> int:
    """Let deliveries wait no longer; one that was applied meanwhile stays so."""
    return await tx.run(
        f"UPDATE deliveries SET effect = '{Effect.NO_EFFECT}', reason = ? WHERE effect = '{Effect.PARKED}' "
        f"AND id IN ({', '.join('?' * len(delivery_ids))})",
        (reason, *delivery_ids),
    )


async def remove_rejections(tx: Transaction, *, before_us: int, most: int) -> int:
    """Remove refused requests from before *before_us* (µs), *most* at once."""
    return await tx.run(
        "DELETE FROM rejections WHERE id IN (SELECT id FROM rejections WHERE id < ? ORDER BY id LIMIT ?)",
        (ids.earliest(before_us), most),
    )


async def old_uploads(tx: Transaction, *, before_us: int, most: int) -> list[Upload]:
    """List pictures from before *before_us* (µs) that were never generated; one that was had back counts anew."""
    rows = await tx.all(
        "SELECT id, owner_id FROM jobs WHERE deleted_at IS NULL AND status = :status AND id < :before_id "
        "AND stage = :stage AND attempt = 0 AND updated_at < :before ORDER BY id LIMIT :most",
        {
            "status": ImageJobStatus.PENDING,
            "stage": Stage.UPLOADED,
            "before_id": ids.earliest(before_us),
            "before": before_us,
            "most": most,
        },
    )
    return [Upload(job_id=row["id"], owner_id=row["owner_id"]) for row in rows]
