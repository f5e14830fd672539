"""Every background task crashes, one after the other, beside a service that goes on."""

import asyncio
import sqlite3

import pytest

from nanohook import faults, supervision
from nanohook.sandbox.options import Options
from nanohook.work import loop, sweep, tunnel
from tests import live, rig
from tests.tunnels import Ngrok

POINTS = {
    "database-writer": "database.batch",
    "database-watch": "database.watch",
    "page-check": "page_check.started",
    "hub-tail": "hub.tail",
    "hub-heartbeat": "hub.heartbeat",
    "hub-credentials": "hub.credentials",
    "work": "work.look",
    "work-heartbeat": "work.heartbeat",
    "rejections": "rejections.flush",
    "apply": "apply.look",
    "mail": "mail.look",
    "sweep": "sweep.round",
    "sweep-room": "sweep.room",
    "tunnel": "tunnel.look",
    "account": "account.look",
}
"""By task: the point that it passes in each of its rounds."""
WHEN_NEEDED = {"page-check", "mail", "sweep-room"}
"""They work once at the start, or when there is something to do."""
CRASHES = (
    RuntimeError("nobody thought of it"),
    MemoryError(),
    RecursionError("too deep"),
    sqlite3.OperationalError("disk I/O error"),
    SystemExit(3),
    asyncio.CancelledError("of something else"),
)


class Crasher:
    """Raises at the next passings of a point."""

    def __init__(self):
        self.left = {}
        self.passed = {}

    def __call__(self, point):
        if self.left.get(point):
            raise self.left[point].pop()
        self.passed[point] = self.passed.get(point, 0) + 1


@pytest.fixture
def crasher(monkeypatch):
    monkeypatch.setattr(supervision, "FIRST_PAUSE_S", 0.05)
    monkeypatch.setattr(loop, "HEARTBEAT_S", 0.1)
    monkeypatch.setattr(sweep, "EVERY_S", 0.1)
    monkeypatch.setattr(tunnel, "LOOK_EVERY_S", 0.1)
    made = Crasher()
    monkeypatch.setattr(faults, "at", made)
    return made


@pytest.fixture
async def service(tmp_path, crasher):
    async with (
        live.serve(Ngrok().app) as api,
        rig.running(
            tmp_path,
            sandbox=Options(latency_s=0.05, callback_pause_s=0.05),
            public_url="auto",
            ngrok_api=api,
            smtp_url="smtp://127.0.0.1:9",
            mail_from="robot@nanohook.example",
            reconcile_after_s=0.2,
            reconcile_every_s=0.1,
            metrics_token="metrics-token",
        ) as running,
    ):
        yield running


async def restarts(service):
    answer = await service.client.get("/metrics", headers={"Authorization": "Bearer metrics-token"})
    lines = [line for line in answer.text.splitlines() if line.startswith("nanohook_background_restarts_total{")]
    return {line.partition('"')[2].partition('"')[0]: float(line.rpartition(" ")[2]) for line in lines}


def test_every_task_has_a_fate_and_is_crashed_here():
    assert set(POINTS) == set(supervision.FATES)


async def test_each_of_them_crashes_in_every_way_and_works_again(service, crasher, caplog):
    """Those that work once at the start, or when there is something to do, are begun anew for it."""
    for number, (task, point) in enumerate(POINTS.items()):
        if task in WHEN_NEEDED:
            continue
        crasher.left[point] = [CRASHES[number % len(CRASHES)]]
        await live.until(lambda: not crasher.left[point])  # noqa: B023 - it is awaited here
        seen = crasher.passed.get(point, 0)
        await live.until(lambda: crasher.passed.get(point, 0) > seen, timeout_s=30)  # noqa: B023 - as above
    crashed = {record.task for record in caplog.records if record.message == "background_task.crashed"}
    assert crashed == set(POINTS) - WHEN_NEEDED
    assert {task: count for task, count in (await restarts(service)).items() if count >= 1}.keys() == crashed
    assert (await service.client.get("/readyz")).status_code == 200
    # The whole of it: claimed, submitted, asked after, finished, and told on a stream.
    job = await service.generate()
    assert (await service.ended(job["job_id"]))["status"] == "COMPLETED"


