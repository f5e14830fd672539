"""Batches: a hundred jobs of one request are started together or not at all, and followed and ended together."""

import contextlib

import orjson
import pytest
import pytest_asyncio

from nanohook.rules.status import ImageJobStatus
from nanohook.web import docs, slots, wire, work_wire
from tests import books, lag, live, raw, rig

pytestmark = pytest.mark.asyncio(loop_scope="module")

DOCUMENT = orjson.loads(docs.written()[0])
RUNNING = "[sandbox:latency=60]"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(tmp_path_factory):
    async with rig.running(tmp_path_factory.mktemp("batches"), open_tasks=500) as running:
        yield running
        books.check(running.parts.settings.data_dir)


@pytest_asyncio.fixture(loop_scope="module")
async def one(service):
    made = await rig.person(service, document=DOCUMENT)
    async with made.client:
        yield made


async def start(one, *jobs, key=None, **more):
    headers = {} if key is None else {"Idempotency-Key": key}
    return await one.client.post("/api/batches", json={"jobs": list(jobs), **more}, headers=headers)


async def job_ids(one):
    images = (await one.client.get("/api/images", params={"limit": 200})).raise_for_status().json()["images"]
    return [job["job_id"] for job in images]


def rows(service, sql, *values):
    return books.rows(service.parts.settings.data_dir, sql, *values)


def counts(**numbers):
    return {status.value: numbers.get(status.value, 0) for status in ImageJobStatus}


async def balance(one):
    told = (await one.client.get("/api/credits")).json()
    return told["available"], told["reserved"]


async def ended(one, taken):
    """Wait for the end of all jobs of a batch; return it."""
    for job_id in taken["job_ids"]:
        await one.ended(job_id)
    return (await one.client.get(taken["links"]["self"])).json()


async def test_a_batch_is_taken_at_once_and_tells_in_part_what_failed(one):
    prompts = ["a kite", "[sandbox:fail=400] a kite", "[sandbox:submit=422] a kite"]
    answer = await start(one, *({"prompt": prompt} for prompt in prompts))
    assert answer.status_code == 202, answer.text
    taken = answer.json()
    assert (taken["counts"], taken["credits"], taken["failed"]) == (counts(PENDING=3), 12, [])
    assert not taken["is_final"]
    told = await ended(one, taken)
    assert (told["counts"], told["credits"], told["is_final"]) == (counts(COMPLETED=1, FAILED=2), 4, True)
    assert told["job_ids"] == taken["job_ids"]
    assert [(each["job_id"], each["error"]["code"]) for each in told["failed"]] == [
        (taken["job_ids"][1], "content_policy"),
        (taken["job_ids"][2], "upstream_rejected"),
    ]
    for number, prompt in enumerate(prompts):
        job = await one.job(taken["job_ids"][number])
        assert (job["prompt"], job["batch_id"]) == (prompt, taken["batch_id"])


async def test_a_stream_from_the_answer_of_a_batch_misses_nothing(one):
    taken = (await start(one, {"prompt": "a kite"}, {"prompt": "a kite"})).json()
    seen = {job_id: [] for job_id in taken["job_ids"]}
    params = {"job": taken["job_ids"], "last_event_id": taken["event_id"]}
    async with one.client.stream("GET", "/api/events", params=params) as stream:
        async for line in stream.aiter_lines():
            if line.startswith("data: {"):
                told = orjson.loads(line[6:])
                seen.get(told.get("job_id"), []).append(told["progress"])
    for progress in seen.values():
        assert (progress[0], progress[-1]) == (25, 100)


async def test_uploads_results_and_texts_go_together_in_the_order_of_the_request(one):
    image = (await one.upload())["job_id"]
    done = (await one.generate())["job_id"]
    await one.ended(done)
    taken = (
        await start(
            one,
            {"prompt": RUNNING},
            {"imageId": done, "prompt": RUNNING, "use": "result"},
            {"image_id": image, "transformationType": "enhance", "numImages": 2},
            {"imageId": done, "prompt": RUNNING},
        )
    ).json()
    assert taken["job_ids"][2] == image
    assert taken["credits"] == 4 * 5
    told = (await one.client.get(taken["links"]["self"])).json()
    assert told["job_ids"] == taken["job_ids"]
    assert [(await one.job(job_id))["source_job_id"] for job_id in told["job_ids"]] == [None, done, None, done]


