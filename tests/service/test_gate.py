"""While NanoBanana refuses the account, or the operator pauses, everybody waits; nothing is lost by it."""

import asyncio
import contextlib
import itertools

import orjson
import pytest

from nanohook import clock
from nanohook.sandbox.app import create_app
from nanohook.sandbox.options import Options
from nanohook.sandbox.tasks import Picture
from nanohook.work import account
from tests import books, live, rig

HOUR_US = 3_600_000_000
GATE = (
    "SELECT json_extract(value, '$.blocked_code') AS code, json_extract(value, '$.blocked_since') AS since "
    "FROM facts WHERE name = 'gate'"
)


class Upstream:
    """The sandbox behind a door where a test says what a submit and a question for the credit are answered."""

    def __init__(self, *submits, credit=200):
        self.sandbox = create_app(Options(latency_s=0.05, callback_pause_s=0.05))
        self.submits = list(submits)
        """Codes for the submits to come; the last one stays. 200 goes to the sandbox."""
        self.credit = credit
        self.rounds = 0
        """Submits are refused until it was asked for the credit so often."""
        self.headers = ()
        self.asked = []

    async def __call__(self, scope, receive, send):
        what = {"generate": "submit", "credit": "credit"}.get(scope.get("path", "").rpartition("/")[2])
        code = 200
        if what == "credit":
            code = self.credit
        elif what == "submit":
            code = self.submits.pop(0) if len(self.submits) > 1 else self.submits[0]
            code = 402 if self.asked.count("credit") < self.rounds else code
        if what:
            self.asked.append(what)
        if code == 200:
            await self.sandbox(scope, receive, send)
            return
        headers = [(b"content-type", b"application/json"), *self.headers]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": orjson.dumps({"code": code, "msg": "no"})})


@contextlib.asynccontextmanager
async def running(tmp_path, door, **chosen):
    """Run a service whose NanoBanana is behind *door*; it has stopped when the block is left."""
    async with live.serve(door) as upstream:
        there = {"nanobanana_url": upstream, "download_hosts": (upstream.removeprefix("http://"),)}
        async with rig.running(tmp_path, **there, **chosen) as service:
            yield service
            books.check(tmp_path)


def rows(tmp_path, sql, *values):
    return books.rows(tmp_path, sql, *values)


async def blocked(tmp_path):
    await live.until(lambda: (rows(tmp_path, GATE) or [{"code": None}])[0]["code"])
    return rows(tmp_path, GATE)[0]


async def waiting(service, tmp_path, number=3):
    """Ask for some pictures while the account is refused; return their jobs' ids when all wait."""
    job_ids = [(await service.generate(str(each)))["job_id"] for each in range(number)]
    await blocked(tmp_path)
    wait = "SELECT 1 FROM tasks WHERE step = 'submit' AND held = 0 AND submit_started_at IS NULL"
    await live.until(lambda: len(rows(tmp_path, wait)) == number)
    return job_ids


async def test_everybody_waits_until_nanobanana_answers_for_the_account(tmp_path):
    door = Upstream(402, credit=402)
    async with running(tmp_path, door, submit_concurrency=1) as service:
        job_ids = await waiting(service, tmp_path)
        await live.until(lambda: "credit" in door.asked)
        jobs = [await service.job(job_id) for job_id in job_ids]
        assert [job["status"] for job in jobs] == ["INITIALIZING", "PENDING", "PENDING"]
        assert {job["message"] for job in jobs} == {"Waiting: the NanoBanana account has no credit left"}
        told = (await service.client.get(f"/api/images/{job_ids[0]}/status")).json()
        assert (told["message"], told["place"], told["estimated_wait_s"]) == (jobs[0]["message"], 1, None)
        door.submits, door.credit = [200], 200
        for job_id in job_ids:
            assert (await service.ended(job_id))["status"] == "COMPLETED"
        assert door.asked == ["submit", "credit", "credit", "submit", "submit", "submit"]
        assert rows(tmp_path, GATE)[0]["code"] is None


async def test_one_submit_goes_ahead_of_the_others_when_the_account_answers(tmp_path):
    door = Upstream(200)
    door.rounds = 2
    async with running(tmp_path, door) as service:
        for job_id in await waiting(service, tmp_path):
            assert (await service.ended(job_id))["status"] == "COMPLETED"
    # What was under way together was refused together; from here it is one for each answer.
    answered = door.asked.index("credit")
    taken = len(door.asked) - 3
    assert ("submit", "submit") not in itertools.pairwise(door.asked[answered : taken + 1])
    assert door.asked[answered:].count("submit") > 3


@pytest.fixture
def soon(monkeypatch):
    """The account is asked for without a long pause."""
    monkeypatch.setattr(account, "FIRST_S", 0.05)


def hours_ago(tmp_path, number):
    """All who wait have done so for so long, and since then the account is refused."""
    rows(tmp_path, "UPDATE tasks SET queued_at = queued_at - ?", number * HOUR_US)
    since = rows(tmp_path, GATE)[0]["since"] - number * HOUR_US
    rows(tmp_path, "UPDATE facts SET value = json_set(value, '$.blocked_since', ?) WHERE name = 'gate'", since)


