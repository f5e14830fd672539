"""Results that come when their task has ended: kept for their owner, who may take them; nothing is paid twice."""

import asyncio
import contextlib

from nanohook.sandbox.options import Options
from nanohook.sandbox.tasks import Picture
from tests import books, live, rig

SLOW = Options(latency_s=300, callback_pause_s=0.05)
HOUR_US = 3_600_000_000


def rows(tmp_path, sql, *values):
    return books.rows(tmp_path, sql, *values)


@contextlib.asynccontextmanager
async def running(tmp_path, **chosen):
    async with rig.running(tmp_path, **{"sandbox": SLOW, **chosen}) as service:
        yield service
        books.check(tmp_path)


async def submitted(service, tmp_path, prompt="a kite", **wish):
    """A job whose task NanoBanana has; return its id and the task's."""
    job_id = (await service.generate(prompt, **wish))["job_id"]
    has = "SELECT task_id FROM tasks WHERE job_id = ? AND attempt = 1 AND step = 'ask' AND held = 0"
    await live.until(lambda: rows(tmp_path, has, job_id))
    return job_id, rows(tmp_path, has, job_id)[0]["task_id"]


async def overdue(service, tmp_path, job_id):
    """Let the deadline of a job's task pass, and wait until it has failed by that."""
    past = "UPDATE tasks SET accepted_at = accepted_at - ?, submit_started_at = submit_started_at - ?, due_at = 1"
    rows(tmp_path, past, HOUR_US, HOUR_US)
    return await service.ended(job_id)


async def past_its_deadline(service, tmp_path, **wish):
    job_id, task_id = await submitted(service, tmp_path, **wish)
    job = await overdue(service, tmp_path, job_id)
    assert job["error"]["code"] == "deadline"
    return job, task_id


def made(service, task_id, *, width=640, height=400):
    """NanoBanana comes to an end with a task after all; return the callback's body."""
    task = service.upstream.by_id[task_id]
    content = rig.picture(width, height)
    service.upstream.finish(task, Picture(content=content, media_type="image/png", suffix="png"))
    info = {"resultImageUrl": task.result_url}
    return {"code": 200, "msg": "success", "data": {"taskId": task_id, "info": info}}


async def kept(tmp_path, number=1):
    await live.until(lambda: len(rows(tmp_path, "SELECT 1 FROM unclaimed")) == number)


async def late(service, tmp_path, **wish):
    """A job as it was when it had failed by its deadline, and its task's id; the result has come since."""
    job, task_id = await past_its_deadline(service, tmp_path, **wish)
    answer = await service.call_back(job["job_id"], made(service, task_id))
    assert answer.json()["status"] == "accepted"
    await kept(tmp_path)
    return job, task_id


async def available(service):
    return (await service.client.get("/api/auth/me")).json()["credits"]["available"]


async def post(service, job_id, verb, **body):
    return await service.client.post(f"/api/images/{job_id}/{verb}", json=body)


def files(tmp_path):
    return sorted(path.name for path in (tmp_path / "media" / "results").rglob("*") if path.is_file())


async def test_a_result_past_the_deadline_is_kept_and_changes_nothing(tmp_path):
    async with running(tmp_path) as service:
        events = "SELECT id, payload FROM events ORDER BY id"
        before, task_id = await past_its_deadline(service, tmp_path)
        told = rows(tmp_path, events)
        await service.call_back(before["job_id"], made(service, task_id))
        await kept(tmp_path)
        job = await service.job(before["job_id"])
        [picture] = job.pop("unclaimed")
        assert before.pop("unclaimed") == []
        assert job == before
        assert rows(tmp_path, events) == told
        assert await available(service) == rig.CREDITS
        assert (picture["index"], picture["attempt"], picture["width"], picture["height"]) == (0, 1, 640, 400)
        assert picture["kept_until"] > job["completed_at"]