async def test_the_batch_s_priority_is_for_jobs_that_name_none(one):
    taken = (
        await start(one, {"prompt": RUNNING}, {"prompt": RUNNING, "priority": "normal"}, priority="low")
    ).json()
    assert [(await one.job(job_id))["priority"] for job_id in taken["job_ids"]] == ["low", "normal"]
    taken = (await start(one, {"prompt": RUNNING})).json()
    assert (await one.job(taken["job_ids"][0]))["priority"] == "normal"


async def test_every_fault_is_named_with_its_job_and_nothing_is_started(one):
    image, before = (await one.upload())["job_id"], await balance(one)
    running = (await one.generate(RUNNING))["job_id"]
    reserved, known = await balance(one), set(await job_ids(one))
    answer = await start(
        one,
        {"prompt": "a kite"},
        {"prompt": "a kite", "model": "no-such", "numImages": 5},
        {},
        "no body",
        {"imageId": "unknown", "prompt": "a kite"},
        {"imageId": running, "prompt": "a kite"},
        {"imageId": image, "prompt": "a kite"},
        {"imageId": image, "prompt": "a kite"},
        {"imageId": image, "prompt": "a kite", "use": "result"},
        {"projectId": "unknown", "prompt": "a kite"},
        {"prompt": "a kite", "aspectRatio": "7:1", "resolution": "9K"},
        {"prompt": "a kite", "num_images": 1, "numImages": 2},
    )
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid")
    assert [(line["field"], line.get("code")) for line in answer.json()["errors"]] == [
        ("jobs[1].model", None),
        ("jobs[1].num_images", None),
        ("jobs[2].prompt", None),
        ("jobs[3]", None),
        ("jobs[4]", "not_found"),
        ("jobs[5]", "job_running"),
        ("jobs[7]", "job_running"),
        ("jobs[8]", "no_result"),
        ("jobs[9]", "not_found"),
        ("jobs[10].aspect_ratio", None),
        ("jobs[10].resolution", None),
        ("jobs[11]", None),
    ]
    assert all(line["message"] for line in answer.json()["errors"])
    assert (await balance(one), set(await job_ids(one))) == (reserved, known)
    assert reserved == (before[0] - 4, before[1] + 4)


async def test_jobs_with_pictures_need_a_public_address(tmp_path):
    async with rig.running(tmp_path, public_url=None) as service:
        image = (await service.upload())["job_id"]
        answer = await start(service, {"prompt": RUNNING}, {"imageId": image, "prompt": RUNNING})
        assert [(line["field"], line["code"]) for line in answer.json()["errors"]] == [
            ("jobs[1]", "no_public_url")
        ]
        assert await job_ids(service) == [image]
        assert (await start(service, {"prompt": RUNNING})).status_code == 202


async def test_too_few_credits_for_all_together_start_none(service):
    poor = await rig.person(service, document=DOCUMENT, credits=11)
    async with poor.client:
        answer = await start(poor, *[{"prompt": RUNNING}] * 3)
        assert (answer.status_code, answer.json()["code"]) == (402, "insufficient_credits")
        assert (await balance(poor), await job_ids(poor)) == ((11, 0), [])
        # What cannot be started at all is told first.
        answer = await start(poor, *[{"prompt": RUNNING}] * 3, {})
        assert answer.status_code == 422
        assert (await start(poor, *[{"prompt": RUNNING}] * 2)).status_code == 202
        assert await balance(poor) == (3, 8)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"jobs": []}, "jobs"),
        ({"jobs": [{"prompt": "x"}] * 101}, "jobs"),
        ({}, "jobs"),
        ({"jobs": {"prompt": "x"}}, "jobs"),
        ({"jobs": [{"prompt": "x"}], "priority": "urgent"}, "priority"),
        ({"jobs": [{"prompt": "x"}], "more": 1}, "more"),
    ],
    ids=["none", "too-many", "absent", "no-list", "priority", "unknown"],
)
async def test_a_batch_that_is_none_is_refused(one, body, field):
    answer = await one.client.post("/api/batches", json=body)
    assert answer.status_code == 422
    assert [line["field"] for line in answer.json()["errors"]] == [field]


