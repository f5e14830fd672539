"""Deliveries in SQL: every request to the webhook as it came, and what it did."""

import enum
from typing import Final

from nanohook.database import Row, Topic, Transaction
from nanohook.rules.job import Task
from nanohook.values import frozen


class Source(enum.StrEnum):
    """Which way a delivery came in."""

    TOKEN = "token"  # noqa: S105 - a word, not a secret
    HEADERS = "headers"
    RECORD = "record"
    """Synthetic: an answer of ``record-info``, whoever asked."""


class Effect(enum.StrEnum):
    """What a delivery did."""

    APPLIED = "applied"
    NO_EFFECT = "no_effect"
    PARKED = "parked"
    UNAPPLIED = "unapplied"
    DEAD = "dead"


@frozen
class Delivery:
    """One request to the webhook, verified, as raw bytes. Nothing of it is judged again later."""

    id: str
    source: Source
    job_id: str | None
    attempt: int | None
    index: int | None
    webhook_id: str | None
    headers: str
    """``name: value`` lines, without ``Authorization`` and ``Cookie``."""
    body: bytes
    body_sha256: bytes
    received_at: int
    tries: int = 0


_COLUMNS: Final = [
    "id",
    "source",
    "job_id",
    "attempt",
    "idx",
    "webhook_id",
    "headers",
    "body",
    "body_sha256",
    "received_at",
    "tries",
]
FURTHEST_US: Final = 120 * 1_000_000
"""More than the longest pause before a delivery is tried again, and more than a lease."""
_OUTCOME: Final = ["owner_id", "task_id", "effect", "reason", "due_at"]
# By place, not by name: this is done for every callback, and finding 16 names costs as much as the insert's index.
_INSERT: Final = (
    f"INSERT INTO deliveries ({', '.join(_COLUMNS + _OUTCOME)}) "
    f"VALUES ({', '.join('?' * len(_COLUMNS + _OUTCOME))}) ON CONFLICT DO NOTHING"
)
_SAME: Final = (
    "SELECT id FROM deliveries WHERE job_id = :job_id AND attempt = :attempt AND idx = :idx "
    "AND body_sha256 = :body_sha256 UNION ALL SELECT id FROM deliveries WHERE webhook_id = :webhook_id LIMIT 1"
)


async def insert(
    tx: Transaction,
    delivery: Delivery,
    *,
    owner_id: str | None,
    task_id: str | None,
    effect: Effect,
    reason: str | None,
    due_at: int | None = None,
) -> bool:
    """Store a delivery; ``False`` if the same one is there already."""
    kept = (*_values(delivery).values(), owner_id, task_id, effect.value, reason, due_at)
    return bool(await tx.run(_INSERT, kept))


async def same(tx: Transaction, delivery: Delivery) -> str | None:
    """Find the id of the delivery that came first with the same content."""
    row = await tx.one(_SAME, _values(delivery))
    return None if row is None else str(row["id"])


async def claim_unapplied(
    tx: Transaction, *, now_us: int, lease_until_us: int, furthest_us: int = FURTHEST_US, most: int
) -> list[Delivery]:
    """
    Take deliveries whose applying failed and is due again; counts the try.

    Args:
        furthest_us: Nobody puts one off for longer than this: what is due later was written by a clock that has
            been set back, and is due.
    """
    rows = await tx.all(
        "UPDATE deliveries SET tries = tries + 1, due_at = :lease_until WHERE id IN ("
        "SELECT id FROM deliveries WHERE due_at <= :now OR due_at > :furthest ORDER BY due_at LIMIT :most) "
        f"RETURNING {', '.join(_COLUMNS)}",
        {"now": now_us, "lease_until": lease_until_us, "furthest": now_us + furthest_us, "most": most},
    )
    return [_delivery(row) for row in rows]


async def next_due(tx: Transaction) -> int | None:
    """Tell when the next unapplied delivery is due, µs."""
    row = await tx.one("SELECT MIN(due_at) AS due FROM deliveries WHERE due_at IS NOT NULL")
    return None if row is None else row["due"]


async def judge(
    tx: Transaction, delivery_id: str, *, effect: Effect, reason: str | None, due_at: int | None
) -> None:
    """Store what became of a delivery that was tried again; of one that was applied once, the log keeps that."""
    await tx.run(
        "UPDATE deliveries SET effect = :effect, reason = :reason, due_at = :due_at "
        "WHERE id = :id AND effect <> 'applied'",
        {"effect": effect, "reason": reason, "due_at": due_at, "id": delivery_id},
    )


