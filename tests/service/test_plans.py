"""Every list reads along an index: a table scan would be found by the first busy person."""

import contextlib
import functools
import sqlite3

import pytest

from nanohook import migrations
from nanohook.database import Transaction
from nanohook.flow import gate
from nanohook.rules.job import Step
from nanohook.rules.status import ImageJobStatus
from nanohook.stores import (
    accounts,
    claims,
    counts,
    deliveries,
    delivery_log,
    events,
    idempotency,
    job_lists,
    jobs,
    ledger,
    line,
    media,
    pictures,
    projects,
    retention,
    stats,
    tasks,
    unclaimed,
)
from nanohook.stores.deliveries import Effect

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
    await job_lists.page(tx, job_lists.Filter(**{"owner_id": "o", **wanted}), most=50)
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


@pytest.mark.parametrize("owner_id", ["o", None])
async def test_the_newest_runs_are_found_along_the_index_of_their_status(connection, owner_id):
    tx = _Noted(connection)
    await stats.runs(tx, owner_id=owner_id, statuses=(ImageJobStatus.COMPLETED, FAILED), most=5)
    [plan] = tx.plans
    index = "ix_jobs_status_id" if owner_id is None else "ix_jobs_owner_id_status_id"
    assert plan.count(f"SEARCH jobs USING INDEX {index}") == 2
    for table in ("attempts", "tasks", "jobs"):
        assert f"SCAN {table}" not in plan


@pytest.mark.parametrize(
    ("wanted", "indexes"),
    [
        ({}, ["sqlite_autoindex_deliveries_1", "sqlite_autoindex_rejections_1"]),
        ({"since_us": 5, "until_us": 9}, ["sqlite_autoindex_deliveries_1", "sqlite_autoindex_rejections_1"]),
        ({"effect": Effect.APPLIED}, ["sqlite_autoindex_deliveries_1"]),
        ({"effect": Effect.DEAD}, ["ix_deliveries_effect_id"]),
        ({"job_id": "j"}, ["uq_deliveries_same"]),
        ({"task_id": "t"}, ["ix_deliveries_task_id"]),
    ],
    ids=str,
)
async def test_the_log_of_deliveries(connection, wanted, indexes):
    tx, along = _Noted(connection), delivery_log.Filter(**wanted)
    await delivery_log.page(tx, along, before_id="x", most=50)
    await delivery_log.oldest(tx, along, after_id="x", most=50)
    assert len(tx.plans) == len(indexes) + 1
    for plan, index in zip(tx.plans, [*indexes, indexes[0]], strict=True):
        assert index in plan
        assert "SCAN" not in plan
        # Sorted are one job's, or one task's.
        assert "job_id" in wanted or "TEMP B-TREE FOR ORDER BY" not in plan


async def _page_of_leftovers(tx, *, what, before_us):
    await retention.leftovers(tx, what, after="a", before_us=before_us, most=5)
    # A page is found by its ids alone, and has no more than its rows.
    assert "USING COVERING INDEX" in tx.plans.pop(0)
    await retention.leftovers(_Ends(tx), what, after="a", before_us=before_us, most=5)


class _Ends:
    """Finds a last row, so that the statement after that is asked too."""

    def __init__(self, tx):
        self.all = tx.all

    async def one(self, sql, values=None):
        return {"last": "b"}


async def test_suspects_are_looked_for_among_suspects_alone(connection):
    tx = _Noted(connection)
    for without in ([], ["o"]):
        await claims.next_due(tx, Step.FINISH, is_suspect=True, without=without)
        await claims.claim(tx, Step.FINISH, is_suspect=True, now_us=1, lease_until_us=2, most=3, without=without)
    assert len(tx.plans) == 4
    for plan in tx.plans:
        assert "USING INDEX ix_tasks_suspect" in plan or "USING COVERING INDEX ix_tasks_suspect" in plan


