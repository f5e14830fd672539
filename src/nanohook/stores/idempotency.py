"""Requests that may come again under the same ``Idempotency-Key``, in SQL."""

from typing import Final, NamedTuple

from nanohook.database import Transaction

KEPT_US: Final = 24 * 3600 * 1_000_000
"""A key is known for a day."""


class Remembered(NamedTuple):
    """A request that was taken."""

    request_sha256: bytes
    answer: str
    """JSON, as it was sent."""


async def get(tx: Transaction, *, owner_id: str, route: str, key: str, now_us: int) -> Remembered | None:
    """Find what *owner_id* has asked *route* under *key*."""
    row = await tx.one(
        "SELECT request_sha256, answer FROM idempotency "
        "WHERE owner_id = ? AND route = ? AND key = ? AND created_at > ?",
        (owner_id, route, key, now_us - KEPT_US),
    )
    return None if row is None else Remembered(row["request_sha256"], row["answer"])


async def put(
    tx: Transaction, remembered: Remembered, *, owner_id: str, route: str, key: str, now_us: int
) -> None:
    """Remember a request; one of the same key that is too old to count makes room."""
    await tx.run(
        "INSERT INTO idempotency (owner_id, route, key, request_sha256, answer, created_at) "
        "VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (owner_id, route, key) DO UPDATE SET "
        "request_sha256 = excluded.request_sha256, answer = excluded.answer, created_at = excluded.created_at",
        (owner_id, route, key, *remembered, now_us),
    )


async def forget(tx: Transaction, *, now_us: int) -> int:
    """Remove what is too old to count; return how many those were."""
    return await tx.run("DELETE FROM idempotency WHERE created_at <= ?", (now_us - KEPT_US,))
