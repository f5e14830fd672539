"""The event log in SQL: what streams send."""

from dataclasses import dataclass
from typing import Any, Final

from nanohook.database import Row, Transaction
from nanohook.stores import facts

PAGE: Final = 64
"""Events read at once: what a pump or the hub holds in memory."""

REMOVED_TO: Final = "events_removed_to"
"""The fact that ``removed_to`` reads."""

_GAP: Final = 2**32
"""Ids that a copy leaves out: more events than anybody writes between a backup and the day it is needed."""

_SELECT: Final = "SELECT id, owner_id, job_id, name, is_last, payload FROM events"


@dataclass(frozen=True, slots=True)
class Event:
    """One row of history."""

    id: int
    owner_id: str
    job_id: str
    name: str
    is_last: bool
    """The job has ended, or is gone: nothing follows until a person acts."""
    payload: str
    """JSON, as ``views.event`` builds it."""


async def append(
    tx: Transaction, *, owner_id: str, job_id: str, name: str, is_last: bool, payload: str, now_us: int
) -> int:
    """Store an event and return its id, greater than every one given before."""
    row = await tx.one(
        "INSERT INTO events (owner_id, job_id, name, is_last, payload, created_at) "
        "VALUES (?, ?, ?, ?, ?, ?) RETURNING id",
        (owner_id, job_id, name, int(is_last), payload, now_us),
    )
    if row is None:
        raise RuntimeError("an INSERT returned no row")
    return int(row[0])


async def head(tx: Transaction) -> int:
    """Tell the newest id ever given: the counter stays when rows are deleted."""
    row = await tx.one("SELECT seq FROM sqlite_sequence WHERE name = 'events'")
    return 0 if row is None else int(row["seq"])


async def newest_at(tx: Transaction) -> int | None:
    """Tell when the newest event was written, µs; ``None``: there is none."""
    row = await tx.one("SELECT created_at FROM events ORDER BY id DESC LIMIT 1")
    return None if row is None else int(row["created_at"])


async def removed_to(tx: Transaction) -> int:
    """
    Tell the newest id that housekeeping removed or a copy left out, 0 if none: from before it nobody goes on.

    The oldest that is left does not tell: an open job's events stay, however old they are.
    """
    return int(await facts.get(tx, REMOVED_TO) or 0)


async def begin_anew(tx: Transaction) -> None:
    """
    Go on far above every id that was given, with nobody going on from before.

    For a copy of the log: who reads the original meanwhile keeps ids that the copy would give to other events.
    """
    start = await head(tx) + _GAP
    await tx.run("DELETE FROM sqlite_sequence WHERE name = 'events'")
    await tx.run("INSERT INTO sqlite_sequence (name, seq) VALUES ('events', ?)", (start,))
    await facts.put(tx, REMOVED_TO, str(start))


async def after(tx: Transaction, cursor: int, *, most: int = PAGE) -> list[Event]:
    """List everybody's events after *cursor*, in order."""
    return [
        _event(row)
        for row in await tx.all(
            f"{_SELECT} WHERE id > :cursor ORDER BY id LIMIT :most", {"cursor": cursor, "most": most}
        )
    ]


async def of_owner_after(tx: Transaction, cursor: int, *, owner_id: str | None, most: int = PAGE) -> list[Event]:
    """List events of *owner_id* after *cursor*, in order; ``None``: everybody's, for an admin."""
    if owner_id is None:
        return await after(tx, cursor, most=most)
    return [
        _event(row)
        for row in await tx.all(
            f"{_SELECT} WHERE owner_id = :owner_id AND id > :cursor ORDER BY id LIMIT :most",
            {"owner_id": owner_id, "cursor": cursor, "most": most},
        )
    ]


async def of_jobs_after(
    tx: Transaction, cursor: int, *, owner_id: str | None, job_ids: tuple[str, ...], most: int = PAGE
) -> list[Event]:
    """List events of some jobs of *owner_id* after *cursor*, in order; ``None``: whosever they are."""
    where, values = _of(owner_id, job_ids)
    return [
        _event(row)
        for row in await tx.all(
            f"{_SELECT} WHERE {where} id > :cursor ORDER BY id LIMIT :most",
            {**values, "cursor": cursor, "most": most},
        )
    ]


async def count_after(
    tx: Transaction, cursor: int, *, owner_id: str | None, job_ids: tuple[str, ...] | None = None, most: int
) -> int:
    """Count events of *owner_id*, or with ``None`` everybody's, after *cursor*, up to *most*; or of some jobs."""
    where, values = _of(owner_id, job_ids)
    row = await tx.one(
        f"SELECT COUNT(*) AS n FROM (SELECT 1 FROM events WHERE {where} id > :cursor LIMIT :most)",
        {**values, "cursor": cursor, "most": most},
    )
    return 0 if row is None else int(row["n"])


def _of(owner_id: str | None, job_ids: tuple[str, ...] | None) -> tuple[str, dict[str, Any]]:
    """Spell the beginning of a condition, and its values."""
    names = {f"job{number}": job_id for number, job_id in enumerate(job_ids or ())}
    of_jobs = "" if job_ids is None else f"job_id IN ({', '.join(f':{name}' for name in names)}) AND"
    of_owner = "" if owner_id is None else "owner_id = :owner_id AND"
    return f"{of_jobs} {of_owner}", {**names, **({} if owner_id is None else {"owner_id": owner_id})}


def _event(row: Row) -> Event:
    return Event(row["id"], row["owner_id"], row["job_id"], row["name"], bool(row["is_last"]), row["payload"])
