"""Ids in SQL by a part of them: what a person types who has seen the last characters of one."""

from typing import Final, Literal

from nanohook.database import Transaction

LEAST_CHARS: Final = 8
"""Of a part of an id: fewer name too many."""


async def meant(
    tx: Transaction, table: Literal["jobs", "deliveries", "rejections"], part: str, *, most: int = 2
) -> list[str]:
    """
    List ids of *table* that begin or end with *part*: two are enough to know that it names none.

    Returns:
        At most *most* that begin so, and as many that end so; none for fewer than ``LEAST_CHARS`` characters.
        Deleted jobs are none.
    """
    if len(part) < LEAST_CHARS:
        return []
    there = "deleted_at IS NULL AND " if table == "jobs" else ""
    found: set[str] = set()
    for sql, values in (
        # Not LIKE: what a person types would be a pattern. Ids are of ASCII, and U+FFFF sorts behind all of it.
        (f"SELECT id FROM {table} WHERE {there}id >= ? AND id < ? LIMIT ?", (part, f"{part}\uffff", most)),
        # The end of an id is what differs among those of one minute; no index finds it, and only a person asks.
        (f"SELECT id FROM {table} WHERE {there}substr(id, ?) = ? LIMIT ?", (-len(part), part, most)),
    ):
        found |= {row["id"] for row in await tx.all(sql, values)}
    return sorted(found)
