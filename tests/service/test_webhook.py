"""
The door over HTTP: what callbacks do, and what they cannot do.

One service serves most tests; each has a job of its own, whose fate the sandbox reads in its prompt.
"""

import asyncio
import base64
import contextlib
import datetime as dt
import logging
import sqlite3
import time
import urllib.parse

import httpx
import orjson
import pytest
import pytest_asyncio
import standardwebhooks

from nanohook import database, errors, faults, writer
from nanohook.sandbox.options import Options
from nanohook.stores import deliveries
from nanohook.web import incoming, rejections, webhook
from tests import live, raw, rig

pytestmark = pytest.mark.asyncio(loop_scope="module")

DOOR = "/api/webhooks/image-completion"
SECRET = "whsec_" + base64.b64encode(b"a secret of thirty-two bytes !!!").decode()
RUNNING = "[sandbox:latency=60]"
"""NanoBanana works on it for longer than any test."""
UNTOLD = "[sandbox:drop]"
"""It ends at once, and no callback says so."""
NOWHERE = "https://evil.example/picture.png"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(tmp_path_factory):
    async with rig.running(tmp_path_factory.mktemp("webhook"), webhook_secrets=(SECRET,)) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def url(service):
    """The address of a picture, on a host that is believed."""
    job = await service.generate("a picture for others")
    await service.ended(job["job_id"])
    return (await upstream_task(service, job["job_id"])).result_url


def success(task_id, url):
    return {"code": 200, "msg": "ok", "data": {"taskId": task_id, "info": {"resultImageUrl": url}}}


def failure(task_id, code=501):
    return {"code": code, "msg": "went wrong", "data": {"taskId": task_id, "info": {"resultImageUrl": ""}}}


def word(text, **data):
    return {"status": text, "data": data}


async def shows(service, job_id, stage):
    """Wait until a job has come to *stage*, on its stream; return the job."""
    async with service.client.stream("GET", f"/api/images/{job_id}/events") as stream:
        async for line in stream.aiter_lines():
            if line.startswith("data:") and orjson.loads(line[5:]).get("stage") == stage:
                return await service.job(job_id)
    raise AssertionError(f"the job never came to {stage}")


async def started(service, prompt=RUNNING, **more):
    """Start a job; return it once NanoBanana has accepted it."""
    job = await service.generate(prompt, **more)
    return await shows(service, job["job_id"], "generating")


async def upstream_task(service, job_id, index=0):
    job = await service.job(job_id)
    return service.upstream.by_id[job["tasks"][index]["task_id"]]


async def untold(service, prompt=UNTOLD, **more):
    """Start a job that has ended at NanoBanana without a word; return it and the tasks."""
    job = await started(service, prompt, **more)
    tasks = [service.upstream.by_id[task["task_id"]] for task in job["tasks"]]
    await live.until(lambda: all(task.outcome is not None for task in tasks))
    return job, tasks


def task_id_of(job):
    return job["tasks"][0]["task_id"]


async def rows(service, sql, **values):
    return [dict(row) for row in await service.parts.database.read(lambda tx: tx.all(sql, values))]


async def events(service, job_id):
    found = await rows(service, "SELECT payload FROM events WHERE job_id = :id ORDER BY id", id=job_id)
    return [orjson.loads(row["payload"]) for row in found]


async def delivered(service, job_id):
    return await rows(service, "SELECT * FROM deliveries WHERE job_id = :id ORDER BY id", id=job_id)


async def effect(service, answer):
    """What the delivery that *answer* acknowledges did: effect and reason."""
    assert answer.status_code == 200, answer.text
    assert answer.json()["status"] == "accepted"
    found = await rows(
        service, "SELECT effect, reason FROM deliveries WHERE id = :id", id=answer.json()["delivery_id"]
    )
    return found[0]["effect"], found[0]["reason"]


async def eventually(look, *, timeout_s=10):
    """Wait until ``await look()`` is true; return it."""
    async with asyncio.timeout(timeout_s):
        while not (found := await look()):  # noqa: ASYNC110 - a row of the database sets no event
            await asyncio.sleep(0.01)
        return found


async def asked(service, job_id):
    """Wait until an answer of ``record-info`` has come in for a job."""

    async def look():
        return any(row["source"] == "record" for row in await delivered(service, job_id))

    await eventually(look)


def refusal(answer, status, code):
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert answer.headers["content-type"] == "application/problem+json"


async def test_a_callback_that_outruns_the_answer_of_the_submit_finishes_the_job(service):
    job = await service.generate("[sandbox:early]")
    ended = await service.ended(job["job_id"])
    assert ended["status"] == "COMPLETED"
    [task] = ended["tasks"]
    assert service.upstream.by_id[task["task_id"]].callbacks_sent == 1
    [row] = await delivered(service, job["job_id"])
    assert (row["source"], row["effect"]) == ("token", "applied")
    # The answer of the submit comes last, and is still kept.
    [kept] = await rows(service, "SELECT accepted_at FROM tasks WHERE job_id = :id", id=job["job_id"])
    assert kept["accepted_at"]


async def test_a_failure_that_outruns_the_answer_of_the_submit_fails_the_job(service):
    job = await service.generate("[sandbox:early][sandbox:fail=501]")
    ended = await service.ended(job["job_id"])
    assert (ended["status"], ended["error"]["code"]) == ("FAILED", "upstream_failed")


