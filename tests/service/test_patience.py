"""What comes from outside is read with patience: one odd byte, or a host's bad minute, loses no paid picture."""

import asyncio
import base64
import contextlib
import datetime as dt
import gzip
import time
import zlib

import orjson
import pytest
import standardwebhooks

from nanohook.rules import signing
from nanohook.sandbox.options import Options
from tests import books, live, rig
from tests.process.upstream import Always, Odd, changed, said

MARK = b"\xef\xbb\xbf"
SECRET = "whsec_" + base64.b64encode(b"a secret of thirty-two bytes !!!").decode()
DOOR = "/api/webhooks/image-completion"
LATE = {"reconcile_after_s": 3600}


@contextlib.asynccontextmanager
async def running(tmp_path, *, given=None, hosts=(), **met):
    """Run a service that asks nothing by itself, with an upstream that is met as *met* has it; see ``Odd``."""
    door = Odd(Options(latency_s=0.02, callback_pause_s=0.02), **met)
    async with live.serve(door) as url:
        settings = {
            "nanobanana_url": url,
            "download_hosts": (url.removeprefix("http://"), *hosts),
            "webhook_secrets": (SECRET,),
            **LATE,
            **(given or {}),
        }
        async with rig.running(tmp_path, **settings) as service:
            yield service, door
            books.check(tmp_path)


async def silent(service, door, prompt="a kite"):
    """A job whose task NanoBanana has, made and tells nobody of; with its task."""
    job_id = (await service.generate(f"{prompt} [sandbox:drop]"))["job_id"]
    await live.until(lambda: [task for task in door.tasks.by_id.values() if prompt in task.order.prompt])
    [task] = [task for task in door.tasks.by_id.values() if prompt in task.order.prompt]
    await live.until(lambda: task.outcome and books.rows(service.parts.settings.data_dir, KNOWN, job_id))
    return job_id, task


KNOWN = "SELECT 1 FROM tasks WHERE job_id = ? AND task_id IS NOT NULL"


def success(task, url=None):
    body = {"code": 200, "msg": "success", "data": {"taskId": task.task_id}}
    body["data"]["info"] = {"resultImageUrl": url or task.result_url}
    return orjson.dumps(body)


def by_headers(content):
    """Headers that sign *content*, as another implementation than ours makes them."""
    moment = dt.datetime.now(dt.UTC)
    return {
        "webhook-id": "msg_1",
        "webhook-timestamp": str(int(moment.timestamp())),
        "webhook-signature": standardwebhooks.Webhook(SECRET).sign("msg_1", moment, content.decode()),
        "content-type": "application/json",
    }


async def completed(service, job_id):
    job = await service.ended(job_id)
    assert job["status"] == "COMPLETED", job["error"]
    return job


# JSON with a byte order mark.


@pytest.mark.parametrize("marks", [1, 2])
@pytest.mark.parametrize("way", ["token", "headers"])
async def test_a_callback_with_a_byte_order_mark_is_read(tmp_path, way, marks):
    async with running(tmp_path) as (service, door):
        job_id, task = await silent(service, door)
        content = MARK * marks + success(task)
        if way == "token":
            answer = await service.call_back(job_id, content)
        else:
            answer = await service.client.post(DOOR, content=content, headers=by_headers(content))
        assert answer.json()["status"] == "accepted", answer.text
        await completed(service, job_id)
        [kept] = books.rows(tmp_path, "SELECT body, reason, effect FROM deliveries WHERE job_id = ?", job_id)
        assert (kept["body"], kept["reason"], kept["effect"]) == (content, "mended: byte order mark", "applied")


@pytest.mark.parametrize("marks", [1, 2])
async def test_answers_with_a_byte_order_mark_are_read(tmp_path, marks):
    mark = changed(lambda body: MARK * marks + body)
    met = {"submit": {"": [Always(mark)]}, "ask": {"": [Always(mark)]}}
    async with running(tmp_path, given={"reconcile_after_s": 0.1}, **met) as (service, door):
        await completed(service, (await service.generate("a kite [sandbox:drop]"))["job_id"])
        assert len(door.tasks.by_id) == 1


