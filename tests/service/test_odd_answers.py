"""What NanoBanana and its host answer oddly: how often that is borne, how it is named, and what the log tells."""

import asyncio
import contextlib
import logging
import time

import pytest

from nanohook.sandbox.options import Options
from nanohook.work import loop
from tests import books, live, rig
from tests.process.upstream import Always, Hold, Odd, said

BUSY, PAGE = said(503, b"busy"), said(200, b"<html>soon</html>")


@contextlib.asynccontextmanager
async def running(tmp_path, **met):
    """Run a service whose upstream is met as *met* has it; see ``Odd``."""
    door = Odd(Options(latency_s=0.02, callback_pause_s=0.02), **met)
    async with live.serve(door) as url:
        there = {"nanobanana_url": url, "download_hosts": (url.removeprefix("http://"),)}
        async with rig.running(tmp_path, **there) as service:
            yield service, door
            books.check(tmp_path)


async def hurried(service, tmp_path, job_id, *, seconds=0):
    """Let every pause between two downloads be over, *seconds* later; return the job when it has ended."""
    over = "SELECT 1 FROM jobs WHERE id = ? AND completed_at IS NOT NULL"

    def is_over():
        books.pass_time(tmp_path, seconds=seconds)
        service.service.state.running.loop.wake()
        return books.rows(tmp_path, over, job_id)

    await live.until(is_over, timeout_s=20)
    return await service.job(job_id)


def fetches(door):
    return sum(len(moments) for (kind, _), moments in door.asked.items() if kind == "picture")


async def test_a_host_that_needs_a_while_loses_no_picture(tmp_path):
    met = [
        BUSY,
        PAGE,
        said(404, b""),
        said(200, b""),
        PAGE,
        said(403, b""),
        BUSY,
        PAGE,
        PAGE,
        PAGE,
        said(410, b""),
    ]
    async with running(tmp_path, picture={"": list(met)}) as (service, door):
        job = await hurried(service, tmp_path, (await service.generate())["job_id"])
        assert (job["status"], fetches(door)) == ("COMPLETED", len(met) + 1)


@pytest.mark.parametrize(
    ("met", "seconds", "error"),
    [
        (PAGE, 150, "not_an_image"),
        (said(200, b""), 150, "not_an_image"),
        (said(404, b""), 150, "download_failed"),
        (said(403, b""), 1_800, "download_failed"),
        (BUSY, 43_200, "download_failed"),
    ],
    ids=["a page", "nothing", "404", "403", "503"],
)
async def test_patience_with_a_host_ends_by_the_clock(tmp_path, met, seconds, error):
    async with running(tmp_path, picture={"": [Always(met)]}) as (service, door):
        job = await hurried(service, tmp_path, (await service.generate())["job_id"], seconds=seconds)
        assert (job["status"], job["error"]["code"]) == ("FAILED", error)
        assert fetches(door) == 3  # at the beginning, in the middle, at the end of its patience


async def test_a_picture_to_start_from_that_was_deleted_meanwhile_is_no_refusal_of_nanobananas(tmp_path):
    async with running(tmp_path) as (service, door):
        first = (await service.generate("first"))["job_id"]
        await service.ended(first)
        admin = {"Authorization": f"Bearer {await rig.make_account(service, 'root@example.org', is_admin=True)}"}
        await service.client.post("/api/work/pause", headers=admin)
        second = (await service.generate("second", imageId=first, use="result"))["job_id"]
        books.rows(tmp_path, "CREATE TABLE former AS SELECT * FROM pictures")
        books.rows(tmp_path, "DELETE FROM pictures")
        await service.client.post("/api/work/resume", headers=admin)
        job = await service.ended(second)
        assert (job["status"], job["error"]["code"]) == ("FAILED", "internal")
        assert [prompt for kind, prompt in door.asked if kind == "submit"] == ["first"]
        books.rows(tmp_path, "INSERT INTO pictures SELECT * FROM former")  # it was paid


async def test_what_it_has_under_way_is_not_claimed_again_after_a_freeze(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "LEASE_US", 1_000_000)
    hold = Hold()
    async with running(tmp_path, picture={"": [hold]}) as (service, door):
        job_id = (await service.generate())["job_id"]
        await asyncio.wait_for(hold.waiting.wait(), 10)
        claims = books.rows(tmp_path, "SELECT claim FROM tasks")
        time.sleep(2)  # noqa: ASYNC251 - the service stands still with its test
        # Something else to be claimed is claimed; what is being fetched is not.
        other = (await service.generate("another"))["job_id"]
        assert (await service.ended(other))["status"] == "COMPLETED"
        assert books.rows(tmp_path, "SELECT claim FROM tasks WHERE job_id = ?", job_id) == claims
        hold.gate.set()
        assert (await service.ended(job_id))["status"] == "COMPLETED"
        assert fetches(door) == 2


async def test_the_log_tells_what_was_said_of_a_task_at_each_step(tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="nanohook")
    refused = said(200, {"code": 422, "msg": "type can not be blank", "data": None})
    failed = "[sandbox:fail=400] second"
    async with running(tmp_path, submit={"first": [refused]}) as (service, _):
        for prompt in ("first", failed):
            await service.ended((await service.generate(prompt))["job_id"])
        await live.until(lambda: [line for line in caplog.records if hasattr(line, "verdict")])
    submitted = {line.outcome: line for line in caplog.records if line.message == "upstream.submitted"}
    assert (submitted["Refused"].code, submitted["Refused"].said) == (422, "type can not be blank")
    assert submitted["Accepted"].task_id
    ends = [line for line in caplog.records if line.message == "job.event" and hasattr(line, "error")]
    assert [line.error for line in ends] == ["upstream_rejected", "content_policy"]
    assert ends[0].detail == "code 422: type can not be blank"
    assert ends[1].detail
    [callback] = [line for line in caplog.records if hasattr(line, "verdict")]
    assert (callback.message, callback.word, callback.effect) == ("http.request", "400", "applied")