async def test_the_same_again_is_a_duplicate_of_the_first(service, url):
    job = await started(service)
    body = success(task_id_of(job), url)
    first = await service.call_back(job["job_id"], body)
    assert (first.status_code, first.json()["status"]) == (200, "accepted")
    await service.ended(job["job_id"])
    again = await service.call_back(job["job_id"], body)
    assert again.status_code == 200
    assert again.json() == {"status": "duplicate", "delivery_id": first.json()["delivery_id"]}
    assert len(await delivered(service, job["job_id"])) == 1
    # Another signature of the same task, another expiry: still the same delivery.
    elsewhere = await service.call_back(job["job_id"], body, expires_at_s=3_999_999_999)
    assert elsewhere.json() == again.json()


async def test_duplicates_of_the_upstream_make_no_second_event(service):
    job = await service.generate("[sandbox:duplicate=3]")
    await service.ended(job["job_id"])
    task = await upstream_task(service, job["job_id"])
    await live.until(task.ended.is_set)
    assert (task.callbacks_sent, task.callback_status) == (4, 200)
    assert [event["status"] for event in await events(service, job["job_id"])].count("COMPLETED") == 1


async def test_of_ten_twins_in_flight_one_is_accepted(service):
    job = await started(service)
    before = await events(service, job["job_id"])
    body = word("generating", progress=65, task_id=task_id_of(job))
    answers = await asyncio.gather(*(service.call_back(job["job_id"], body) for _ in range(10)))
    assert {answer.status_code for answer in answers} == {200}
    assert sorted(answer.json()["status"] for answer in answers) == ["accepted"] + ["duplicate"] * 9
    assert len({answer.json()["delivery_id"] for answer in answers}) == 1
    assert [event["progress"] for event in (await events(service, job["job_id"]))[len(before) :]] == [65]


async def test_an_earlier_word_is_kept_and_changes_nothing(service, url):
    job = await started(service)
    task_id = task_id_of(job)
    ahead = await service.call_back(job["job_id"], word("generating", progress=65, task_id=task_id))
    assert await effect(service, ahead) == ("applied", None)
    for late in ("pending", "Processing", "GENERATING"):
        said = await service.call_back(job["job_id"], word(late, task_id=task_id))
        assert (await effect(service, said))[0] == "no_effect", late
    now = await service.job(job["job_id"])
    assert (now["status"], now["progress"]) == ("GENERATING", 65)
    await service.call_back(job["job_id"], success(task_id, url))
    await service.ended(job["job_id"])
    before = await events(service, job["job_id"])
    for number, late in enumerate(("generating", "pending", "failed", "canceled")):
        said = await service.call_back(job["job_id"], word(late, progress=60 + number, task_id=task_id))
        assert (await effect(service, said))[0] == "no_effect", late
    assert (await service.job(job["job_id"]))["status"] == "COMPLETED"
    assert await events(service, job["job_id"]) == before


async def test_progress_counts_only_upwards_and_only_from_60_to_69(service):
    job = await started(service)
    for percent in (62, 30, 68, 64, 99, 100):
        await service.call_back(job["job_id"], word("generating", progress=percent))
    assert [event["progress"] for event in await events(service, job["job_id"])] == [10, 25, 60, 62, 68, 69]


async def test_an_unknown_word_is_kept_and_is_no_news(service):
    job = await started(service)
    before = await events(service, job["job_id"])
    said = await service.call_back(job["job_id"], word("pondering", task_id=task_id_of(job)))
    assert await effect(service, said) == ("no_effect", "no news: pondering")
    assert await events(service, job["job_id"]) == before


async def test_a_callback_of_an_older_attempt_is_the_result_of_the_retry_that_goes_on_with_its_task(service, url):
    job = await started(service)
    job_id, task_id = job["job_id"], task_id_of(job)
    assert (await service.client.post(f"/api/images/{job_id}/cancel")).status_code == 200
    retried = await service.client.post(f"/api/images/{job_id}/retry")
    assert (retried.status_code, retried.json()["attempt"]) == (202, 2)
    late = await service.call_back(job_id, success(task_id, url), attempt=1)
    assert await effect(service, late) == ("applied", None)
    ended = await service.ended(job_id)
    assert (ended["status"], ended["attempt"]) == ("COMPLETED", 2)
    # The same bytes to the present attempt are another delivery, and too late.
    again = await service.call_back(job_id, success(task_id, url), attempt=2)
    assert await effect(service, again) == ("no_effect", "the task has ended: completed")
    assert service.upstream.by_id[task_id].outcome is None  # nothing was bought twice


async def test_a_body_that_names_another_job_or_task_is_refused(service):
    job, other = await started(service), await started(service)
    before = await events(service, job["job_id"])
    foreign_job = {"job_id": other["job_id"], **word("completed", url=NOWHERE)}
    refusal(await service.call_back(job["job_id"], foreign_job), 401, "signature_invalid")
    foreign_task = failure(task_id_of(other))
    refusal(await service.call_back(job["job_id"], foreign_task), 401, "signature_invalid")
    for split in (
        {"code": 501, "taskId": task_id_of(other), "data": {"taskId": task_id_of(job)}},
        {"code": 501, "data": {"taskId": task_id_of(job), "task_id": task_id_of(other)}},
        {"status": "failed", "job_id": job["job_id"], "data": {"job_id": other["job_id"]}},
    ):
        refusal(await service.call_back(job["job_id"], split), 422, "unreadable_callback")
    assert await delivered(service, job["job_id"]) == []
    assert await events(service, job["job_id"]) == before