async def test_after_a_stop_of_hours_nobody_fails_before_the_account_is_asked(tmp_path, soon):
    door = Upstream(401, credit=401)
    async with running(tmp_path, door, submit_concurrency=1) as service:
        job_ids = await waiting(service, tmp_path, number=2)
        key = service.client.headers["Authorization"]
    hours_ago(tmp_path, 2)
    before, door = await blocked(tmp_path), Upstream(200)
    async with running(tmp_path, door, sign_up=False) as service:
        service.client.headers["Authorization"] = key
        assert await blocked(tmp_path) == before
        for job_id in job_ids:
            assert (await service.ended(job_id))["status"] == "COMPLETED"
        assert (door.asked[0], door.asked.count("submit")) == ("credit", 2)


async def test_a_key_that_is_refused_still_after_the_stop_fails_them(tmp_path, soon):
    door = Upstream(401, credit=401)
    async with running(tmp_path, door) as service:
        [job_id] = await waiting(service, tmp_path, number=1)
        key = service.client.headers["Authorization"]
    hours_ago(tmp_path, 2)
    door = Upstream(401, credit=401)
    async with running(tmp_path, door, sign_up=False) as service:
        service.client.headers["Authorization"] = key
        async with asyncio.timeout(20):
            job = await service.ended(job_id)
        assert (job["status"], job["error"]["code"]) == ("FAILED", "bad_key")
        assert set(door.asked) == {"credit"}


@pytest.mark.parametrize(("code", "error"), [(402, "no_credit"), (403, "bad_key")])
async def test_after_an_hour_who_has_waited_that_long_fails_and_has_the_credits_back(tmp_path, code, error):
    door = Upstream(code, credit=code)
    async with running(tmp_path, door) as service:
        job_ids = await waiting(service, tmp_path, number=2)
        hours_ago(tmp_path, 1)
        later = (await service.generate("later"))["job_id"]
        for job_id in job_ids:
            job = await service.ended(job_id)
            assert (job["status"], job["error"]["code"]) == ("FAILED", error)
        assert (await service.job(later))["status"] == "PENDING"
        credits = (await service.client.get("/api/auth/me")).json()["credits"]
        assert credits == {"available": rig.CREDITS - 4, "reserved": 4}
        # Nothing was taken, so a retry has nothing to ask about.
        assert (await service.client.post(f"/api/images/{job_ids[0]}/retry", json={})).status_code == 202


async def test_a_pause_outlives_a_restart_and_holds_up_nothing_that_is_under_way(tmp_path):
    door = Upstream(200)
    async with running(tmp_path, door) as service:
        key = service.client.headers["Authorization"]
        admin = {"Authorization": f"Bearer {await rig.make_account(service, 'root@example.org', is_admin=True)}"}
        under_way = (await service.generate("a kite [sandbox:latency=300]"))["job_id"]
        await live.until(lambda: rows(tmp_path, "SELECT 1 FROM tasks WHERE task_id IS NOT NULL"))
        assert (await service.client.post("/api/work/pause", headers=admin)).json()["state"] == "paused"
        waits = (await service.generate())["job_id"]
    async with running(tmp_path, door, sign_up=False) as service:
        service.client.headers["Authorization"] = key
        table = door.sandbox.state.tasks
        [task] = table.by_id.values()
        task.base_url = service.parts.settings.nanobanana_url  # it is asked for too, since the restart
        table.finish(task, Picture(content=rig.picture(), media_type="image/png", suffix="png"))
        body = {"code": 200, "data": {"taskId": task.task_id, "info": {"resultImageUrl": task.result_url}}}
        assert (await service.call_back(under_way, body)).status_code == 200
        assert (await service.ended(under_way))["status"] == "COMPLETED"
        job = await service.job(waits)
        assert (job["status"], job["message"]) == ("PENDING", "Waiting: the operator has paused the work")
        assert door.asked == ["submit"]
        assert (await service.client.post("/api/work/resume", headers=admin)).json()["state"] == "running"
        assert (await service.ended(waits))["status"] == "COMPLETED"


async def test_busy_does_not_use_up_the_one_more_try_after_a_server_error(tmp_path):
    door = Upstream(429, 500, 500)
    async with running(tmp_path, door) as service:
        job_id = (await service.generate())["job_id"]
        faulty = "SELECT due_at FROM tasks WHERE server_faults = 1 AND held = 0"
        await live.until(lambda: rows(tmp_path, faulty))
        [task] = rows(tmp_path, faulty)
        assert task["due_at"] > clock.now_us() + 55_000_000
        assert (await service.job(job_id))["status"] == "INITIALIZING"
        rows(tmp_path, "UPDATE tasks SET due_at = 1")
        job = await service.ended(job_id)
        assert (job["error"]["code"], len(door.asked)) == ("upstream_failed", 3)


async def test_a_busy_answer_says_how_long_to_wait(tmp_path):
    door = Upstream(429, 200)
    door.headers = ((b"retry-after", b"120"),)
    async with running(tmp_path, door) as service:
        job_id = (await service.generate())["job_id"]
        refused = "SELECT due_at FROM tasks WHERE tries = 1 AND held = 0"
        await live.until(lambda: rows(tmp_path, refused))
        [task] = rows(tmp_path, refused)
        assert 115_000_000 < task["due_at"] - clock.now_us() <= 120_000_000
        rows(tmp_path, "UPDATE tasks SET due_at = 1")
        assert (await service.ended(job_id))["status"] == "COMPLETED"
