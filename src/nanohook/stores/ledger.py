"""Credits in SQL: what each person has, and every change of it."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass

from nanohook.database import Transaction
from nanohook.rules.credit import Kind

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Balance:
    """A person's credits."""

    available: int
    reserved: int
    """Set aside for tasks that have not ended."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One change of a balance."""

    id: int
    kind: Kind
    available: int
    """By how much what is available changed; below 0 it became less."""
    reserved: int
    """By how much what is reserved changed."""
    job_id: str | None
    attempt: int | None
    index: int | None
    note: str | None
    created_at: int


async def open_account(tx: Transaction, owner_id: str) -> None:
    """Give a new person a balance of nothing."""
    await tx.run("INSERT INTO balances (owner_id) VALUES (:owner_id)", {"owner_id": owner_id})


async def balance(tx: Transaction, owner_id: str) -> Balance:
    """Tell what a person has."""
    row = await tx.one(
        "SELECT available, reserved FROM balances WHERE owner_id = :owner_id", {"owner_id": owner_id}
    )
    return Balance(available=0, reserved=0) if row is None else Balance(**dict(row))


async def post(
    tx: Transaction,
    kind: Kind,
    *,
    owner_id: str,
    available: int,
    reserved: int,
    task: tuple[str, int, int] | None = None,
    note: str | None = None,
    now_us: int,
) -> Balance | None:
    """
    Change both halves of a balance and write that down, if neither falls below nothing by it.

    Args:
        task: Job, attempt and index of what it is for; each has at most one entry of a kind.

    Returns:
        The balance after it, or ``None``: nothing was changed.
    """
    row = await tx.one(
        "UPDATE balances SET available = available + :available, reserved = reserved + :reserved "
        "WHERE owner_id = :owner_id AND available + :available >= 0 AND reserved + :reserved >= 0 "
        "RETURNING available, reserved",
        {"owner_id": owner_id, "available": available, "reserved": reserved},
    )
    if row is None:
        return None
    job_id, attempt, index = task or (None, None, None)
    await tx.run(
        "INSERT INTO ledger (owner_id, kind, available, reserved, job_id, attempt, idx, note, created_at) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (owner_id, kind.value, available, reserved, job_id, attempt, index, note, now_us),
    )
    return Balance(**dict(row))


async def rebuild_balance(tx: Transaction, owner_id: str) -> bool:
    """Make a balance that has drifted what its ledger says; tell whether that was another."""
    changed = await tx.run(
        "INSERT INTO balances (owner_id, available, reserved) "
        "SELECT ?, COALESCE(SUM(available), 0), COALESCE(SUM(reserved), 0) FROM ledger WHERE owner_id = ? "
        "ON CONFLICT (owner_id) DO UPDATE SET available = excluded.available, reserved = excluded.reserved "
        "WHERE balances.available <> excluded.available OR balances.reserved <> excluded.reserved",
        (owner_id, owner_id),
    )
    if changed:
        tx.after_commit.append(lambda: logger.error("balance.rebuilt", extra={"owner_id": owner_id}))
    return bool(changed)


async def of_task(tx: Transaction, *, job_id: str, attempt: int, index: int) -> dict[Kind, int]:
    """Tell what was written down for a task: by kind, the change of what is available."""
    rows = await tx.all(
        "SELECT kind, available FROM ledger WHERE job_id = ? AND attempt = ? AND idx = ?", (job_id, attempt, index)
    )
    return {Kind(row["kind"]): row["available"] for row in rows}


@dataclass(frozen=True, kw_only=True, slots=True)
class Purchase:
    """What was set aside for a task, in the attempt that bought it."""

    attempt: int
    price: int
    is_paid: bool
    """It was charged, and not given back after all."""
    was_returned: bool
    """It was given back, and has not been charged before that."""


async def purchase(tx: Transaction, *, job_id: str, index: int, until_attempt: int) -> Purchase | None:
    """Find the newest purchase of a job's task, no newer than *until_attempt*; later attempts live on it."""
    rows = await tx.all(
        "SELECT attempt, kind, available FROM ledger WHERE job_id = :job_id AND idx = :idx AND attempt = "
        "(SELECT MAX(attempt) FROM ledger WHERE job_id = :job_id AND idx = :idx AND attempt <= :until)",
        {"job_id": job_id, "idx": index, "until": until_attempt},
    )
    if not rows:
        return None
    written = {Kind(row["kind"]): int(row["available"]) for row in rows}
    return Purchase(
        attempt=rows[0]["attempt"],
        price=-written.get(Kind.RESERVE, 0),
        is_paid=Kind.CHARGE in written and sum(written.values()) < 0,
        was_returned=Kind.RETURN in written and Kind.CHARGE not in written,
    )


async def paid(tx: Transaction, job_id: str) -> set[int]:
    """
    Tell for which tasks of a job, by index, the newest purchase is paid.

    That is the newest attempt with an entry: the attempts after it live on what it paid. What an older one paid
    was for another task of NanoBanana's.
    """
    rows = await tx.all(
        "SELECT idx FROM ledger AS entry WHERE job_id = :job_id AND attempt = "
        "(SELECT MAX(attempt) FROM ledger WHERE job_id = :job_id AND idx = entry.idx) "
        "GROUP BY idx HAVING SUM(available) < 0",
        {"job_id": job_id},
    )
    return {row["idx"] for row in rows}


async def costs(tx: Transaction, job_ids: Iterable[str]) -> dict[str, int]:
    """Tell what jobs cost so far, what is reserved for them included; a job without entries is left out."""
    names = {f"job{number}": job_id for number, job_id in enumerate(job_ids)}
    rows = await tx.all(
        "SELECT job_id, -SUM(available) AS cost FROM ledger "
        f"WHERE job_id IN ({', '.join(f':{name}' for name in names)}) GROUP BY job_id",
        names,
    )
    return {row["job_id"]: row["cost"] for row in rows}


async def page(tx: Transaction, *, owner_id: str, before_id: int | None, most: int) -> list[Entry]:
    """List a person's entries, newest first."""
    rows = await tx.all(
        "SELECT * FROM ledger WHERE owner_id = :owner_id AND id < :before ORDER BY id DESC LIMIT :most",
        {"owner_id": owner_id, "before": 2**62 if before_id is None else before_id, "most": most},
    )
    return [
        Entry(
            id=row["id"],
            kind=Kind(row["kind"]),
            available=row["available"],
            reserved=row["reserved"],
            job_id=row["job_id"],
            attempt=row["attempt"],
            index=row["idx"],
            note=row["note"],
            created_at=row["created_at"],
        )
        for row in rows
    ]