async def test_two_callbacks_of_one_job_at_the_same_moment_complete_it_once(service):
    job, tasks = await untold(service, num_images=2)
    answers = await asyncio.gather(
        *(
            service.call_back(job["job_id"], success(task.task_id, task.result_url), index=index)
            for index, task in enumerate(tasks)
        )
    )
    assert [answer.json()["status"] for answer in answers] == ["accepted", "accepted"]
    ended = await service.ended(job["job_id"])
    assert ended["status"] == "COMPLETED"
    assert [image["index"] for image in ended["images"]] == [0, 1]
    seen = await events(service, job["job_id"])
    assert [event["status"] for event in seen].count("COMPLETED") == 1
    assert [event["progress"] for event in seen] == sorted(event["progress"] for event in seen)


async def test_one_failed_task_of_two_leaves_a_completed_job_that_names_it(service):
    # The same prompt goes to both tasks: the failure is told by hand, and its confirmation too.
    job, tasks = await untold(service, "[sandbox:drop][sandbox:fail=400]", num_images=2)
    good = await service.generate("a picture")
    await service.ended(good["job_id"])
    picture = (await upstream_task(service, good["job_id"])).result_url
    await service.call_back(job["job_id"], failure(tasks[0].task_id, 400), index=0)
    await service.call_back(job["job_id"], success(tasks[1].task_id, picture), index=1)
    ended = await service.ended(job["job_id"])
    assert ended["status"] == "COMPLETED"
    assert [image["index"] for image in ended["images"]] == [1]
    [failed] = ended["failed_tasks"]
    assert (failed["index"], failed["error"]["code"]) == (0, "content_policy")


async def test_a_failure_that_record_info_denies_completes_the_job(service):
    job, [task] = await untold(service)
    answer = await service.call_back(job["job_id"], failure(task.task_id))
    assert await effect(service, answer) == ("applied", "asked record-info first")
    ended = await service.ended(job["job_id"])
    assert ended["status"] == "COMPLETED"
    assert "FAILED" not in {event["status"] for event in await events(service, job["job_id"])}


@pytest.mark.parametrize(("code", "word"), [(400, "content_policy"), (501, "upstream_failed")])
async def test_a_failure_that_record_info_confirms_fails_the_job(service, code, word):
    job, [task] = await untold(service, f"[sandbox:drop][sandbox:fail={code}]")
    await service.call_back(job["job_id"], failure(task.task_id, code))
    ended = await service.ended(job["job_id"])
    assert (ended["status"], ended["error"]["code"]) == ("FAILED", word)
    assert [row["source"] for row in await delivered(service, job["job_id"])] == ["token", "record"]


async def test_a_failure_told_while_it_still_runs_changes_nothing(service):
    job = await started(service)
    before = await events(service, job["job_id"])
    await service.call_back(job["job_id"], failure(task_id_of(job)))
    await asked(service, job["job_id"])
    assert await events(service, job["job_id"]) == before


async def test_a_success_on_a_host_that_is_not_believed_is_asked_about(service):
    job, [task] = await untold(service)
    answer = await service.call_back(job["job_id"], success(task.task_id, NOWHERE))
    assert await effect(service, answer) == ("applied", "asked record-info first")
    assert (await service.ended(job["job_id"]))["status"] == "COMPLETED"
    [kept] = await rows(service, "SELECT candidates FROM tasks WHERE job_id = :id", id=job["job_id"])
    assert [each["url"] for each in orjson.loads(kept["candidates"])] == [task.result_url]


async def test_a_success_on_a_host_that_is_not_believed_fetches_nothing_while_it_still_runs(service):
    job = await started(service)
    before = await events(service, job["job_id"])
    await service.call_back(job["job_id"], success(task_id_of(job), NOWHERE))
    await asked(service, job["job_id"])
    assert await events(service, job["job_id"]) == before
    [kept] = await rows(service, "SELECT step, said FROM tasks WHERE job_id = :id", id=job["job_id"])
    assert (kept["step"], kept["said"]) == ("ask", "completed")


async def test_a_success_without_an_address_is_asked_about(service):
    job, [task] = await untold(service)
    await service.call_back(job["job_id"], success(task.task_id, ""))
    assert (await service.ended(job["job_id"]))["status"] == "COMPLETED"


async def test_the_first_final_word_wins(service, url):
    job = await started(service)
    first = await service.call_back(job["job_id"], success(task_id_of(job), url))
    second = await service.call_back(job["job_id"], failure(task_id_of(job)))
    assert (await effect(service, first))[0] == "applied"
    assert (await effect(service, second))[0] == "no_effect"
    assert (await service.ended(job["job_id"]))["status"] == "COMPLETED"


@pytest.mark.parametrize("shape", ["url", "image_url", "images"])
async def test_a_callback_of_our_own_words_completes_the_job(service, url, shape):
    job = await started(service)
    data = {shape: [{"url": url}] if shape == "images" else url}
    said = {"job_id": job["job_id"], "status": "completed", "data": data}
    assert (await effect(service, await service.call_back(job["job_id"], said)))[0] == "applied"
    assert (await service.ended(job["job_id"]))["status"] == "COMPLETED"


