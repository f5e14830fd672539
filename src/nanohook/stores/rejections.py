"""Refused callbacks in SQL: some of them, for an operator to look at, within bounds of their own."""

from collections.abc import Sequence

from nanohook import ids
from nanohook.database import Transaction
from nanohook.values import frozen


@frozen
class Rejection:
    """A refused request: never applied, never verified again."""

    id: str
    """Of the same kind as a delivery's: both stand in one list, in order of time."""
    reason: str
    peer: str
    headers: str
    """``name: value`` lines, without ``Authorization`` and ``Cookie``, and cut."""
    body: bytes
    """What was read of it, and cut."""
    received_at: int


async def insert(tx: Transaction, rejections: Sequence[Rejection], *, most: int, oldest_us: int) -> None:
    """Store refused requests, and drop those over *most* rows or from before *oldest_us* (µs)."""
    for refused in rejections:
        await tx.run(
            "INSERT INTO rejections (id, reason, peer, headers, body, received_at) VALUES (?, ?, ?, ?, ?, ?)",
            (refused.id, refused.reason, refused.peer, refused.headers, refused.body, refused.received_at),
        )
    await forget(tx, most=most, oldest_us=oldest_us)


async def forget(tx: Transaction, *, most: int, oldest_us: int) -> None:
    """Drop all but the newest *most*, and those from before *oldest_us* (µs)."""
    # Ids are in order of time: neither needs to look at a row, whose time stands behind its bytes.
    await tx.run("DELETE FROM rejections WHERE id < ?", (ids.earliest(oldest_us),))
    await tx.run(
        "DELETE FROM rejections WHERE id <= (SELECT id FROM rejections ORDER BY id DESC LIMIT 1 OFFSET ?)", (most,)
    )