@pytest.mark.parametrize(
    "change",
    [gzip.compress, zlib.compress, lambda body: body.decode().encode("utf-16"), lambda body: body + b"\0"],
    ids=["gzip", "zlib", "UTF-16", "NUL"],
)
async def test_answers_in_another_dress_are_read(tmp_path, change):
    met = {"submit": {"": [Always(changed(change))]}, "ask": {"": [Always(changed(change))]}}
    async with running(tmp_path, given={"reconcile_after_s": 0.1}, **met) as (service, door):
        await completed(service, (await service.generate("a kite [sandbox:drop]"))["job_id"])
        assert len(door.tasks.by_id) == 1


# Compressed callbacks.


def bare(body):
    """Compress without the header that would show it."""
    stream = zlib.compressobj(wbits=-15)
    return stream.compress(body) + stream.flush()


@pytest.mark.parametrize(
    ("compress", "label"),
    [
        (gzip.compress, "gzip"),
        (gzip.compress, None),
        (zlib.compress, "deflate"),
        (bare, "deflate"),
        (bytes, "gzip"),
        (lambda body: gzip.compress(gzip.compress(body)), "gzip, gzip"),
    ],
    ids=["gzip", "unlabelled", "deflate", "bare deflate", "only claims it", "twice"],
)
async def test_a_compressed_callback_is_read_by_what_its_bytes_are(tmp_path, compress, label):
    async with running(tmp_path) as (service, door):
        job_id, task = await silent(service, door)
        headers = {"Content-Type": "application/json"} | ({"Content-Encoding": label} if label else {})
        path = f"{DOOR}/{service.token(job_id)}"
        answer = await service.client.post(path, content=compress(success(task)), headers=headers)
        assert answer.json()["status"] == "accepted", answer.text
        await completed(service, job_id)
        admin = {"Authorization": f"Bearer {await rig.make_account(service, 'root@example.org', is_admin=True)}"}
        shown = (await service.client.get(f"/api/deliveries/{answer.json()['delivery_id']}", headers=admin)).json()
        assert task.task_id in shown["body"]


@pytest.mark.parametrize("signed", ["as it came", "as it was"])
async def test_a_header_signature_may_fit_either_form_of_a_compressed_body(tmp_path, signed):
    async with running(tmp_path) as (service, door):
        job_id, task = await silent(service, door)
        plain = success(task)
        content = gzip.compress(plain)
        if signed == "as it was":
            headers = by_headers(plain)
        else:
            secret = signing.parse_secret(SECRET)
            moment = int(time.time())
            headers = signing.sign_headers(webhook_id="msg_1", body=content, secret=secret, timestamp_s=moment)
        answer = await service.client.post(DOOR, content=content, headers=headers)
        assert answer.json()["status"] == "accepted", answer.text
        await completed(service, job_id)


async def test_a_bomb_is_refused_and_kept_as_rejected(tmp_path):
    async with running(tmp_path) as (service, door):
        job_id, _ = await silent(service, door)
        bomb = gzip.compress(b" " * 200_000_000)
        answer = await service.call_back(job_id, bomb)
        assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
        signed = await service.client.post(DOOR, content=bomb, headers={**by_headers(b"{}")})
        assert signed.status_code in {401, 413}


# What the result comes in, and a host that needs a moment.


@pytest.mark.parametrize("word", ["labelled", "packed", "missing", "forbidden", "empty", "half", "broken"])
@pytest.mark.parametrize("dress", ["marked", "zipped"])
async def test_a_picture_comes_through_whatever_is_wrong_around_it(tmp_path, word, dress):
    prompt = f"a kite [sandbox:{word}][sandbox:{dress}]"
    async with running(tmp_path) as (service, door):
        await completed(service, (await service.generate(prompt))["job_id"])
        assert len(door.tasks.by_id) == 1
        assert [kind for kind, _ in door.asked if kind == "ask"] == []


@pytest.mark.parametrize("kind", ["AVIF", "TIFF"])
@pytest.mark.parametrize(("given", "stored"), [({}, "image/jpeg"), ({"outputFormat": "webp"}, "image/webp")])
async def test_a_result_of_a_format_that_browsers_do_not_send_is_decoded(tmp_path, kind, given, stored):
    picture = rig.picture(320, 180, kind=kind)
    async with running(tmp_path, picture={"": [Always(said(200, picture))]}) as (service, _):
        job = await completed(service, (await service.generate("a kite", **given))["job_id"])
        assert (job["images"][0]["content_type"], job["images"][0]["width"]) == (stored, 320)