def _tokens(good, other_job):
    head, _, signature = good.rpartition(".")
    job_id, attempt, index, expiry = head.split(".")
    return {
        "nothing": "x",
        "no signature": head,
        "other job": f"{other_job}.{attempt}.{index}.{expiry}.{signature}",
        "other attempt": f"{job_id}.2.{index}.{expiry}.{signature}",
        "other index": f"{job_id}.{attempt}.1.{expiry}.{signature}",
        "later expiry": f"{job_id}.{attempt}.{index}.{int(expiry) + 1}.{signature}",
        "more digits": f"{job_id}.{attempt}.{index}.0{expiry}.{signature}",
        "cut": good[:-1],
        "longer": good + "A",
        "other case": good.swapcase(),
        "space": good + "%20",
        "newline": good + "%0A",
        "null": good + "%00",
        "not utf-8": good + "%FF",
        "long": "a" * 5_000,
    }


async def test_a_token_that_is_not_ours_opens_nothing(service, url):
    job = await started(service)
    good = service.token(job["job_id"])
    body = success(task_id_of(job), url)
    for name, bad in _tokens(good, "0192a4b0-0000-7000-8000-000000000000").items():
        answer = await service.client.post(f"{DOOR}/{bad}", json=body)
        assert (name, answer.status_code) == (name, 401)
        refusal(answer, 401, "signature_invalid")
    refusal(await service.call_back(job["job_id"], body, expires_at_s=int(time.time())), 401, "signature_invalid")
    media = service.parts.tokens.sign_media(key=job["job_id"], expires_at_s=4_000_000_000)
    refusal(await service.client.post(f"{DOOR}/{media}", json=body), 401, "signature_invalid")
    assert await delivered(service, job["job_id"]) == []


async def test_an_address_without_token_asks_for_a_signature(service):
    answer = await service.client.post(DOOR, json=success("t", NOWHERE))
    refusal(answer, 401, "signature_invalid")


async def test_a_body_over_its_limit_is_refused(service):
    job = await started(service)
    path = f"{DOOR}/{service.token(job['job_id'])}"
    body = b'{"status":"generating","pad":"' + b"x" * webhook.BODY_BYTES + b'"}'

    async def streamed():
        for start in range(0, len(body), 65_536):
            yield body[start : start + 65_536]

    refusal(await service.client.post(path, content=body), 413, "too_large")
    refusal(await service.client.post(path, content=streamed()), 413, "too_large")
    full = b'{"status":"generating","pad":"%b"}' % (b"x" * (webhook.BODY_BYTES - 32))
    assert len(full) == webhook.BODY_BYTES
    assert (await service.client.post(path, content=full)).status_code == 200


async def test_a_body_that_does_not_end_is_refused_after_five_seconds(service):
    job = await started(service)
    host = urllib.parse.urlsplit(service.base).netloc
    reader, writer = await asyncio.open_connection(*host.split(":"))
    begun = time.monotonic()
    writer.write(
        f"POST {DOOR}/{service.token(job['job_id'])} HTTP/1.1\r\nHost: {host}\r\n"
        'Content-Length: 100\r\nConnection: close\r\n\r\n{"status":'.encode()
    )
    async with asyncio.timeout(30):
        answer = await reader.read()
    writer.close()
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b'"too_slow"' in answer
    assert 4.5 < time.monotonic() - begun < 30


async def test_unfinished_bodies_have_a_bound_together_and_hold_up_no_callback(service, url, monkeypatch):
    monkeypatch.setattr(incoming, "MAX_BYTES", 3 * webhook.BODY_BYTES)
    job = await started(service)
    size_bytes = webhook.BODY_BYTES
    async with contextlib.AsyncExitStack() as stack:
        begun = [await stack.enter_async_context(raw.opened(service.base)) for _ in range(4)]
        for connection in begun:
            await connection.begin("POST", DOOR, {"Content-Length": str(size_bytes)})
            await connection.send(b" " * (size_bytes - 1))
        answers = [asyncio.create_task(connection.answer()) for connection in begun]
        first, _ = await asyncio.wait(answers, return_when=asyncio.FIRST_COMPLETED)
        [refused] = [each.result() for each in first]
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "2")
        # What comes whole is not held up by what does not.
        assert (await effect(service, await signed(service, success(task_id_of(job), url))))[0] == "applied"
        assert {answer.status_code for answer in await asyncio.gather(*answers)} == {503, 408}
    assert service.parts.shares.incoming.size_bytes == 0


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"taskId=1",
        b"\xff\xfe",
        b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
    ids=["empty", "half", "form", "a mark alone", "deep"],
)
async def test_what_is_not_json_is_refused(service, body):
    job = await service.generate(RUNNING)
    refusal(await service.call_back(job["job_id"], body), 400, "not_json")


@pytest.mark.parametrize(
    "body",
    [
        [],
        "completed",
        7,
        None,
        {},
        {"data": {"taskId": "1"}},
        {"status": 7},
        {"code": None},
        {"code": 200, "data": {"taskId": "1", "task_id": "2"}},
        {"status": "pending", "taskId": "1", "data": {"taskId": "2"}},
    ],
    ids=str,
)
async def test_json_of_no_known_shape_is_refused(service, body):
    job = await service.generate(RUNNING)
    refusal(await service.call_back(job["job_id"], body), 422, "unreadable_callback")