@pytest.mark.parametrize(
    "read",
    [
        lambda tx: events.after(tx, 5),
        lambda tx: events.of_owner_after(tx, 5, owner_id="o"),
        lambda tx: events.of_jobs_after(tx, 5, owner_id="o", job_ids=("a", "b")),
        lambda tx: events.count_after(tx, 5, owner_id="o", most=1001),
        events.removed_to,
        lambda tx: claims.next_due(tx, Step.ASK),
        lambda tx: claims.next_due(tx, Step.FINISH, is_suspect=True),
        lambda tx: claims.next_due(tx, Step.SUBMIT, without=["o"]),
        lambda tx: claims.next_due(tx, Step.FINISH, without=["o"]),
        lambda tx: claims.claim(tx, Step.FINISH, now_us=1, lease_until_us=2, most=3, without=["o"]),
        lambda tx: claims.claim(tx, Step.FINISH, is_suspect=True, now_us=1, lease_until_us=2, most=3),
        lambda tx: claims.claim(tx, Step.ASK, now_us=1, lease_until_us=2, most=3),
        lambda tx: claims.claim(tx, Step.SUBMIT, now_us=1, lease_until_us=2, most=3),
        lambda tx: claims.ask_soon(tx, now_us=1),
        lambda tx: stats.count_submitting(tx, now_us=1),
        lambda tx: tasks.waits_since(tx, before_us=1, most=3),
        lambda tx: tasks.let_go(tx, "j"),
        lambda tx: tasks.canceled(tx, "j"),
        lambda tx: line.next_spot(tx, owner_id="o", priority="low", now_us=1),
        lambda tx: line.place(tx, job_id="j", attempt=1),
        lambda tx: tx.one(line.AHEAD, {"priority": 1, "turn": 1, "queued_at": 1, "most": 5}),
        lambda tx: unclaimed.of_jobs(tx, ["j", "k"]),
        lambda tx: unclaimed.of_task(tx, job_id="j", index=0),
        lambda tx: unclaimed.older_than(tx, 5, most=3),
        gate.read,
        lambda tx: stats.load(tx, owner_id=None, now_us=1),
        lambda tx: stats.load(tx, owner_id="o", now_us=1),
        lambda tx: counts.of_owner(tx, "o"),
        lambda tx: jobs.of_batch(tx, "b", owner_id="o", most=5),
        lambda tx: jobs.of_batch(tx, "b", owner_id=None, most=5),
        deliveries.count_parked,
        lambda tx: deliveries.count_of_task(tx, job_id="j", attempt=1, index=0),
        lambda tx: tasks.of_attempt(tx, job_id="j", attempt=1),
        lambda tx: tasks.by_task_id(tx, "t"),
        stats.count_accepted,
        deliveries.next_due,
        lambda tx: deliveries.claim_unapplied(tx, now_us=1, lease_until_us=2, most=3),
        delivery_log.waiting,
        lambda tx: delivery_log.one(tx, "d"),
        lambda tx: delivery_log.taken(tx, ["d", "e"]),
        lambda tx: deliveries.put_off(tx, "d", reason="r", due_at=5),
        lambda tx: deliveries.repeated(tx, "d", now_us=5),
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
        lambda tx: jobs.uploads_to_purge(tx, owner_id="o", before_us=5, most=5),
        lambda tx: accounts.may_come_in(tx, "o"),
        lambda tx: retention.last_delivery(tx, after="a", before_us=5, most=5, most_bytes=5),
        lambda tx: retention.remove_deliveries(tx, after="a", until="b"),
        lambda tx: retention.last_event(tx, after=1, before_us=5, most=5),
        lambda tx: retention.remove_events(tx, after=1, until=5),
        lambda tx: retention.parked(tx, after="", before_us=5, most=5),
        lambda tx: retention.give_up_parked(tx, ["a", "b"], reason="r"),
        lambda tx: retention.remove_rejections(tx, before_us=5, most=5),
        *(
            functools.partial(ask, what=what, before_us=5)
            for what in (retention.REVOKED_KEYS, retention.PURGED_UPLOADS)
            for ask in (
                functools.partial(retention.remove_leftovers, row_ids=["a", "b"]),
                _page_of_leftovers,
            )
        ),
        lambda tx: retention.old_uploads(tx, before_us=5, most=5),
        lambda tx: media.named(tx, ["a", "b"]),
        *(functools.partial(media.page, table=table, after_key="k", deleted_since_us=5) for table in media.TABLES),
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
        walked = plan.replace("SCAN (subquery", "").replace("SCAN tasks USING INDEX ix_tasks_line", "")
        # Of people, those who have something there; and whoever is passed by.
        walked = walked.replace("SCAN people", "").replace("SCAN json_each VIRTUAL TABLE", "")
        assert "SCAN" not in walked
