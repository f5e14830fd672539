"""What NanoBanana and its host answer oddly: how often that is borne, how it is named, and what the log tells."""

import contextlib
import logging

import pytest

from nanohook.sandbox.options import Options
from nanohook.work.finish import MOST_BROKEN
from tests import books, live, rig
from tests.process.upstream import Odd, said

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


async def hurried(service, tmp_path, job_id):
    """Let every pause between two downloads of a job be over at once; return the job when it has ended."""
    waits = "UPDATE tasks SET due_at = 1 WHERE job_id = ? AND step = 'finish' AND held = 0 AND due_at > 1"
    over = "SELECT 1 FROM jobs WHERE id = ? AND completed_at IS NOT NULL"

    def is_over():
        books.rows(tmp_path, waits, job_id)
        service.service.state.running.loop.wake()
        return books.rows(tmp_path, over, job_id)

    await live.until(is_over, timeout_s=20)
    return await service.job(job_id)


def fetches(door):
    return sum(len(moments) for (kind, _), moments in door.asked.items() if kind == "picture")


@pytest.mark.parametrize(
    ("met", "error"),
    [
        ([BUSY, BUSY, PAGE, PAGE, BUSY, PAGE, PAGE], None),
        ([BUSY, BUSY, PAGE, PAGE, PAGE], "not_an_image"),
    ],
    ids=["two and two", "three in a row"],
)
async def test_only_what_is_no_picture_three_times_in_a_row_is_given_up(tmp_path, met, error):
    assert MOST_BROKEN == 3
    async with running(tmp_path, picture={"": met}) as (service, door):
        job = await hurried(service, tmp_path, (await service.generate())["job_id"])
        assert (job["error"] or {}).get("code") == error
        assert job["status"] == ("FAILED" if error else "COMPLETED")
        assert fetches(door) == len(met) + (0 if error else 1)


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