async def signed(service, body, *, secret=SECRET, webhook_id=None, at=None, signed_body=None, path=DOOR):
    """Send a callback that is signed in its headers, by another implementation than ours."""
    content = orjson.dumps(body)
    webhook_id = webhook_id or f"msg_{time.monotonic_ns()}"
    moment = dt.datetime.fromtimestamp(at or time.time(), tz=dt.UTC)
    signature = standardwebhooks.Webhook(secret).sign(
        webhook_id, moment, orjson.dumps(signed_body or body).decode()
    )
    headers = {
        "Webhook-Id": webhook_id,
        "Webhook-Timestamp": str(int(moment.timestamp())),
        "Webhook-Signature": signature,
        "Content-Type": "application/json",
    }
    return await service.client.post(path, content=content, headers=headers, follow_redirects=False)


async def test_a_header_signed_callback_finds_its_task_by_task_id(service, url):
    job = await started(service)
    answer = await signed(service, success(task_id_of(job), url))
    assert (await effect(service, answer))[0] == "applied"
    assert (await service.ended(job["job_id"]))["status"] == "COMPLETED"
    [row] = await delivered(service, job["job_id"])
    assert row["source"] == "headers"


async def test_a_header_signed_callback_finds_the_only_task_of_its_job(service, url):
    job = await started(service)
    said = {"job_id": job["job_id"], "status": "completed", "data": {"image_url": url}}
    assert (await effect(service, await signed(service, said)))[0] == "applied"
    assert (await service.ended(job["job_id"]))["status"] == "COMPLETED"


async def test_a_header_signed_callback_must_tell_which_of_several_tasks_it_means(service, url):
    job = await started(service, num_images=2)
    said = {"job_id": job["job_id"], "status": "completed", "data": {"image_url": url}}
    refusal(await signed(service, said), 422, "invalid")
    said["data"]["taskId"] = (await service.job(job["job_id"]))["tasks"][1]["task_id"]
    assert (await effect(service, await signed(service, said)))[0] == "applied"


async def test_a_header_signed_callback_whose_ids_do_not_belong_together_is_refused(service, url):
    job, other = await started(service), await started(service)
    mixed = {"job_id": job["job_id"], "status": "completed", "data": {"url": url}}
    for task_id in (task_id_of(other), "a-task-of-nobody"):
        mixed["data"]["taskId"] = task_id
        answer = await signed(service, mixed)
        assert (task_id, answer.status_code) == (task_id, 422)
    assert (await service.job(job["job_id"]))["stage"] == "generating"
    refusal(await signed(service, word("completed", url=url)), 422, "invalid")


async def test_a_header_signed_callback_for_an_unknown_job_is_parked(service):
    for body in (
        success("a-task-from-elsewhere", NOWHERE),
        {"job_id": "a-job-from-elsewhere", "status": "completed", "data": {"url": NOWHERE}},
    ):
        assert (await effect(service, await signed(service, body)))[0] == "parked"


async def test_the_same_webhook_id_is_a_duplicate(service):
    job = await started(service)
    body = word("generating", progress=63, taskId=task_id_of(job))
    first = await signed(service, body, webhook_id="msg_once")
    again = await signed(service, body, webhook_id="msg_once")
    assert first.json()["status"] == "accepted"
    assert again.json() == {"status": "duplicate", "delivery_id": first.json()["delivery_id"]}
    # Other words under the same id are the same delivery, too.
    body["data"]["progress"] = 66
    assert (await signed(service, body, webhook_id="msg_once")).json() == again.json()
    assert (await service.job(job["job_id"]))["progress"] == 63


async def test_a_header_signature_that_is_not_a_holders_opens_nothing(service, url):
    job = await started(service)
    body = success(task_id_of(job), url)
    elsewhere = "whsec_" + base64.b64encode(b"x" * 32).decode()
    refusal(await signed(service, body, secret=elsewhere), 401, "signature_invalid")
    refusal(await signed(service, body, signed_body=failure("t")), 401, "signature_invalid")
    for off_s in (-301, 302):
        refusal(await signed(service, body, at=time.time() + off_s), 401, "signature_invalid")
    refusal(await service.client.post(DOOR, json=body), 401, "signature_invalid")
    assert await delivered(service, job["job_id"]) == []


async def test_a_callback_for_a_deleted_job_is_accepted_and_does_nothing(service, url):
    job = await started(service)
    body = success(task_id_of(job), url)
    assert (await service.client.delete(f"/api/images/{job['job_id']}")).status_code == 204
    before = await events(service, job["job_id"])
    assert (await effect(service, await service.call_back(job["job_id"], body)))[0] == "no_effect"
    assert (await effect(service, await signed(service, body)))[0] == "no_effect"
    assert await events(service, job["job_id"]) == before
    assert (await service.client.get(f"/api/images/{job['job_id']}")).status_code == 404


async def test_a_callback_for_a_job_that_never_was_is_parked(service):
    answer = await service.call_back("0192a4b0-0000-7000-8000-000000000000", success("t", NOWHERE))
    assert (await effect(service, answer))[0] == "parked"