@pytest.mark.parametrize(
    ("body", "name"),
    [(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 50, "HEIC"), (b"\xff\x0a" + b"\0" * 60, "JPEG XL")],
)
async def test_a_format_that_nobody_here_reads_is_named(tmp_path, body, name):
    async with running(tmp_path, picture={"": [Always(said(200, body))]}) as (service, door):
        job_id = (await service.generate())["job_id"]
        await live.until(lambda: sum(map(len, door.asked.values())) > 2)

        def is_over():
            books.pass_time(tmp_path, seconds=200)
            return books.rows(tmp_path, "SELECT 1 FROM jobs WHERE completed_at IS NOT NULL")

        await live.until(is_over, timeout_s=20)
        job = await service.job(job_id)
        assert (job["status"], job["error"]["code"]) == ("FAILED", "not_an_image")
        [kept] = books.rows(tmp_path, "SELECT error_detail FROM jobs WHERE id = ?", job_id)
        assert name in kept["error_detail"]


# An address is a candidate.


@contextlib.asynccontextmanager
async def hopeless(status):
    """A host that answers everything with *status*, and counts how often it was asked."""
    asked = []

    async def host(scope, receive, send):
        if scope["type"] == "http":
            asked.append(scope["path"])
            await said(status, b"no")(None, scope, receive, send)

    async with live.serve(host) as url:
        yield url, asked


@pytest.mark.parametrize("status", [403, 404, 503])
async def test_an_address_that_fails_twice_has_record_info_asked_for_another(tmp_path, status):
    async with hopeless(status) as (url, asked), running(tmp_path, hosts=[url[7:]]) as (service, door):
        job_id, task = await silent(service, door)
        assert (await service.call_back(job_id, success(task, f"{url}/x.png"))).status_code == 200
        await completed(service, job_id)
        assert len(asked) == 2


async def test_the_other_address_of_a_callback_is_tried(tmp_path):
    async with running(tmp_path, ask={"": [Always(said(503, b""))]}) as (service, door):
        job_id, task = await silent(service, door)
        dead = task.result_url.replace("/r/", "/gone/")
        response = {"resultImageUrl": dead, "originImageUrl": task.result_url}
        body = {"code": 200, "data": {"taskId": task.task_id, "successFlag": 1, "response": response}}
        await service.call_back(job_id, body)
        await completed(service, job_id)


async def test_a_second_callback_names_the_address_that_is_used(tmp_path):
    async with running(tmp_path, ask={"": [Always(said(503, b""))]}) as (service, door):
        job_id, task = await silent(service, door)
        dead = task.result_url.replace("/r/", "/gone/")
        await service.call_back(job_id, success(task, dead))
        failed = "SELECT 1 FROM tasks WHERE job_id = ? AND candidates LIKE '%missing%'"
        await live.until(lambda: books.rows(tmp_path, failed, job_id))
        answer = await service.call_back(job_id, success(task))
        assert answer.json()["status"] == "accepted"
        await completed(service, job_id)
        effects = [row["effect"] for row in books.rows(tmp_path, "SELECT effect FROM deliveries ORDER BY id")]
        assert effects.count("applied") >= 2


# One bound for an id, and no open task without an end.


@pytest.mark.parametrize("length", [200, 300, 512])
async def test_a_long_task_id_is_taken_everywhere(tmp_path, length):
    long_id = "t" * length
    door = Odd(Options(latency_s=60))
    async with live.serve(door) as url:
        longer = {"code": 200, "msg": "success", "data": {"taskId": long_id}}
        door._written["submit"] = {"": [said(200, longer)]}
        hosts = (url.removeprefix("http://"),)
        async with rig.running(tmp_path, nanobanana_url=url, download_hosts=hosts, **LATE) as service:
            job_id = (await service.generate())["job_id"]
            await live.until(lambda: books.rows(tmp_path, KNOWN, job_id))
            body = {"code": 501, "msg": "no", "data": {"taskId": long_id, "info": None}}
            door._written["ask"] = {"": [Always(said(200, {"code": 404, "data": None}))]}
            assert (await service.call_back(job_id, body)).status_code == 200
            [kept] = books.rows(tmp_path, "SELECT task_id FROM tasks WHERE job_id = ?", job_id)
            assert kept["task_id"] == long_id


