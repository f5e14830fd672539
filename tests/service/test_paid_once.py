"""Nothing is bought twice, nothing that was bought is lost: the moments in which that is at stake."""

import asyncio
import sqlite3

import orjson
import pytest

from nanohook import clock, errors, ids
from nanohook.flow import reconcile
from nanohook.remote.fetch import Fetcher
from nanohook.rules import callbacks
from nanohook.rules.downloads import DownloadFailed
from nanohook.sandbox.options import Options
from nanohook.stores import claims, tasks
from nanohook.stores.deliveries import Delivery, Source
from tests import live, rig

SLOW = Options(latency_s=300, callback_pause_s=0.05)


def rows(tmp_path, sql, *values):
    with sqlite3.connect(tmp_path / "nanohook.db") as connection:
        return connection.execute(sql, values).fetchall()


async def asked_for(tmp_path, job_id, attempt=1):
    """Wait until a task's submit is answered."""
    await live.until(
        lambda: rows(
            tmp_path, "SELECT 1 FROM tasks WHERE job_id = ? AND attempt = ? AND step = 'ask'", job_id, attempt
        )
    )


async def test_an_answer_about_an_older_attempt_does_not_touch_the_present_one(tmp_path):
    async with rig.running(tmp_path, sandbox=SLOW) as service:
        job_id = (await service.generate())["job_id"]
        await asked_for(tmp_path, job_id)
        base, terms = service.parts.database, service.parts.terms
        [asked] = await base.read(lambda tx: tasks.of_attempt(tx, job_id=job_id, attempt=1))
        assert (await service.client.post(f"/api/images/{job_id}/cancel")).status_code == 200
        assert (await service.client.post(f"/api/images/{job_id}/retry", json={})).status_code == 202

        body = orjson.dumps({"code": 200, "data": {"taskId": asked.task_id, "successFlag": 0}})
        late = Delivery(
            id=ids.new_id(),
            source=Source.RECORD,
            job_id=job_id,
            attempt=1,
            index=0,
            webhook_id=None,
            headers="",
            body=body,
            body_sha256=b"x" * 32,
            received_at=clock.now_us(),
        )
        record = callbacks.read_record(body, http_status=200)
        await base.write(lambda tx: reconcile.answer(tx, late, record, asked, terms=terms, now_us=clock.now_us()))
        job = await service.job(job_id)
        assert (job["attempt"], job["status"] == "CANCELED") == (2, False)
        assert rows(tmp_path, "SELECT COUNT(*) FROM events WHERE is_last = 1") == [(1,)]


async def test_a_task_that_a_callback_named_is_not_submitted_again(tmp_path):
    async with rig.running(tmp_path, sandbox=SLOW) as service:
        job_id = (await service.generate("a kite [sandbox:submit=500]"))["job_id"]
        waiting = "SELECT 1 FROM tasks WHERE step = 'submit' AND tries = 1"
        await live.until(lambda: rows(tmp_path, waiting))
        named = {"code": 200, "data": {"taskId": "the-first", "successFlag": 0}}
        assert (await service.call_back(job_id, named)).status_code == 200

        rows(tmp_path, "UPDATE tasks SET due_at = 1")
        await asked_for(tmp_path, job_id)
        assert rows(tmp_path, "SELECT task_id, tries FROM tasks") == [("the-first", 1)]
        # Its time counts from when NanoBanana spoke of it, not from the beginning of time.
        [(accepted_at,)] = rows(tmp_path, "SELECT accepted_at FROM tasks")
        assert accepted_at > clock.now_us() - 60_000_000
        assert service.upstream.submitted == 0


async def test_a_job_that_was_plainly_refused_may_be_retried_without_paying_twice(tmp_path):
    async with rig.running(tmp_path, sandbox=SLOW) as service:
        job_id = (await service.generate("a kite [sandbox:submit=422]"))["job_id"]
        ended = await service.ended(job_id)
        assert ended["error"]["code"] == "upstream_rejected"
        assert (await service.client.post(f"/api/images/{job_id}/retry", json={})).status_code == 202