async def test_a_task_takes_a_thousand_deliveries_and_no_more(service, url):
    job = await started(service)
    await service.parts.database.write(
        lambda tx: tx.run("UPDATE tasks SET deliveries = 998 WHERE job_id = :id", {"id": job["job_id"]})
    )
    for number in (999, 1_000):
        assert (await service.call_back(job["job_id"], word(f"word {number}"))).status_code == 200
    for _ in range(2):
        refused = await service.call_back(job["job_id"], success(task_id_of(job), url))
        refusal(refused, 429, "too_many")
        assert int(refused.headers["retry-after"]) >= 1
    refusal(await signed(service, success(task_id_of(job), url)), 429, "too_many")
    assert len(await delivered(service, job["job_id"])) == 2
    other = await started(service)
    assert (await service.call_back(other["job_id"], word("generating", progress=61))).status_code == 200


async def test_a_delivery_keeps_its_bytes_and_headers_but_no_credentials(service):
    job = await started(service)
    body = b' {"status" : "generating",\n"data":{"progress": 64}} '
    path = f"{DOOR}/{service.token(job['job_id'])}"
    secret = {
        "Cookie": "a=secret-cookie",
        "Proxy-Authorization": "secret-proxy",
        "X-Sent-By": "a test",
        "X-Original-URI": path,
    }
    assert (await service.client.post(path, content=body, headers=secret)).status_code == 200
    [row] = await delivered(service, job["job_id"])
    assert row["body"] == body
    assert "x-sent-by: a test" in row["headers"].splitlines()
    for part in ("secret", service.client.headers["authorization"], service.token(job["job_id"])):
        assert part not in row["headers"]


async def test_if_applying_raises_the_delivery_is_kept_and_applied_later(service, url):
    """A trigger of the database stands for whatever may go wrong in there."""
    job = await started(service)
    broken = (
        "CREATE TRIGGER broken BEFORE UPDATE ON tasks WHEN NEW.step = 'finish' "
        "BEGIN SELECT RAISE(ABORT, 'no such luck'); END"
    )
    await service.parts.database.write(lambda tx: tx.run(broken))
    try:
        body = success(task_id_of(job), url)
        answer = await service.call_back(job["job_id"], body)
        assert (await effect(service, answer))[0] == "unapplied"
        twin = await service.call_back(job["job_id"], body)
        assert twin.json() == {"status": "duplicate", "delivery_id": answer.json()["delivery_id"]}
        assert (await service.job(job["job_id"]))["stage"] == "generating"
    finally:
        await service.parts.database.write(lambda tx: tx.run("DROP TRIGGER broken"))
    assert (await service.ended(job["job_id"]))["status"] == "COMPLETED"
    [row] = await delivered(service, job["job_id"])
    assert (row["effect"], row["due_at"]) == ("applied", None)


@pytest.mark.parametrize(
    "bug",
    [
        KeyError("a bug"),
        RecursionError("too deep"),
        MemoryError(),
        errors.StorageFailed("one of ours that is nobody's fault"),
        errors.LeaseLost("another one"),
        errors.Fatal("and another"),
        sqlite3.ProgrammingError("of the database"),
        ExceptionGroup("several", [ValueError("one")]),
    ],
    ids=lambda bug: type(bug).__name__,
)
@pytest.mark.parametrize("place", ["read", "apply"])
async def test_whatever_applying_raises_the_bytes_are_kept_and_answered(service, bug, place):
    job = await started(service)

    def fail(*_args, **_more):
        raise bug

    with pytest.MonkeyPatch.context() as patch:
        if place == "read":
            patch.setattr(webhook.callbacks, "read", fail)
        else:
            patch.setattr(webhook.receive, "callback", fail)
        # So that it is not tried again while this looks.
        patch.setattr(webhook.replay, "AGAIN_US", 600_000_000)
        answer = await service.call_back(job["job_id"], word("generating", progress=65, bug=type(bug).__name__))
        assert (await effect(service, answer))[0] == "unapplied"
        [row] = await rows(service, "SELECT body FROM deliveries WHERE id = :id", id=answer.json()["delivery_id"])
        assert type(bug).__name__.encode() in row["body"]


async def test_what_cannot_even_be_kept_is_refused_by_503(service):
    job = await started(service)

    def fail(*_args, **_more):
        raise KeyError("a bug")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(webhook.receive, "callback", fail)
        patch.setattr(webhook.receive, "keep_unapplied", fail)
        answer = await service.call_back(job["job_id"], word("generating", progress=65))
    refusal(answer, 503, "unavailable")
    assert int(answer.headers["retry-after"]) >= 1
    answer = await service.call_back(job["job_id"], word("generating", progress=65))
    assert (await effect(service, answer))[0] == "applied"


async def test_a_bug_of_ours_before_the_signature_is_checked_is_503_too(service):
    def fail(*_args, **_more):
        raise KeyError("a bug")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(webhook.signing.Tokens, "read_callback", fail)
        refusal(await service.client.post(f"{DOOR}/x", json={}), 503, "unavailable")


async def test_a_unit_that_ends_the_whole_transaction_is_no_answer_200(service):
    job = await started(service)
    broken = "CREATE TRIGGER broken BEFORE INSERT ON deliveries BEGIN SELECT RAISE(ROLLBACK, 'disk full'); END"
    await service.parts.database.write(lambda tx: tx.run(broken))
    try:
        answer = await service.call_back(job["job_id"], word("generating", progress=65))
        refusal(answer, 503, "unavailable")
        assert int(answer.headers["retry-after"]) >= 1
    finally:
        await service.parts.database.write(lambda tx: tx.run("DROP TRIGGER broken"))
    answer = await service.call_back(job["job_id"], word("generating", progress=65))
    assert (await effect(service, answer))[0] == "applied"