async def test_the_whole_of_it_is_shown_only_to_who_takes_it(tmp_path):
    async with running(tmp_path) as service:
        before, _ = await late(service, tmp_path)
        [picture] = (await service.job(before["job_id"]))["unclaimed"]
        told = "attempt bytes content_type height index kept_until thumbnail_url width"
        assert " ".join(sorted(picture)) == told
        small = await service.client.get(picture["thumbnail_url"])
        assert (small.status_code, small.headers["content-type"]) == (200, "image/jpeg")
        key = rows(tmp_path, "SELECT key FROM unclaimed")[0]["key"]
        assert key not in str(await service.job(before["job_id"]))
        [image] = (await post(service, before["job_id"], "accept-late")).json()["images"]
        whole = await service.client.get(image["url"])
        assert (whole.status_code, len(whole.content)) == (200, picture["bytes"])


async def test_its_owner_accepts_it_and_the_job_is_completed_in_its_exact_size_and_paid(tmp_path):
    async with running(tmp_path) as service:
        original = await service.upload(rig.picture(321, 123))
        before, _ = await late(service, tmp_path, imageId=original["job_id"])
        eve = {"Authorization": f"Bearer {await rig.make_account(service, 'eve@example.org')}"}
        path = f"/api/images/{before['job_id']}/accept-late"
        assert (await service.client.post(path, headers=eve)).status_code == 404
        answer = await post(service, before["job_id"], "accept-late")
        job = answer.json()
        assert (answer.status_code, job["status"], job["attempt"], job["error"]) == (200, "COMPLETED", 1, None)
        assert [(image["width"], image["height"]) for image in job["images"]] == [(321, 123)]
        assert (job["unclaimed"], job["failed_tasks"], job["credits"]) == ([], [], 4)
        assert await available(service) == rig.CREDITS - 4
        assert job["event_id"] > before["event_id"]
        assert (await service.ended(before["job_id"]))["event_id"] == job["event_id"]
        assert (await service.client.get(job["images"][0]["url"])).status_code == 200

        again = await post(service, before["job_id"], "accept-late")
        assert (again.status_code, again.json()["code"]) == (409, "nothing_late")
        assert await available(service) == rig.CREDITS - 4


async def test_a_retry_takes_it_without_a_submit_a_question_or_a_download(tmp_path):
    async with running(tmp_path) as service:
        before, task_id = await late(service, tmp_path)
        picture = (await service.job(before["job_id"]))["unclaimed"][0]
        fetches = service.upstream.by_id.pop(task_id).fetches
        assert fetches == 1
        assert (await post(service, before["job_id"], "retry")).status_code == 202
        job = await service.ended(before["job_id"])
        assert (job["status"], job["attempt"], job["unclaimed"]) == ("COMPLETED", 2, [])
        assert [image["bytes"] for image in job["images"]] == [picture["bytes"]]
        assert await available(service) == rig.CREDITS - 4
        assert service.upstream.submitted == 1


async def test_what_was_canceled_too_late_is_paid_and_kept_when_nanobanana_has_made_it(tmp_path):
    async with running(tmp_path, sandbox=Options(latency_s=0.3, callback_pause_s=0.05)) as service:
        job_id, _ = await submitted(service, tmp_path)
        assert (await post(service, job_id, "cancel")).json()["status"] == "CANCELED"
        assert await available(service) == rig.CREDITS - 4
        await kept(tmp_path)
        job = await service.job(job_id)
        assert (job["status"], len(job["unclaimed"])) == ("CANCELED", 1)
        assert (await post(service, job_id, "accept-late")).json()["status"] == "COMPLETED"
        assert await available(service) == rig.CREDITS - 4


async def test_after_an_unknown_outcome_a_callback_brings_the_result(tmp_path):
    async with running(tmp_path) as service:
        job_id, _ = await submitted(service, tmp_path, "a kite [sandbox:html]")
        job = await overdue(service, tmp_path, job_id)
        assert job["error"]["code"] == "unknown_outcome"
        assert (await post(service, job_id, "retry")).json()["code"] == "may_be_paid"
        [task_id] = service.upstream.by_id
        await service.call_back(job_id, made(service, task_id))
        await kept(tmp_path)
        assert (await post(service, job_id, "retry")).status_code == 202
        assert (await service.ended(job_id))["status"] == "COMPLETED"
        assert service.upstream.submitted == 1
        assert await available(service) == rig.CREDITS - 4