async def test_a_hundred_of_the_longest_prompts_fit_whatever_their_letters(one):
    prompts = [f"{RUNNING}{number:03d}" for number in range(100)]
    jobs = [{"prompt": prompt + "🪁" * (20_000 - len(prompt)), "priority": "low"} for prompt in prompts]
    taken = (await start(one, *jobs)).raise_for_status().json()
    assert (len(taken["job_ids"]), taken["counts"]) == (100, counts(PENDING=100))
    first = await one.job(taken["job_ids"][0])
    assert len(first["prompt"]) == 20_000
    assert (await one.client.post(taken["links"]["cancel"])).status_code == 200
    too_long = await one.client.post("/api/batches", content=b" " * (work_wire.BATCH_BYTES + 1))
    assert too_long.status_code == 413


def fields(number):
    return b",".join(b'"a%d":1' % each for each in range(number))


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b'{"jobs":[' + b"[]," * 2_700_000 + b"[]]}", "body"),
        (b'{"jobs":[{' + fields(200_000) + b"}]}", "body"),
        (b'{"jobs":[{' + fields(140_000) + b"}]}", "jobs[0]"),
        (b"{" + fields(140_000) + b"}", "body"),
        (b'{"jobs":[' + b"1," * 290_000 + b"1]}", "jobs"),
        (b'{"' + b"aB" * 4_000_000 + b'":1}', "aB" * 32),
    ],
    ids=["lists", "fields", "fields-of-a-job", "fields-of-the-batch", "jobs", "name"],
)
async def test_no_body_of_a_batch_holds_up_the_others(one, body, field):
    async with lag.seen() as seen:
        answer = await one.client.post("/api/batches", content=body)
    assert answer.status_code == 422
    assert field in [line["field"] for line in answer.json()["errors"]]
    assert seen.worst_s < 0.3


async def test_an_object_has_a_hundred_fields_and_a_body_so_many_marks_at_most(one):
    async def wrong(body):
        answer = await one.client.post("/api/batches", content=body)
        return [line["field"] for line in answer.json()["errors"]]

    assert wire.MOST_FIELDS == 100
    assert len(await wrong(b'{"jobs":[{' + fields(100) + b"}]}")) == 20
    assert await wrong(b'{"jobs":[{' + fields(101) + b"}]}") == ["jobs[0]"]
    # Texts count: to tell them apart would be to parse.
    text = b'{"jobs":[{"prompt":"x"}],"more":"%b"}'
    left = wire.MOST_MARKS - sum(text.count(mark) for mark in (b"[", b"{", b":", b","))
    assert await wrong(text % (b"," * left)) == ["more"]
    assert await wrong(text % (b"," * (left + 1))) == ["body"]


async def test_four_batches_of_one_person_come_in_at_once(service, one):
    body = orjson.dumps({"jobs": [{"prompt": RUNNING}]})
    headers = {**one.client.headers, "Content-Length": str(len(body))}
    async with contextlib.AsyncExitStack() as stack:

        async def begun():
            connection = await stack.enter_async_context(raw.opened(one.base))
            await connection.begin("POST", "/api/batches", headers)
            await connection.send(body[:-1])
            return connection

        four = [await begun() for _ in range(slots.MOST_OF_ONE)]
        await live.until(lambda: service.parts.shares.batches._of.total() == slots.MOST_OF_ONE)
        refusal = await (await begun()).answer()
        assert (refusal.status_code, refusal.json()["code"]) == (429, "too_many_uploads")
        await four[0].send(body[-1:])
        assert (await four[0].answer()).status_code == 202
        assert (await start(one, {"prompt": RUNNING})).status_code == 202
    await live.until(lambda: service.parts.shares.batches._of.total() == 0)


