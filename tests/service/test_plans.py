"""Every list reads along an index: a table scan would be found by the first busy person."""

import contextlib
import sqlite3

import pytest

from nanohook import migrations
from nanohook.database import Transaction
from nanohook.flow import gate
from nanohook.rules.job import Step
from nanohook.rules.status import ImageJobStatus
from nanohook.stores import (
    accounts,
    counts,
    deliveries,
    events,
    idempotency,
    jobs,
    ledger,
    line,
    pictures,
    projects,
    tasks,
    unclaimed,
)

FAILED, CANCELED = ImageJobStatus.FAILED, ImageJobStatus.CANCELED


@pytest.fixture(scope="module")
def connection(tmp_path_factory):
    path = tmp_path_factory.mktemp("plans") / "nanohook.db"
    migrations.upgrade(path)
    with contextlib.closing(sqlite3.connect(path)) as opened:
        opened.row_factory = sqlite3.Row
        yield opened


@pytest.mark.parametrize(
    ("wanted", "index"),
    [
        ({}, "ix_jobs_owner_id_id"),
        ({"before_id": "x"}, "ix_jobs_owner_id_id"),
        ({"text": "kite"}, "ix_jobs_owner_id_id"),
        ({"statuses": (FAILED,)}, "ix_jobs_owner_id_status_id"),
        ({"statuses": (FAILED, CANCELED), "before_id": "x"}, "ix_jobs_owner_id_status_id"),
        ({"project_id": "p"}, "ix_jobs_owner_id_project_id_id"),
        ({"project_id": "p", "text": "kite"}, "ix_jobs_owner_id_project_id_id"),
        ({"project_id": "p", "statuses": (FAILED, CANCELED)}, "ix_jobs_owner_id_project_id_status_id"),
        ({"task_id": "t"}, "ix_tasks_task_id"),
        ({"owner_id": None}, "sqlite_autoindex_jobs_1"),
        ({"owner_id": None, "statuses": (FAILED, CANCELED)}, "ix_jobs_status_id"),
    ],
)
async def test_lists_of_jobs(connection, wanted, index):
    tx = _Noted(connection)
    await jobs.page(tx, jobs.Filter(**{"owner_id": "o", **wanted}), most=50)
    assert len(tx.plans) == 1
    for plan in tx.plans:
        assert index in plan
        assert "SCAN jobs" not in plan.replace(f"SCAN jobs USING INDEX {index}", "")
        # Sorted is only what is few: the newest of each of several statuses, one task's jobs.
        is_few = len(wanted.get("statuses", ())) > 1 or "task_id" in wanted
        assert is_few or "TEMP B-TREE" not in plan


class _Noted(Transaction):
    """Runs statements, and keeps the plan of each."""

    def __init__(self, connection):
        super().__init__(connection)
        self.plans = []

    async def all(self, sql, values=None):
        rows = self._connection.execute(f"EXPLAIN QUERY PLAN {sql}", values or {}).fetchall()
        self.plans.append(" / ".join(row["detail"] for row in rows))
        return []

    async def run(self, sql, values=None):
        await self.all(sql, values)
        return 0

    async def one(self, sql, values=None):
        await self.all(sql, values)


@pytest.mark.parametrize(
    "read",
    [
        lambda tx: events.after(tx, 5),
        lambda tx: events.of_owner_after(tx, 5, owner_id="o"),
        lambda tx: events.of_jobs_after(tx, 5, owner_id="o", job_ids=("a", "b")),
        lambda tx: events.count_after(tx, 5, owner_id="o", most=1001),
        events.removed_to,
        lambda tx: tasks.next_due(tx, Step.ASK),
        lambda tx: tasks.claim(tx, Step.ASK, now_us=1, lease_until_us=2, most=3),
        lambda tx: tasks.claim(tx, Step.SUBMIT, now_us=1, lease_until_us=2, most=3),
        lambda tx: tasks.ask_soon(tx, now_us=1),
        lambda tx: tasks.count_held(tx, Step.SUBMIT),
        lambda tx: tasks.waits_since(tx, before_us=1, most=3),
        lambda tx: tasks.let_go(tx, "j"),
        lambda tx: line.next_spot(tx, owner_id="o", priority="low", now_us=1),
        lambda tx: line.place(tx, job_id="j", attempt=1),
        lambda tx: tx.one(line.AHEAD, {"priority": 1, "turn": 1, "queued_at": 1, "most": 5}),
        lambda tx: unclaimed.of_jobs(tx, ["j", "k"]),
        lambda tx: unclaimed.of_task(tx, job_id="j", index=0),
        lambda tx: unclaimed.older_than(tx, 5, most=3),
        gate.read,
        deliveries.count_parked,
        lambda tx: deliveries.parked_of(tx, job_id="j", attempt=1, index=0),
        lambda tx: tasks.of_attempt(tx, job_id="j", attempt=1),
        lambda tx: tasks.by_task_id(tx, "t"),
        tasks.count_accepted,
        deliveries.next_due,
        lambda tx: deliveries.claim_unapplied(tx, now_us=1, lease_until_us=2, most=3),
        lambda tx: projects.page(tx, owner_id="o", before_id=None, most=5),
        lambda tx: projects.page(tx, owner_id="o", before_id="x", most=5),
        lambda tx: projects.get(tx, owner_id="o", project_id="p"),
        lambda tx: counts.of_projects(tx, [("o", "p"), ("o", "q")]),
        lambda tx: projects.page(tx, owner_id=None, before_id="x", most=5),
        lambda tx: ledger.page(tx, owner_id="o", before_id=None, most=5),
        lambda tx: ledger.of_task(tx, job_id="j", attempt=1, index=0),
        lambda tx: ledger.costs(tx, ["j", "k"]),
        lambda tx: ledger.paid(tx, "j"),
        lambda tx: ledger.purchase(tx, job_id="j", index=0, until_attempt=1),
        lambda tx: ledger.balance(tx, "o"),
        lambda tx: jobs.attempts(tx, "j", most=5),
        lambda tx: jobs.some(tx, ["j", "k"], owner_id="o"),
        lambda tx: jobs.of_project(tx, owner_id="o", project_id="p", most=5),
        lambda tx: jobs.to_purge(tx, before_us=5, most=5),
        lambda tx: tasks.of_jobs(tx, ["j", "k"]),
        lambda tx: tasks.knows(tx, job_id="j", task_id="t"),
        lambda tx: pictures.originals(tx, ["a", "b"]),
        lambda tx: pictures.results_of(tx, ["j", "k"]),
        lambda tx: pictures.is_last_use(tx, "a", job_id="j"),
        lambda tx: accounts.by_session(tx, "s", now_us=1),
        lambda tx: accounts.by_key(tx, "k"),
        lambda tx: accounts.account(tx, "e"),
        lambda tx: accounts.keys(tx, owner_id="o"),
        lambda tx: accounts.end_sessions(tx, "o"),
        lambda tx: accounts.forget_sessions(tx, now_us=1),
        lambda tx: idempotency.get(tx, owner_id="o", route="r", key="k", now_us=1),
        lambda tx: idempotency.forget(tx, now_us=1),
    ],
)
async def test_everything_that_is_looked_at_again_and_again(connection, read):
    tx = _Noted(connection)
    await read(tx)
    assert tx.plans
    for plan in tx.plans:
        assert "SEARCH" in plan
        # The line is walked from its head, no further than there are places.
        plan = plan.replace("SCAN (subquery", "").replace("SCAN tasks USING INDEX ix_tasks_line", "")
        assert "SCAN" not in plan