@pytest.mark.parametrize("task", ["page-check", "mail"])
async def test_what_is_done_at_the_start_is_done_again_after_a_crash(tmp_path, crasher, task, caplog):
    caplog.set_level("INFO")
    crasher.left[POINTS[task]] = [RuntimeError("nobody thought of it")]
    relay = {"smtp_url": "smtp://127.0.0.1:9", "mail_from": "robot@nanohook.example"}
    async with rig.running(tmp_path, **relay) as service:
        await live.until(lambda: crasher.passed.get(POINTS[task]), timeout_s=30)
        if task == "page-check":
            await live.until(lambda: "database.checked" in caplog.messages, timeout_s=30)
        else:
            # Nobody listens there: that it was tried is what counts.
            service.parts.mailer.send(to="ada@example.org", subject="Hello", text="Hello")
            await live.until(lambda: "mail.retried" in caplog.messages, timeout_s=30)


async def test_who_makes_room_when_it_is_wanted_does_so_again_after_a_crash(service, crasher):
    crasher.left["sweep.room"] = [RuntimeError("nobody thought of it")]
    service.parts.want_room()
    await live.until(lambda: not crasher.left["sweep.room"])
    service.parts.want_room()
    await live.until(lambda: crasher.passed.get("sweep.room"), timeout_s=30)
    assert (await restarts(service))["sweep-room"] == 1


async def test_the_hubs_heartbeat_takes_nothing_else_with_it(service, crasher):
    crasher.left["hub.heartbeat"] = [RuntimeError("nobody thought of it")] * 1_000
    job = await service.generate()
    assert (await service.ended(job["job_id"]))["status"] == "COMPLETED"
    assert len(crasher.left["hub.heartbeat"]) > 0


async def test_the_leases_heartbeat_takes_nothing_else_with_it(service, crasher):
    crasher.left["work.heartbeat"] = [MemoryError()] * 1_000
    await live.until(lambda: len(crasher.left["work.heartbeat"]) < 998)
    job = await service.generate()
    assert (await service.ended(job["job_id"]))["status"] == "COMPLETED"


async def test_streams_miss_nothing_that_happened_while_the_tail_was_down(service, crasher):
    crasher.left["hub.tail"] = [RuntimeError("nobody thought of it")] * 3
    job = await service.generate()
    assert (await service.ended(job["job_id"]))["status"] == "COMPLETED"
    assert crasher.left["hub.tail"] == []


async def test_a_step_that_ends_by_somebody_elses_cancellation_is_tried_again_later(service, crasher):
    """One that came out of something it waited for: neither lost, nor done again without a pause."""
    crasher.left["finish.claimed"] = [asyncio.CancelledError("of something else"), SystemExit(1)]
    job = await service.generate()
    assert (await service.ended(job["job_id"], timeout_s=30))["status"] == "COMPLETED"
    assert crasher.left["finish.claimed"] == []


async def test_a_callback_that_meets_a_crashed_writer_is_refused_and_taken_when_it_comes_again(service, crasher):
    job = await service.generate("[sandbox:latency=60]")
    body = {"status": "generating", "data": {"progress": 66}}
    crasher.left["database.batch"] = [RuntimeError("nobody thought of it")]
    answers = []

    async def call_back():
        answers.append(await service.call_back(job["job_id"], body))
        return answers[-1].status_code == 200

    async with asyncio.timeout(30):
        while not await call_back():  # noqa: ASYNC110 - it comes again until it is taken
            await asyncio.sleep(0.01)
    *refused, taken = answers
    assert {answer.status_code for answer in refused} <= {503}
    assert all("retry-after" in answer.headers for answer in refused)
    assert taken.json()["status"] in {"accepted", "duplicate"}
    assert (await restarts(service))["database-writer"] >= 1