async def test_a_result_of_an_older_attempt_is_kept_while_the_present_one_goes_on(tmp_path):
    async with running(tmp_path) as service:
        job_id, _ = await submitted(service, tmp_path, "a kite [sandbox:html]")
        await overdue(service, tmp_path, job_id)
        [first] = service.upstream.by_id
        assert (await post(service, job_id, "retry", buy_again=True)).status_code == 202
        waits = "SELECT 1 FROM tasks WHERE attempt = 2 AND step = 'ask' AND held = 0"
        await live.until(lambda: rows(tmp_path, waits))
        before = await service.job(job_id)
        await service.call_back(job_id, made(service, first), attempt=1)
        await kept(tmp_path)
        job = await service.job(job_id)
        assert [picture["attempt"] for picture in job.pop("unclaimed")] == [1]
        assert job == {name: value for name, value in before.items() if name != "unclaimed"}
        refused = await post(service, job_id, "accept-late")
        assert (refused.status_code, refused.json()["code"]) == (409, "job_running")


async def test_a_late_result_of_another_host_is_confirmed_first(tmp_path):
    async with running(tmp_path) as service:
        before, task_id = await past_its_deadline(service, tmp_path)
        body = made(service, task_id)
        body["data"]["info"]["resultImageUrl"] = "https://elsewhere.example/a.png"
        answer = await service.call_back(before["job_id"], body)
        assert answer.json()["status"] == "accepted"
        await kept(tmp_path)
        reasons = [row["reason"] for row in rows(tmp_path, "SELECT reason FROM deliveries ORDER BY id")]
        assert "asked record-info first" in reasons[-2]
        assert "its late result is kept" in reasons[-1]
        assert service.upstream.by_id[task_id].fetches == 1


async def test_of_two_late_results_one_file_is_kept(tmp_path):
    async with running(tmp_path) as service:
        before, task_id = await late(service, tmp_path)
        there = files(tmp_path)
        assert len(there) == 2  # it and its thumbnail
        body = {**made(service, task_id, width=200, height=100), "msg": "once more"}
        assert (await service.call_back(before["job_id"], body)).json()["status"] == "accepted"
        # What is kept is not fetched again.
        assert rows(tmp_path, "SELECT 1 FROM tasks WHERE step IS NOT NULL") == []
        assert (service.upstream.by_id[task_id].fetches, files(tmp_path)) == (1, there)
        assert [late["width"] for late in (await service.job(before["job_id"]))["unclaimed"]] == [640]


async def test_a_deletion_while_it_is_fetched_leaves_no_file(tmp_path):
    began, go_on = asyncio.Event(), asyncio.Event()

    async def slowly(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        began.set()
        await go_on.wait()
        content = rig.picture()
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b" % (len(content), content)
        )
        await writer.drain()
        writer.close()

    async with live.serve_raw(slowly) as host, running(tmp_path, download_hosts=(host[7:],)) as service:
        before, task_id = await past_its_deadline(service, tmp_path)
        body = made(service, task_id)
        body["data"]["info"]["resultImageUrl"] = f"{host}/a.png"
        await service.call_back(before["job_id"], body)
        await began.wait()
        assert (await service.client.delete(f"/api/images/{before['job_id']}")).status_code == 204
        go_on.set()
        loop = service.service.state.running.loop
        await live.until(lambda: not loop._running)
        assert (files(tmp_path), rows(tmp_path, "SELECT 1 FROM unclaimed")) == ([], [])


async def test_who_has_spent_the_credits_meanwhile_cannot_take_it(tmp_path):
    async with running(tmp_path) as service:
        before, _ = await late(service, tmp_path)
        spent = "SELECT owner_id, 'grant', 3 - available, 0, 1 FROM balances"
        rows(tmp_path, f"INSERT INTO ledger (owner_id, kind, available, reserved, created_at) {spent}")
        rows(tmp_path, "UPDATE balances SET available = 3")
        for verb in ("accept-late", "retry"):
            refused = await post(service, before["job_id"], verb)
            assert (refused.status_code, refused.json()["code"]) == (402, "insufficient_credits")
        job = await service.job(before["job_id"])
        assert (job["status"], len(job["unclaimed"])) == ("FAILED", 1)