@contextlib.asynccontextmanager
async def writer_held(base):
    """
    Keep the database locked, as another process would; gives the units that wait, to add some of one's own.

    The writer, which would give up after five seconds, waits for as long as a busy machine may need.
    """
    [[_, _, path]] = await base.read(lambda tx: tx.all("PRAGMA database_list"))
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as lock:
        lock.execute("BEGIN IMMEDIATE")
        passed = set()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(writer, "BUSY_MS", 60_000)
            patch.setattr(faults, "at", passed.add)
            # It waits with this unit, or with one of the service's own, and this one is the first in line.
            waiting = [base.offer(nothing)]
            await live.until(lambda: "database.locked" in passed)
            try:
                yield waiting
            finally:
                lock.execute("ROLLBACK")
    await asyncio.gather(*waiting)


async def nothing(_tx):
    """A unit that does nothing."""


@pytest.mark.parametrize(
    "spelling",
    ["{door}/{token}/", "/{door}/{token}", "/api//webhooks/./image-completion//{token}", "{door}/{token}//"],
)
async def test_a_callback_is_taken_by_every_spelling_of_its_address(service, spelling):
    job = await started(service)
    path = spelling.format(door=DOOR, token=service.token(job["job_id"]))
    body = {"job_id": job["job_id"], "status": "generating", "data": {"progress": 62}}
    async with raw.opened(service.base) as connection:
        content = orjson.dumps(body)
        await connection.begin("POST", path, {"Content-Length": str(len(content))})
        await connection.send(content)
        answer = await connection.answer()
    assert (answer.status_code, answer.json()["status"]) == (200, "accepted")


@pytest.mark.parametrize("path", [f"{DOOR}/", f"{DOOR}//", "/api//webhooks/./image-completion"])
async def test_a_header_signed_callback_is_taken_by_every_spelling_of_its_address(service, url, path):
    job = await started(service)
    answer = await signed(service, success(task_id_of(job), url), path=path)
    assert (await effect(service, answer))[0] == "applied"


async def test_an_address_that_is_only_like_a_callbacks_is_kept_as_refused(service):
    job = await started(service)
    for tail in (f"{service.token(job['job_id'])}/more", "%2e%2e/x", "x//y/"):
        before = service.parts.rejections.total
        answer = await service.client.post(f"{DOOR}/{tail}", content=b"{}", follow_redirects=False)
        assert (answer.status_code, answer.json()["title"]) == (401, "Signature refused")
        assert service.parts.rejections.total == before + 1
    for spelling in (
        f"{DOOR}/{{}}",
        f"{DOOR}/{{}}/",
        f"{DOOR}//{{}}",
        "/api//webhooks/./image-completion/{}",
        f"{DOOR}/",
    ):
        path = spelling.format(service.token(job["job_id"]))
        for method in ("GET", "HEAD", "OPTIONS", "PUT"):
            answer = await service.client.request(method, path)
            assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


async def test_a_full_line_is_503_and_never_200(service):
    job = await started(service)
    base = service.parts.database
    async with writer_held(base) as waiting:
        waiting += [base.offer(nothing) for _ in range(database.INBOX_UNITS - base.waiting)]
        with pytest.raises(errors.Unavailable):
            base.offer(nothing)
        answer = await service.call_back(job["job_id"], word("generating", progress=67))
        refusal(answer, 503, "unavailable")
        assert int(answer.headers["retry-after"]) >= 1
        # Reading goes on, and so does telling who may not write.
        assert (await service.job(job["job_id"]))["progress"] == 60
        assert (await service.client.post(f"{DOOR}/x", json={})).status_code == 401
    answer = await service.call_back(job["job_id"], word("generating", progress=67))
    assert (await effect(service, answer))[0] == "applied"


async def test_a_line_full_of_bytes_is_503(service):
    job = await started(service)
    base = service.parts.database
    async with writer_held(base) as waiting:
        waiting.append(base.offer(nothing, size_bytes=database.INBOX_BYTES - 10))
        refusal(await service.call_back(job["job_id"], word("generating", progress=67)), 503, "unavailable")


async def test_a_service_whose_line_is_full_says_that_it_is_not_ready(tmp_path_factory):
    async with rig.running(tmp_path_factory.mktemp("ready")) as service:
        base = service.parts.database
        async with writer_held(base) as waiting:
            waiting += [base.offer(nothing) for _ in range(database.INBOX_UNITS - base.waiting)]
            refusal(await service.client.get("/readyz", timeout=5), 503, "unavailable")
        assert (await service.client.get("/readyz")).status_code == 200


async def test_what_was_refused_is_kept_within_bounds(service):
    await service.parts.rejections.flush()
    await service.parts.database.write(lambda tx: tx.run("DELETE FROM rejections"))
    # Counters of our own: the service's may have no room left in this minute.
    kept = rejections.Rejections(service.parts.database)
    for _ in range(40):
        kept.add(reason="not_json", peer="192.0.2.255", headers="", body=b"x" * 10_000)
    for number in range(200):
        kept.add(reason="not_json", peer=f"192.0.2.{number}", headers="y" * 10_000, body=b"")
    await kept.flush()
    found = await rows(service, "SELECT *, received_at / 60000000 AS minute FROM rejections")
    minutes = {row["minute"] for row in found}
    assert 100 <= len(found) <= 100 * len(minutes)
    assert 10 <= sum(row["peer"] == "192.0.2.255" for row in found) <= 10 * len(minutes)
    assert all(len(row["body"]) <= 4_096 and len(row["headers"]) <= 4_096 for row in found)
    assert kept.total == 240


