"""A delivery whose applying raises is kept, answered, tried again, and in the end dead: never lost."""

import sqlite3

import pytest

from nanohook import errors
from nanohook.flow import replay
from nanohook.sandbox.options import Options
from nanohook.work import apply
from tests import live, rig

# A fault that is real: the database refuses what applying wants to write.
FAULT = "CREATE TRIGGER fault BEFORE INSERT ON events BEGIN SELECT RAISE(ABORT, 'refused by the test'); END"


def rows(tmp_path, sql, *values):
    with sqlite3.connect(tmp_path / "nanohook.db") as connection:
        return connection.execute(sql, values).fetchall()


async def test_it_is_answered_accepted_and_applied_once_the_fault_is_gone(tmp_path):
    async with rig.running(tmp_path, sandbox=Options(latency_s=60)) as service:
        job_id = (await service.generate())["job_id"]
        await live.until(lambda: service.upstream.submitted == 1)
        await live.until(lambda: rows(tmp_path, "SELECT 1 FROM tasks WHERE step = 'ask'"))
        rows(tmp_path, FAULT)

        answer = await service.call_back(job_id, {"status": "generating", "data": {"progress": 66}})
        assert answer.status_code == 200, answer.text
        assert answer.json()["status"] == "accepted"
        [(effect, reason)] = rows(tmp_path, "SELECT effect, reason FROM deliveries")
        assert (effect, reason) == ("unapplied", "IntegrityError: refused by the test")
        assert (await service.job(job_id))["progress"] == 60

        again = await service.call_back(job_id, {"status": "generating", "data": {"progress": 66}})
        assert again.json()["delivery_id"] == answer.json()["delivery_id"]

        rows(tmp_path, "DROP TRIGGER fault")
        await live.until(lambda: rows(tmp_path, "SELECT effect FROM deliveries") == [("applied",)])
        assert (await service.job(job_id))["progress"] == 66


async def test_after_its_tries_it_is_dead_and_kept(tmp_path):
    async with rig.running(tmp_path, sandbox=Options(latency_s=60)) as service:
        job_id = (await service.generate())["job_id"]
        await live.until(lambda: rows(tmp_path, "SELECT 1 FROM tasks WHERE step = 'ask'"))
        rows(tmp_path, FAULT)
        await service.call_back(job_id, {"status": "generating", "data": {"progress": 66}})
        rows(tmp_path, "UPDATE deliveries SET tries = ?, due_at = 1", apply.MOST_TRIES - 1)

        await live.until(
            lambda: rows(tmp_path, "SELECT effect, due_at FROM deliveries") == [("dead", None)], timeout_s=15
        )
        assert rows(tmp_path, "SELECT length(body) > 0 FROM deliveries") == [(1,)]


async def test_a_poisonous_one_holds_up_no_other(tmp_path):
    async with rig.running(tmp_path, sandbox=Options(latency_s=60)) as service:
        bad, *good = [(await service.generate())["job_id"] for _ in range(3)]
        await live.until(lambda: len(rows(tmp_path, "SELECT 1 FROM tasks WHERE step = 'ask'")) == 3)
        rows(tmp_path, FAULT)
        for job_id in (bad, *good):
            await service.call_back(job_id, {"status": "generating", "data": {"progress": 66}})
        rows(tmp_path, "DROP TRIGGER fault")
        # Its bytes are no callback any more: nothing can be done with it, however often.
        rows(tmp_path, "UPDATE deliveries SET body = x'ff', due_at = 1 WHERE job_id = ?", bad)
        rows(tmp_path, "UPDATE deliveries SET due_at = 2 WHERE job_id <> ?", bad)

        await live.until(
            lambda: rows(tmp_path, "SELECT COUNT(*) FROM deliveries WHERE effect = 'applied'") == [(2,)],
            timeout_s=15,
        )
        [(effect, reason, tries)] = rows(
            tmp_path, "SELECT effect, reason, tries FROM deliveries WHERE job_id = ?", bad
        )
        assert (effect, reason) == ("unapplied", "NotJson: the body is not JSON")
        assert tries >= 1


def failing(exc):
    raise exc


@pytest.mark.parametrize(
    ("exc", "said"),
    [
        (sqlite3.IntegrityError("UNIQUE constraint failed: events.id"), "IntegrityError: UNIQUE constraint"),
        (errors.NotFound("the task is gone"), "NotFound: the task is gone"),
        (KeyError("a secret of the body"), "KeyError in failing, line "),
    ],
)
def test_the_reason_names_the_error_and_quotes_no_body(exc, said):
    with pytest.raises(type(exc)) as caught:
        failing(exc)
    reason = replay.why(caught.value)
    assert reason.startswith(said)
    assert "secret" not in reason
    assert len(replay.why(errors.NotFound("x" * 5_000))) == 300