async def load(tx: Transaction, delivery_id: str) -> Delivery | None:
    """Fetch a delivery with its bytes."""
    row = await tx.one(f"SELECT {', '.join(_COLUMNS)} FROM deliveries WHERE id = ?", (delivery_id,))
    return None if row is None else _delivery(row)


async def put_off(tx: Transaction, delivery_id: str, *, reason: str, due_at: int) -> None:
    """Have a delivery tried again at *due_at* (µs), with all its tries; not one that was applied."""
    await tx.run(
        "UPDATE deliveries SET effect = 'unapplied', reason = ?, due_at = ?, tries = 0 "
        "WHERE id = ? AND effect <> 'applied'",
        (reason, due_at, delivery_id),
    )
    tx.wake(Topic.UNAPPLIED)


async def repeated(tx: Transaction, delivery_id: str, *, now_us: int) -> None:
    """Count that the same delivery came again; its bytes are stored already."""
    await tx.run(
        "UPDATE deliveries SET repeats = repeats + 1, repeated_at = ? WHERE id = ?", (now_us, delivery_id)
    )


async def count_parked(tx: Transaction) -> int:
    """Count the deliveries that wait for a job which is not here."""
    # The word stands in the statement: the index is of rows with certain words alone.
    row = await tx.one("SELECT COUNT(*) AS found FROM deliveries WHERE effect = 'parked'")
    return 0 if row is None else int(row["found"])


async def count_of_task(tx: Transaction, *, job_id: str, attempt: int, index: int) -> int:
    """Count the deliveries that are kept of one task, whatever they did."""
    row = await tx.one(
        "SELECT COUNT(*) AS found FROM deliveries WHERE job_id = ? AND attempt = ? AND idx = ?",
        (job_id, attempt, index),
    )
    return 0 if row is None else int(row["found"])


async def forget_task(tx: Transaction, *, job_id: str, before_us: int) -> None:
    """Remove the deliveries that came for a job before *before_us* (µs)."""
    await tx.run("DELETE FROM deliveries WHERE job_id = ? AND received_at < ?", (job_id, before_us))


async def match_parked(tx: Transaction, task: Task, *, now_us: int) -> None:
    """Let what was parked under the id of *task*, which is known only now, be applied to it."""
    matched = await tx.run(
        # Left to itself SQLite walks all that is parked.
        "UPDATE deliveries INDEXED BY ix_deliveries_task_id "
        "SET effect = 'unapplied', reason = 'parked until its task was known', due_at = :now, "
        "owner_id = :owner_id, job_id = :job_id, attempt = :attempt, idx = :idx "
        "WHERE task_id = :task_id AND effect = 'parked' AND NOT EXISTS (SELECT 1 FROM deliveries AS same "
        "WHERE same.job_id = :job_id AND same.attempt = :attempt AND same.idx = :idx "
        "AND same.body_sha256 = deliveries.body_sha256) AND NOT EXISTS (SELECT 1 FROM deliveries AS same "
        "INDEXED BY ix_deliveries_task_id WHERE same.task_id = :task_id AND same.effect = 'parked' "
        "AND same.id < deliveries.id AND same.body_sha256 = deliveries.body_sha256)",
        {
            "now": now_us,
            "owner_id": task.owner_id,
            "job_id": task.job_id,
            "attempt": task.attempt,
            "idx": task.index,
            "task_id": task.task_id,
        },
    )
    if matched:
        tx.wake(Topic.UNAPPLIED)
    # Left are those of which the very same has come by another way, or twice.
    await tx.run(
        "UPDATE deliveries INDEXED BY ix_deliveries_task_id "
        "SET effect = 'no_effect', reason = 'the same has come before', owner_id = ? "
        "WHERE task_id = ? AND effect = 'parked'",
        (task.owner_id, task.task_id),
    )


def _values(delivery: Delivery) -> dict[str, str | bytes | int | None]:
    return {
        "id": delivery.id,
        "source": delivery.source.value,
        "job_id": delivery.job_id,
        "attempt": delivery.attempt,
        "idx": delivery.index,
        "webhook_id": delivery.webhook_id,
        "headers": delivery.headers,
        "body": delivery.body,
        "body_sha256": delivery.body_sha256,
        "received_at": delivery.received_at,
        "tries": delivery.tries,
    }


def _delivery(row: Row) -> Delivery:
    return Delivery(
        id=row["id"],
        source=Source(row["source"]),
        job_id=row["job_id"],
        attempt=row["attempt"],
        index=row["idx"],
        webhook_id=row["webhook_id"],
        headers=row["headers"],
        body=row["body"],
        body_sha256=row["body_sha256"],
        received_at=row["received_at"],
        tries=row["tries"],
    )