async def test_rejected_callbacks_are_stored_from_the_door(tmp_path_factory):
    async with rig.running(tmp_path_factory.mktemp("refused")) as service:
        job = await service.generate(RUNNING)
        token = service.token(job["job_id"])
        headers = {
            "Authorization": "Bearer very-secret",
            "Cookie": "session=very-secret",
            "X-Mark": "kept",
        }
        for number in range(30):
            body = b"not json %d " % number + b"z" * 9_000
            answer = await service.client.post(f"{DOOR}/{token}", content=body, headers=headers)
            assert answer.status_code == 400
        await service.parts.rejections.flush()
        found = await rows(service, "SELECT *, received_at / 60000000 AS minute FROM rejections")
        by_minute = [row["minute"] for row in found]
        assert len(found) >= 10
        assert max(by_minute.count(minute) for minute in by_minute) <= 10
        for row in found:
            assert row["reason"] == "not_json"
            assert row["body"].startswith(b"not json ")
            assert len(row["body"]) <= 4_096
            assert "x-mark: kept" in row["headers"].splitlines()
            assert "very-secret" not in row["headers"]
            assert token not in row["headers"]
        assert await delivered(service, job["job_id"]) == []


async def test_without_a_secret_the_header_signed_door_is_closed(tmp_path_factory):
    async with rig.running(tmp_path_factory.mktemp("closed")) as service:
        refusal(await signed(service, success("t", NOWHERE)), 404, "not_found")


async def test_every_secret_that_is_set_opens_the_door(tmp_path_factory):
    other = "whsec_" + base64.b64encode(b"another secret of 32 bytes, yes!").decode()
    async with rig.running(tmp_path_factory.mktemp("secrets"), webhook_secrets=(SECRET, other)) as service:
        for secret in (SECRET, other):
            assert (await signed(service, success("t", NOWHERE), secret=secret)).status_code == 200


async def test_the_token_of_an_address_is_in_no_line_of_the_log(tmp_path_factory, caplog):
    for name in ("nanohook", "uvicorn"):
        caplog.set_level(logging.DEBUG, logger=name)
    sandbox = Options(latency_s=0.01, duplicate=1, progress=True, callback_pause_s=0.01)
    async with rig.running(tmp_path_factory.mktemp("log"), sandbox=sandbox) as service:
        job = await service.upload()
        await service.generate("a kite", imageId=job["job_id"])
        await service.ended(job["job_id"])
        token = service.token(job["job_id"])
        for body in (failure("t"), word("generating"), [], b"{", b" " * (webhook.BODY_BYTES + 1)):
            await service.call_back(job["job_id"], body)
        await service.client.post(f"{DOOR}/{token[:-1]}", json={})
        broken = "CREATE TRIGGER broken BEFORE UPDATE ON tasks BEGIN SELECT RAISE(ABORT, 'x'); END"
        await service.parts.database.write(lambda tx: tx.run(broken))
        await service.call_back(job["job_id"], word("pondering"))
        upstream = service.upstream.by_id[(await service.job(job["job_id"]))["tasks"][0]["task_id"]]
    sent = urllib.parse.urlsplit(upstream.order.callback_url).path.rpartition("/")[2]
    ours = [record for record in caplog.records if record.name.startswith(("nanohook", "uvicorn"))]
    lines = [f"{record.getMessage()} {record.__dict__} {record.exc_text}" for record in ours]
    assert any("delivery.unapplied" in line for line in lines)
    assert any("http.request" in line for line in lines)
    for secret in (token, sent, token.rpartition(".")[2], sent.rpartition(".")[2]):
        assert not [line for line in lines if secret in line]


async def test_hundreds_of_callbacks_at_once_are_all_kept(service):
    jobs = [await service.generate(RUNNING) for _ in range(4)]
    bodies = [(job["job_id"], orjson.dumps(word(f"word {n}"))) for job in jobs for n in range(60)]
    answers = await asyncio.gather(*(service.call_back(job_id, body) for job_id, body in bodies))
    assert {(answer.status_code, answer.json()["status"]) for answer in answers} == {(200, "accepted")}
    for job in jobs:
        assert len(await delivered(service, job["job_id"])) == 60


async def test_a_caller_that_leaves_before_its_answer_has_delivered_all_the_same(service):
    job = await started(service)
    body = orjson.dumps(word("generating", progress=66))
    async with writer_held(service.parts.database):
        path = f"{DOOR}/{service.token(job['job_id'])}"
        with pytest.raises(httpx.ReadTimeout):
            await service.client.post(path, content=body, timeout=httpx.Timeout(5, read=0.2))
    assert (await service.call_back(job["job_id"], body)).json()["status"] == "duplicate"
    assert (await service.job(job["job_id"]))["progress"] == 66
    [row] = await delivered(service, job["job_id"])
    assert row["effect"] == deliveries.Effect.APPLIED