async def test_an_id_that_nobody_could_keep_is_no_id(tmp_path):
    endless = {"code": 200, "msg": "success", "data": {"taskId": "t" * 600}}
    async with running(tmp_path, submit={"": [said(200, endless)]}) as (service, door):
        job_id = (await service.generate())["job_id"]
        waits = "SELECT 1 FROM tasks WHERE job_id = ? AND step = 'ask' AND task_id IS NULL"
        await live.until(lambda: books.rows(tmp_path, waits, job_id))
        made = await service.generate("another")
        picture = (await service.ended(made["job_id"]))["images"][0]
        [task] = [task for task in door.tasks.by_id.values() if "another" in task.order.prompt]
        body = {"code": 200, "data": {"taskId": "t" * 600, "info": {"resultImageUrl": task.result_url}}}
        assert (await service.call_back(job_id, body)).status_code == 200
        assert (await completed(service, job_id))["images"][0]["width"] == picture["width"]


# The deadline.


async def test_the_next_question_is_never_later_than_the_deadline(tmp_path):
    async with running(tmp_path, given={"job_deadline_s": 2}) as (service, door):
        began = time.monotonic()
        job_id = (await service.generate("a kite [sandbox:drop]"))["job_id"]
        await completed(service, job_id)
        assert time.monotonic() - began >= 1.5
        assert len(door.asked["ask", "a kite [sandbox:drop]"]) == 1


async def test_an_outage_of_record_info_that_outlives_the_deadline_loses_no_picture(tmp_path):
    away = Always(said(503, b"<html>away</html>"))
    given = {"job_deadline_s": 1, "reconcile_after_s": 0.2, "reconcile_every_s": 0.2}
    async with running(tmp_path, given=given, ask={"": [away]}) as (service, door):
        job_id = (await service.generate("a kite [sandbox:drop]"))["job_id"]
        asked = door.asked["ask", "a kite [sandbox:drop]"]
        await live.until(lambda: asked and time.monotonic() - asked[0] > 2 and len(asked) > 2)
        assert (await service.job(job_id))["status"] == "GENERATING"
        door.let_through("ask")
        await completed(service, job_id)


async def test_answers_without_sense_end_a_task_after_its_deadline(tmp_path):
    given = {"job_deadline_s": 1, "reconcile_after_s": 0.2, "reconcile_every_s": 0.2}
    page = Always(said(200, b"<html>hello</html>"))
    async with running(tmp_path, given=given, ask={"": [page]}) as (service, door):
        job_id = (await service.generate("a kite [sandbox:drop]"))["job_id"]
        asked = door.asked["ask", "a kite [sandbox:drop]"]
        await live.until(lambda: len(asked) > 3)
        assert (await service.job(job_id))["status"] == "GENERATING"
        books.rows(tmp_path, "UPDATE tasks SET accepted_at = accepted_at - 901000000")
        job = await service.ended(job_id)
        assert (job["status"], job["error"]["code"]) == ("FAILED", "deadline")


# A host that never answers holds nobody else up.


async def test_results_on_a_host_that_never_answers_keep_nobody_else_waiting(tmp_path):
    held = asyncio.Event()

    async def never(_sandbox, _scope, receive, _send):
        while not held.is_set() and (await receive())["type"] != "http.disconnect":
            pass

    async with running(tmp_path, picture={"stuck": [Always(never)]}) as (service, _):
        stuck = [(await service.generate(f"stuck {number}"))["job_id"] for number in range(10)]
        begun = "SELECT 1 FROM tasks WHERE step = 'finish' AND held = 1"
        await live.until(lambda: len(books.rows(tmp_path, begun)) == len(stuck))
        await completed(service, (await service.generate("a healthy one"))["job_id"])
        assert len(books.rows(tmp_path, begun)) == len(stuck)
        for job_id in stuck:
            await service.client.delete(f"/api/images/{job_id}")
