"""Every list reads along an index: a table scan would be found by the first busy person."""

import contextlib
import sqlite3

import pytest

from nanohook import migrations
from nanohook.database import Transaction
from nanohook.rules.job import Step
from nanohook.rules.status import ImageJobStatus
from nanohook.stores import deliveries, events, jobs, tasks


@pytest.fixture(scope="module")
def connection(tmp_path_factory):
    path = tmp_path_factory.mktemp("plans") / "nanohook.db"
    migrations.upgrade(path)
    with contextlib.closing(sqlite3.connect(path)) as opened:
        opened.row_factory = sqlite3.Row
        yield opened


def plan_of(connection, sql, values):
    bound = {name: values.get(name, "") for name in NAMES}
    return " / ".join(row["detail"] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", bound))


NAMES = ("owner_id", "most", "status0", "project_id", "text", "task_id", "before_id")


@pytest.mark.parametrize(
    ("wanted", "index"),
    [
        (jobs.Filter(), "ix_jobs_owner_id_id"),
        (jobs.Filter(before_id="x"), "ix_jobs_owner_id_id"),
        (jobs.Filter(text="kite"), "ix_jobs_owner_id_id"),
        (jobs.Filter(statuses=(ImageJobStatus.FAILED,)), "ix_jobs_owner_id_status_id"),
        (jobs.Filter(project_id="p"), "ix_jobs_owner_id_project_id_id"),
        (jobs.Filter(task_id="t"), "ix_tasks_task_id"),
    ],
)
def test_lists_of_jobs(connection, wanted, index):
    sql, values = jobs.page_statement(wanted)
    plan = plan_of(connection, sql, values)
    assert index in plan
    assert "SCAN jobs" not in plan
    assert "TEMP B-TREE" not in plan or wanted.task_id


class _Noted(Transaction):
    """Runs statements, and keeps the plan of each."""

    def __init__(self, connection):
        super().__init__(connection)
        self.plans = []

    async def all(self, sql, values=None):
        rows = self._connection.execute(f"EXPLAIN QUERY PLAN {sql}", values or {}).fetchall()
        self.plans.append(" / ".join(row["detail"] for row in rows))
        return []

    async def one(self, sql, values=None):
        await self.all(sql, values)


@pytest.mark.parametrize(
    "read",
    [
        lambda tx: events.after(tx, 5),
        lambda tx: events.of_owner_after(tx, 5, owner_id="o"),
        lambda tx: events.of_jobs_after(tx, 5, owner_id="o", job_ids=("a", "b")),
        lambda tx: events.count_after(tx, 5, owner_id="o", most=1001),
        events.oldest,
        lambda tx: tasks.next_due(tx, Step.ASK),
        lambda tx: tasks.claim(tx, Step.ASK, now_us=1, lease_until_us=2, most=3),
        lambda tx: tasks.of_attempt(tx, job_id="j", attempt=1),
        lambda tx: tasks.by_task_id(tx, "t"),
        tasks.count_accepted,
        deliveries.next_due,
        lambda tx: deliveries.claim_unapplied(tx, now_us=1, lease_until_us=2, most=3),
    ],
)
async def test_everything_that_is_looked_at_again_and_again(connection, read):
    tx = _Noted(connection)
    await read(tx)
    assert tx.plans
    for plan in tx.plans:
        assert "SEARCH" in plan
        assert "SCAN" not in plan.replace("SCAN (subquery", "")
