"""The database of a ``World``, one transaction at a time, and what can be seen in it."""

import pathlib
import sqlite3
from typing import Any

from nanohook import ids, units
from nanohook.database import Transaction
from nanohook.flow import accounts
from nanohook.rules.job import Step, Task
from nanohook.stores import claims, jobs, line, tasks
from tests import books

SECOND = 1_000_000
LEASE = 30 * SECOND


class Database:
    def __init__(self, path: pathlib.Path) -> None:
        self.connection = sqlite3.connect(path, isolation_level=None)
        self.connection.row_factory = sqlite3.Row
        self.connection.execute("PRAGMA foreign_keys=ON")
        self.connection.execute("PRAGMA synchronous=OFF")
        self.now = 1_700_000_000 * SECOND
        self.owner: dict[str, str] = {}
        self.checked = 0
        """How many rows had been changed when all was last checked."""

    def close(self) -> None:
        self.connection.close()

    def person(self, credits: int = 1_000) -> str:
        account = {"email": f"{ids.new_id()}@example.org", "password_hash": None, "credits": credits}
        made = self.do(
            lambda tx: accounts.create(tx, **account, is_admin=False, is_verified=True, now_us=self.now)
        )
        return made.id

    def do(self, unit: Any) -> Any:
        """One transaction, a moment after the one before."""
        self.now += 1_000
        self.connection.execute("BEGIN")
        try:
            result = units.drive(unit, Transaction(self.connection))
        except BaseException:
            self.connection.execute("ROLLBACK")
            raise
        self.connection.execute("COMMIT")
        return result

    def all(self, sql: str, *values: object) -> list[dict[str, Any]]:
        return books.of(self.connection, sql, *values)

    # What can be seen.

    def job(self, job_id: str) -> Any:
        return self.do(lambda tx: jobs.load(tx, job_id))

    def task(self, job_id: str, index: int = 0) -> Any:
        attempt = self.job(job_id).attempt
        return self.do(lambda tx: tasks.load(tx, job_id=job_id, attempt=attempt, index=index))

    def place(self, job_id: str) -> int | None:
        attempt = self.job(job_id).attempt
        return self.do(lambda tx: line.place(tx, job_id=job_id, attempt=attempt))

    def jobs_that(self, condition: str) -> list[str]:
        return [row["id"] for row in self.all(f"SELECT id FROM jobs WHERE {condition}")]

    def waits_for(self, step: Step) -> bool:
        return bool(self.all("SELECT 1 FROM tasks WHERE step = ? AND due_at <= ? LIMIT 1", step, self.now))

    def entries(self, job_id: str) -> list[tuple[int, int, str]]:
        found = self.all("SELECT attempt, idx, kind FROM ledger WHERE job_id = ? ORDER BY id", job_id)
        return [(entry["attempt"], entry["idx"], entry["kind"]) for entry in found]

    def spent(self) -> int:
        found = "SELECT SUM(available + reserved) AS n FROM ledger WHERE owner_id = ? AND kind != 'grant'"
        return -(self.all(found, self.owner["owner_id"])[0]["n"] or 0)

    def reserved(self) -> int:
        found = self.all("SELECT reserved FROM balances WHERE owner_id = ?", self.owner["owner_id"])
        return found[0]["reserved"]

    def late(self, job_id: str) -> list[tuple[int, int]]:
        """Attempt and index of the unclaimed results of a job."""
        found = self.all("SELECT attempt, idx FROM unclaimed WHERE job_id = ? ORDER BY 1, 2", job_id)
        return [(late["attempt"], late["idx"]) for late in found]

    def seen(self, job_id: str) -> object:
        """What its owner sees of a job; what it costs is another matter."""
        return (
            self.all("SELECT * FROM jobs WHERE id = ?", job_id),
            self.all("SELECT * FROM attempts WHERE job_id = ?", job_id),
            self.all("SELECT COUNT(*) AS n FROM events"),
        )

    def claim(self, step: Step, *, most: int) -> list[Task]:
        lease = {"now_us": self.now, "lease_until_us": self.now + LEASE}
        return self.do(lambda tx: claims.claim(tx, step, **lease, most=most))
