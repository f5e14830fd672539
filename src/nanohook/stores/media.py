"""Files that rows name, in SQL: every table with a picture of somebody's, its file and its thumbnail."""

from collections.abc import Collection
from typing import Final

from nanohook.database import Transaction, Value
from nanohook.values import frozen

TABLES: Final = ("originals", "pictures", "projects", "unclaimed")
PAGE: Final = 500
"""Names asked for, or rows listed, at once."""

_OF_SOME_JOB: Final = (
    "EXISTS (SELECT 1 FROM jobs WHERE {} AND (deleted_at IS NULL OR deleted_at >= :deleted_since))"
)
# A deleted job's files go before its rows: beyond the time in which it can be had back, no file is no loss.
_KEPT: Final = {
    "originals": _OF_SOME_JOB.format("jobs.original_id = originals.id"),
    "pictures": _OF_SOME_JOB.format("jobs.id = pictures.job_id"),
    "projects": "TRUE",
    "unclaimed": _OF_SOME_JOB.format("jobs.id = unclaimed.job_id"),
}


_SHOWN: Final = " UNION ALL ".join(
    f"SELECT users.disabled_at IS NOT NULL AS is_disabled FROM {table} JOIN users ON users.id = {table}.owner_id "
    f"WHERE {table}.{column} = :key AND {_KEPT[table]}"
    for table in TABLES
    for column in ("key", "thumbnail_key")
)
_NEVER: Final = 2**63 - 1


@frozen
class Named:
    """A picture that a row names."""

    key: str
    thumbnail_key: str
    size_bytes: int
    sha256: bytes | None
    """Of the bytes under ``key``; ``None`` where that is not kept."""
    is_kept: bool
    """Its files must be there; else housekeeping may be removing them just now."""


async def named(tx: Transaction, keys: Collection[str]) -> set[str]:
    """Tell which of *keys*, ``PAGE`` at most, some row names; whatever lies in the folder may be asked for."""
    # All of ours are ASCII; a name that is not may not even be text.
    values: dict[str, Value] = {f"key{number}": key for number, key in enumerate(keys) if key.isascii()}
    marks = ", ".join(f":{name}" for name in values)
    either = " UNION ALL ".join(
        f"SELECT {column} AS name FROM {table} WHERE {column} IN ({marks})"
        for table in TABLES
        for column in ("key", "thumbnail_key")
    )
    return {row["name"] for row in await tx.all(either, values)}


async def is_owner_disabled(tx: Transaction, key: str) -> bool | None:
    """
    Tell whether the owner of a picture, or of its thumbnail, is disabled.

    Returns:
        ``None`` if nothing shows the picture: there is none, or all of its jobs are deleted.
    """
    row = await tx.one(f"{_SHOWN} LIMIT 1", {"key": key, "deleted_since": _NEVER})
    return None if row is None else bool(row["is_disabled"])


async def page(tx: Transaction, table: str, *, after_key: str, deleted_since_us: int) -> list[Named]:
    """
    List what *table*, one of ``TABLES``, names after *after_key*, in the order of the keys.

    Args:
        deleted_since_us: Jobs deleted before this time (µs) need not have their files any more.
    """
    digest = "sha256" if table in {"pictures", "unclaimed"} else "NULL"
    rows = await tx.all(
        f"SELECT key, thumbnail_key, bytes, {digest} AS sha256, {_KEPT[table]} AS is_kept FROM {table} "
        "WHERE key > :after ORDER BY key LIMIT :most",
        {"after": after_key, "most": PAGE, "deleted_since": deleted_since_us},
    )
    return [
        Named(
            key=row["key"],
            thumbnail_key=row["thumbnail_key"],
            size_bytes=row["bytes"],
            sha256=row["sha256"],
            is_kept=bool(row["is_kept"]),
        )
        for row in rows
    ]