async def test_a_result_is_no_input_where_nobody_can_fetch_it(tmp_path):
    async with rig.running(tmp_path, public_url=None, reconcile_every_s=0.1) as service:
        job_id = (await service.generate())["job_id"]
        assert (await service.ended(job_id))["status"] == "COMPLETED"
        wish = {"imageId": job_id, "use": "result", "prompt": "make it blue"}
        answer = await service.client.post("/api/generate-image", json=wish)
        assert (answer.status_code, answer.json()["code"]) == (409, "no_public_url")
        assert service.upstream.submitted == 1


async def test_an_accepted_task_is_stored_however_long_the_database_is_away(tmp_path):
    began, go_on = asyncio.Event(), asyncio.Event()

    async def answer(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        began.set()
        await go_on.wait()
        body = b'{"code":200,"msg":"success","data":{"taskId":"paid"}}'
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b" % (len(body), body))
        await writer.drain()
        writer.close()

    async with live.serve_raw(answer) as upstream, rig.running(tmp_path, nanobanana_url=upstream) as service:
        await service.generate()
        await began.wait()
        lock = sqlite3.connect(tmp_path / "nanohook.db", isolation_level=None)
        try:
            lock.execute("BEGIN IMMEDIATE")
            go_on.set()
            # One refused commit is seen at the door; the outcome of the submit went the same way.
            with pytest.raises(errors.Unavailable):
                await service.parts.database.write(lambda tx: claims.next_due(tx, tasks.Step.ASK))
        finally:
            lock.close()
        stored = "SELECT 1 FROM tasks WHERE task_id = 'paid' AND step = 'ask'"
        await live.until(lambda: rows(tmp_path, stored))


async def test_a_known_result_without_task_id_is_finished_by_a_retry(tmp_path):
    async def silent(reader, writer):
        await reader.read()
        writer.close()

    async with (
        live.serve_raw(silent) as host,
        rig.running(tmp_path, sandbox=SLOW, download_hosts=(host.removeprefix("http://"),)) as service,
    ):
        job_id = (await service.generate("a kite [sandbox:html]"))["job_id"]
        await asked_for(tmp_path, job_id)
        rows(tmp_path, "UPDATE tasks SET task_id = NULL")
        done = {"job_id": job_id, "status": "completed", "data": {"url": f"{host}/a.png"}}
        assert (await service.call_back(job_id, done)).json()["status"] == "accepted"
        assert (await service.client.post(f"/api/images/{job_id}/cancel")).status_code == 200
        assert (
            await service.client.post(f"/api/images/{job_id}/retry", json={"buy_again": True})
        ).status_code == 202
        found = "SELECT step, json_extract(candidates, '$[0].url') FROM tasks WHERE attempt = 2"
        assert rows(tmp_path, found) == [("finish", f"{host}/a.png")]


async def test_a_redirect_to_what_is_no_address_ends_the_download(tmp_path):
    async def redirect(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 302 Found\r\nLocation: //[\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    async with (
        live.serve_raw(redirect) as host,
        Fetcher(spool_dir=tmp_path, download_hosts=frozenset({host.removeprefix("http://")})) as fetcher,
    ):
        with pytest.raises(DownloadFailed):
            async with fetcher.get(f"{host}/a.png"):
                pass


async def test_without_a_key_a_retry_is_refused_like_a_new_job(tmp_path):
    async with rig.running(tmp_path, sandbox=SLOW) as service:
        job_id = (await service.generate("a kite [sandbox:submit=422]"))["job_id"]
        await service.ended(job_id)
        key = service.client.headers["Authorization"]
    async with rig.running(tmp_path, nanobanana_api_key=None, sign_up=False) as service:
        service.client.headers["Authorization"] = key
        answer = await service.client.post(f"/api/images/{job_id}/retry", json={})
        assert (answer.status_code, answer.json()["code"]) == (409, "no_api_key")
        assert (await service.job(job_id))["status"] == "FAILED"


async def test_an_accepted_task_of_a_deleted_job_stays_known_by_its_id(tmp_path):
    async with rig.running(tmp_path, sandbox=Options(latency_s=0.6, early=True, drop=1)) as service:
        job_id = (await service.generate())["job_id"]
        started = "SELECT 1 FROM tasks WHERE submit_started_at IS NOT NULL"
        await live.until(lambda: rows(tmp_path, started))
        assert (await service.client.delete(f"/api/images/{job_id}")).status_code == 204
        await live.until(lambda: rows(tmp_path, "SELECT 1 FROM tasks WHERE task_id IS NOT NULL"))