async def test_the_same_batch_again_is_answered_and_not_started_again(one):
    jobs = [{"prompt": RUNNING}] * 2
    first = await start(one, *jobs, key="a-key")
    again = await start(one, *jobs, key="a-key")
    assert (again.status_code, again.content) == (202, first.content)
    assert again.headers["idempotent-replayed"] == "true"
    other = await start(one, {"prompt": RUNNING}, key="a-key")
    assert (other.status_code, other.json()["code"]) == (422, "key_reused")
    # A key belongs to one route.
    alone = await one.client.post(
        "/api/generate-image", json={"prompt": RUNNING}, headers={"Idempotency-Key": "a-key"}
    )
    assert alone.status_code == 202
    assert len(await job_ids(one)) == 3


async def test_canceling_a_batch_ends_what_is_open_and_leaves_the_rest(one):
    taken = (await start(one, {"prompt": "a kite"}, {"prompt": RUNNING}, {"prompt": RUNNING})).json()
    await one.ended(taken["job_ids"][0])
    for _ in range(2):
        answer = await one.client.post(taken["links"]["cancel"])
        assert answer.status_code == 200
        told = answer.json()
        assert (told["counts"], told["is_final"]) == (counts(COMPLETED=1, CANCELED=2), True)
        assert told["failed"] == []


async def test_deleted_jobs_are_left_out_and_a_batch_of_none_is_gone(one):
    taken = (await start(one, {"prompt": RUNNING}, {"prompt": RUNNING})).json()
    here, ids = taken["links"]["self"], taken["job_ids"]
    await one.client.delete(f"/api/images/{ids[0]}")
    told = (await one.client.get(here)).json()
    assert (told["job_ids"], sum(told["counts"].values()), told["credits"]) == ([ids[1]], 1, 4)
    await one.client.delete(f"/api/images/{ids[1]}")
    assert (await one.client.get(here)).status_code == 404
    await one.client.post(f"/api/images/{ids[1]}/restore")
    assert (await one.client.get(here)).json()["job_ids"] == [ids[1]]


async def test_a_batch_is_its_owner_s_and_an_admin_s(service, one):
    taken = (await start(one, {"prompt": RUNNING})).json()
    here, stop = taken["links"]["self"], taken["links"]["cancel"]
    eve, admin = (
        await rig.person(service, document=DOCUMENT),
        await rig.person(service, document=DOCUMENT, is_admin=True),
    )
    async with eve.client, admin.client:
        for answer in (await eve.client.get(here), await eve.client.post(stop)):
            assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
        assert (await admin.client.get(here)).json() == (await one.client.get(here)).json()
        assert (await admin.client.post(stop)).json()["counts"] == counts(CANCELED=1)
    acts = rows(service, "SELECT action, after FROM audit WHERE subject = ?", taken["batch_id"])
    assert acts == [{"action": "batch.cancel", "after": "CANCELED"}]


async def test_without_a_key_or_room_nothing_is_taken(tmp_path):
    for less, status in (({"nanobanana_api_key": None}, 409), ({"disk_reserve_bytes": 2**62}, 507)):
        async with rig.running(tmp_path / str(status), **less) as service:
            assert (await start(service, {"prompt": RUNNING})).status_code == status
            assert await job_ids(service) == []


async def test_a_batch_counts_as_one_write(tmp_path):
    async with rig.running(tmp_path, rate_write="2/minute") as service:
        for left in ("1", "0"):
            answer = await start(service, *[{"prompt": RUNNING}] * 10)
            assert (answer.status_code, f"r={left};" in answer.headers["ratelimit"]) == (202, True)
        assert (await start(service, {"prompt": RUNNING})).status_code == 429
