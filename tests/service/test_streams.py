"""Event streams over HTTP, read as bytes: what they begin with, replay, end with, and whom they wait for."""

import asyncio
import contextlib
import pathlib
import re
import resource
import socket
import sqlite3
import struct
import time
import tracemalloc

import httpx
import orjson
import pytest
import pytest_asyncio

from nanohook import clock, database, hub, settings
from nanohook.cli import people
from nanohook.database import Lane, Topic
from nanohook.flow import accounts as flow
from nanohook.flow import gate
from nanohook.http1 import sockets
from nanohook.rules import sse
from nanohook.stores import accounts, events
from nanohook.web import credentials
from nanohook.web import streams as web_streams
from tests import live, rig

pytestmark = pytest.mark.asyncio(loop_scope="module")

RUNNING = "[sandbox:latency=60]"
NOBODY = "0192a4b0-0000-7000-8000-000000000000"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(tmp_path_factory):
    async with rig.running(tmp_path_factory.mktemp("streams"), streams_per_user=1_000) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def done(service):
    """A completed job, with its every event."""
    started = await service.generate("a kite")
    return await service.ended(started["job_id"])


class Reader:
    """One stream, block by block: dictionaries of its fields, but for those that tell when to come back."""

    def __init__(self, response):
        self.response = response
        self.retries = []
        """Every ``retry``, ms."""
        self._lines = response.aiter_lines()

    async def block(self):
        """Read the next block; ``None`` at the end of the stream."""
        found = {}
        async with asyncio.timeout(10):
            async for line in self._lines:
                if not line:
                    assert {"event", "data"} <= set(found), "many clients make an event of it"
                    return found
                if line.startswith(":"):
                    continue
                name, _, value = line.partition(": ")
                if name == "retry":
                    self.retries.append(int(value))
                    continue
                assert name in {"id", "event", "data"}, line
                assert name not in found, line
                found[name] = orjson.loads(value) if name == "data" else value
        assert not found, "the stream was cut within a block"
        return None

    async def rest(self):
        """Read to the end."""
        found = []
        while (block := await self.block()) is not None:
            found.append(block)
        return found

    async def until(self, **wanted):
        """Read up to the block whose data has these values; return all of them."""
        found = []
        while (block := await self.block()) is not None:
            found.append(block)
            if wanted.items() <= block.get("data", {}).items():
                return found
        raise AssertionError(f"the stream ended before {wanted}: {found}")


@contextlib.asynccontextmanager
async def reading(service, path, *, cursor=None, client=None, **query):
    headers = {} if cursor is None else {"Last-Event-ID": str(cursor)}
    # Without any, those of the path stay.
    params = query or None
    async with (client or service.client).stream("GET", path, params=params, headers=headers) as response:
        assert response.status_code == 200
        assert_is_stream(response)
        reader = Reader(response)
        yield reader
        assert all(1_000 <= ms <= 4_000 for ms in reader.retries)


def assert_is_stream(response):
    assert response.headers["content-type"] == "text/event-stream"
    assert response.headers["cache-control"] == "no-store, no-transform"
    assert response.headers["x-accel-buffering"] == "no"


async def whole(service, path, **more):
    """Read a stream that ends by itself."""
    async with reading(service, path, **more) as reader:
        blocks = await reader.rest()
        assert reader.retries
        return blocks


async def put_off(service, path, *, client=None, **headers):
    """Connect, and be told to come later: by a line, and no status that would stop an event source for good."""
    answer = await (client or service.client).get(path, headers=headers)
    assert answer.status_code == 200
    assert_is_stream(answer)
    return re.fullmatch(r"retry: [1-4][0-9]{3}\n", answer.text) is not None


def of(job_id):
    return f"/api/images/{job_id}/events"


def ids(blocks):
    return [int(block["id"]) for block in blocks if "id" in block]


async def logged(service, *job_ids):
    """Ids in the log, in order."""
    found = await service.parts.database.read(lambda tx: tx.all("SELECT id, job_id FROM events ORDER BY id"))
    return [row["id"] for row in found if row["job_id"] in job_ids]


async def head(service):
    return await service.parts.database.read(events.head)


async def running_job(service, *, client=None):
    """Start a job that goes no further than NanoBanana."""
    answer = await (client or service.client).post("/api/generate-image", json={"prompt": RUNNING})
    job_id = answer.json()["job_id"]
    async with reading(service, of(job_id), client=client) as reader:
        await reader.until(stage="generating")
    return job_id


async def tell(service, job_id, percent):
    """Let a running job have one more event."""
    answer = await service.call_back(job_id, {"status": "generating", "data": {"progress": percent}})
    assert answer.json()["status"] == "accepted"


async def cancel(service, job_id):
    assert (await service.client.post(f"/api/images/{job_id}/cancel")).status_code == 200


async def log_events(service, job_id, number, *, size=200):
    """Write *number* events of a job into the log, as another process might."""
    job = await service.job(job_id)

    async def write(tx):
        row = await tx.one("SELECT owner_id FROM jobs WHERE id = :id", {"id": job_id})
        for index in range(number):
            payload = orjson.dumps({"job_id": job_id, "n": index, "pad": "x" * size}).decode()
            await events.append(
                tx,
                owner_id=row["owner_id"],
                job_id=job_id,
                name="status",
                is_last=False,
                payload=payload,
                now_us=time.time_ns() // 1_000,
            )
        tx.wake(Topic.EVENTS)

    await service.parts.database.write(write)
    return job


@contextlib.asynccontextmanager
async def person(service, email):
    async with httpx.AsyncClient(base_url=service.base, trust_env=False, timeout=20) as client:
        client.headers["Authorization"] = f"Bearer {await rig.make_account(service, email)}"
        yield client


# One job.


async def test_a_stream_begins_with_the_present_state_and_goes_on_without_a_gap(service):
    job_id = await running_job(service)
    job = await service.job(job_id)
    async with reading(service, of(job_id)) as reader:
        state = await reader.block()
        assert (state["event"], int(state["id"])) == ("status", job["event_id"])
        data = state["data"]
        assert {"job_id", "status", "progress", "stage", "message", "attempt", "images", "error", "at"} == set(
            data
        )
        assert (data["status"], data["progress"], data["stage"]) == ("GENERATING", 60, "generating")
        for percent in (62, 64, 69):
            await tell(service, job_id, percent)
            block = await reader.block()
            assert (block["event"], block["data"]["progress"]) == ("status", percent)
        await cancel(service, job_id)
        last = await reader.block()
        assert last["data"]["status"] == "CANCELED"
        assert await reader.block() is None
    assert int(last["id"]) == (await service.job(job_id))["event_id"]


@pytest.mark.parametrize("query", ["", "?heartbeat=event", "?last_event_id=0", "?last_event_id=x"])
async def test_when_to_come_back_is_told_within_the_first_event(service, query):
    job_id = await running_job(service)
    for path in (of(job_id), "/api/events", f"/api/events?job={job_id}"):
        address = path + (query.replace("?", "&") if "?" in path else query)
        text = b""
        async with service.client.stream("GET", address) as response, asyncio.timeout(10):
            async for chunk in response.aiter_raw():
                text += chunk
                if b"\n\n" in text:
                    break
        first = text.partition(b"\n\n")[0].split(b"\n")
        assert re.fullmatch(rb"retry: [1-4][0-9]{3}", first[0])
        assert first[-1].startswith(b"data: ")


async def test_a_reader_with_nothing_to_catch_up_on_is_told_when_to_come_back_and_no_more(service):
    job_id = await running_job(service)
    job = await service.job(job_id)
    for path in (of(job_id), "/api/events", f"/api/events?job={job_id}"):
        address = f"{path}{'&' if '?' in path else '?'}last_event_id={await head(service)}"
        async with service.client.stream("GET", address) as response, asyncio.timeout(10):
            chunks = response.aiter_raw()
            assert re.fullmatch(rb"retry: [1-4][0-9]{3}\n", await anext(chunks))
    assert (await service.job(job_id))["event_id"] == job["event_id"]


async def test_a_whole_job_is_seen_step_by_step_and_its_pictures_can_be_opened(service):
    started = await service.generate("a kite", numImages=2)
    async with reading(service, of(started["job_id"])) as reader:
        seen = [block["data"] for block in await reader.rest()]
    assert [data["progress"] for data in seen] == sorted(data["progress"] for data in seen)
    assert [data["status"] for data in seen].count("COMPLETED") == 1
    assert seen[-1]["images"] == (await service.job(started["job_id"]))["images"]
    for image in seen[-1]["images"]:
        assert (await service.client.get(image["url"])).status_code == 200


async def test_a_first_connection_to_an_ended_job_gets_its_state_and_the_end(service, done):
    [state] = await whole(service, of(done["job_id"]))
    assert int(state["id"]) == done["event_id"]
    assert state["data"]["status"] == "COMPLETED"
    assert state["data"]["images"] == done["images"]


async def test_what_was_missed_is_replayed_once_each_and_in_order(service, done):
    every = await logged(service, done["job_id"])
    assert len(every) >= 4
    for number, cursor in enumerate(every[:-1], start=1):
        blocks = await whole(service, of(done["job_id"]), cursor=cursor)
        assert ids(blocks) == every[number:]
        assert blocks[-1]["data"]["status"] == "COMPLETED"
        assert blocks[-1]["data"]["images"][0]["url"].startswith("/media/results/")


async def test_a_replay_goes_live_without_losing_or_repeating(service):
    job_id = await running_job(service)
    first = (await logged(service, job_id))[0]

    async def speak():
        for percent in range(61, 70):
            await tell(service, job_id, percent)
        await cancel(service, job_id)

    async def listen():
        async with reading(service, of(job_id), cursor=first) as reader:
            return ids(await reader.rest())

    *heard, _ = await asyncio.gather(*(listen() for _ in range(10)), speak())
    every = await logged(service, job_id)
    assert [one == every[1:] for one in heard] == [True] * 10


async def test_the_cursor_of_the_header_wins(service, done):
    every = await logged(service, done["job_id"])
    blocks = await whole(service, of(done["job_id"]), last_event_id=every[0])
    assert ids(blocks) == every[1:]
    blocks = await whole(service, of(done["job_id"]), cursor=every[-2], last_event_id=every[0])
    assert ids(blocks) == every[-1:]
    blocks = await whole(service, of(done["job_id"]), cursor="x", last_event_id=every[0])
    assert blocks[0] == {"event": "reset", "data": {}}


async def test_the_cursor_that_a_polyfill_keeps_in_the_address_goes_on_from_there(service, done):
    every = await logged(service, done["job_id"])
    newest = {"lastEventId": done["event_id"]}
    answer = await service.client.get(of(done["job_id"]), params=newest)
    assert answer.status_code == 204
    assert ids(await whole(service, of(done["job_id"]), lastEventId=every[1])) == every[2:]
    # The page wrote where it began into the address; the polyfill adds where it is now.
    assert ids(await whole(service, of(done["job_id"]), last_event_id=every[0], lastEventId=every[1])) == every[2:]
    assert ids(await whole(service, of(done["job_id"]), cursor=every[2], lastEventId=every[1])) == every[3:]
    blocks = await whole(service, of(done["job_id"]), lastEventId="x", last_event_id=every[0])
    assert blocks[0] == {"event": "reset", "data": {}}


async def test_an_empty_cursor_is_none(service, done):
    for query in ({"last_event_id": ""}, {"lastEventId": ""}, {"lastEventId": "", "last_event_id": ""}):
        [state] = await whole(service, of(done["job_id"]), **query)
        assert state["data"]["status"] == "COMPLETED"


@pytest.mark.parametrize("cursor", ["x", "-1", "1.0", "1e3", "9" * 18, "9" * 19, "0x1", "\xb2".encode("latin-1")])
async def test_a_cursor_that_leads_nowhere_is_reset(service, done, cursor):
    headers = {"Last-Event-ID": cursor}
    async with service.client.stream("GET", of(done["job_id"]), headers=headers) as response:
        blocks = await Reader(response).rest()
    assert blocks[0] == {"event": "reset", "data": {}}
    assert int(blocks[1]["id"]) == done["event_id"]
    assert blocks[1]["data"]["status"] == "COMPLETED"
    assert len(blocks) == 2


async def test_a_cursor_greater_than_the_newest_is_reset(service):
    job_id = await running_job(service)
    async with reading(service, of(job_id), cursor=await head(service) + 1) as reader:
        assert await reader.block() == {"event": "reset", "data": {}}
        state = await reader.block()
        assert state["data"]["stage"] == "generating"
        await tell(service, job_id, 65)
        assert (await reader.block())["data"]["progress"] == 65


async def test_a_reader_who_has_everything_of_an_ended_job_is_told_not_to_come_back(service, done):
    for cursor in (done["event_id"], await head(service)):
        answer = await service.client.get(of(done["job_id"]), headers={"Last-Event-ID": str(cursor)})
        assert (answer.status_code, answer.content) == (204, b"")
        assert_is_stream(answer)


async def test_after_a_retry_the_same_cursor_replays(service):
    started = await service.generate("[sandbox:fail=501]")
    job_id = started["job_id"]
    failed = await service.ended(job_id)
    answer = await service.client.get(of(job_id), headers={"Last-Event-ID": str(failed["event_id"])})
    assert answer.status_code == 204
    assert (await service.client.post(f"/api/images/{job_id}/retry")).status_code == 202
    blocks = await whole(service, of(job_id), cursor=failed["event_id"])
    assert {block["data"]["attempt"] for block in blocks} == {2}
    assert (blocks[0]["data"]["stage"], blocks[-1]["data"]["status"]) == ("queued", "FAILED")
    every = await logged(service, job_id)
    assert ids(blocks) == [number for number in every if number > failed["event_id"]]
    # From before the first end, both attempts are seen: the first failure is not the end of the stream.
    assert ids(await whole(service, of(job_id), cursor=every[0])) == every[1:]


async def test_a_deleted_picture_ends_its_stream(service):
    job = await service.upload()
    async with reading(service, of(job["job_id"])) as reader:
        assert (await reader.block())["data"]["stage"] == "uploaded"
        assert (await service.client.delete(f"/api/images/{job['job_id']}")).status_code == 204
        last = await reader.block()
        assert (last["event"], last["data"]) == ("deleted", {"job_id": job["job_id"]})
        assert await reader.block() is None
    assert (await service.client.get(of(job["job_id"]))).status_code == 404


async def test_a_deleted_job_that_ran_tells_its_stream_that_it_is_gone(service):
    job_id = await running_job(service)
    async with reading(service, of(job_id)) as reader:
        await reader.block()
        assert (await service.client.delete(f"/api/images/{job_id}")).status_code == 204
        blocks = await reader.rest()
    assert blocks
    assert (blocks[-1]["event"], blocks[-1]["data"]) == ("deleted", {"job_id": job_id})


async def test_head_gives_the_headers_alone(service, done):
    before = len(service.parts.hub)
    job_id = await running_job(service)
    for path in (of(done["job_id"]), of(job_id), "/api/events"):
        answer = await service.client.head(path)
        assert (answer.status_code, answer.content) == (200, b"")
        assert_is_stream(answer)
        assert "content-length" not in answer.headers
    assert len(service.parts.hub) == before


async def test_only_real_denials_are_told_by_status(service):
    for path, status in ((of(NOBODY), 404), (of("🍌"), 404), (f"/api/events?job={NOBODY}", 404)):
        assert (await service.client.get(path)).status_code == status
    async with httpx.AsyncClient(base_url=service.base, trust_env=False) as client:
        for path in (of(NOBODY), "/api/events"):
            assert (await client.get(path)).status_code == 401


# All of a person's jobs.


async def test_all_jobs_begin_with_the_newest_id_and_new_ones_join(service):
    async with (
        person(service, "all@example.org") as client,
        reading(service, "/api/events", client=client) as reader,
    ):
        assert await reader.block() == {"event": "ready", "data": {}, "id": str(await head(service))}
        await running_job(service)
        mine = await running_job(service, client=client)
        blocks = await reader.until(job_id=mine, stage="generating")
        assert {block["data"]["job_id"] for block in blocks} == {mine}
        assert ids(blocks) == await logged(service, mine)
        # It does not end with a job.
        await client.post(f"/api/images/{mine}/cancel")
        await reader.until(job_id=mine, status="CANCELED")
        next_one = await running_job(service, client=client)
        await reader.until(job_id=next_one, stage="generating")
        deleted = await client.delete(f"/api/images/{next_one}")
        assert deleted.status_code == 204
        blocks = await reader.until(job_id=next_one)
        while blocks[-1]["event"] != "deleted":
            blocks += await reader.until(job_id=next_one)


async def test_an_upload_appears_on_the_stream_of_all(service):
    async with (
        person(service, "up@example.org") as client,
        reading(service, "/api/events", client=client) as reader,
    ):
        await reader.block()
        answer = await client.post("/api/images", files={"file": ("x.png", rig.picture())})
        [block] = await reader.until(job_id=answer.json()["job_id"])
        assert block["data"]["stage"] == "uploaded"
        assert int(block["id"]) == answer.json()["event_id"]


async def test_answers_carry_a_cursor_to_start_from(service):
    async with person(service, "from@example.org") as client:
        started = (await client.post("/api/generate-image", json={"prompt": "a kite"})).json()
        async with reading(service, "/api/events", client=client, cursor=started["event_id"]) as reader:
            blocks = await reader.until(job_id=started["job_id"], status="COMPLETED")
        assert ids(blocks) == (await logged(service, started["job_id"]))[1:]


async def test_of_more_than_a_thousand_missed_events_none_is_replayed(service):
    async with person(service, "away@example.org") as client:
        job_id = await running_job(service, client=client)
        row = await service.parts.database.read(
            lambda tx: tx.one("SELECT owner_id, last_event_id FROM jobs WHERE id = :id", {"id": job_id})
        )

        async def write(tx, number):
            for _ in range(number):
                event_id = await events.append(
                    tx,
                    owner_id=row["owner_id"],
                    job_id=job_id,
                    name="status",
                    is_last=False,
                    payload=orjson.dumps({"job_id": job_id}).decode(),
                    now_us=0,
                )
            await tx.run("UPDATE jobs SET last_event_id = ? WHERE id = ?", (event_id, job_id))

        await service.parts.database.write(lambda tx: write(tx, hub.MOST_MISSED))
        async with reading(service, "/api/events", client=client, cursor=row["last_event_id"]) as reader:
            missed = [await reader.block() for _ in range(hub.MOST_MISSED)]
        assert ids(missed) == [number for number in await logged(service, job_id) if number > row["last_event_id"]]
        await service.parts.database.write(lambda tx: write(tx, 1))
        async with reading(service, "/api/events", client=client, cursor=row["last_event_id"]) as reader:
            newest = str(await head(service))
            assert await reader.block() == {"event": "reset", "data": {}}
            assert await reader.block() == {"event": "ready", "data": {}, "id": newest}
        async with reading(
            service, "/api/events", client=client, cursor=row["last_event_id"], job=[job_id]
        ) as reader:
            assert await reader.block() == {"event": "reset", "data": {}}
            state = await reader.block()
            assert (state["id"], state["data"]["stage"]) == (newest, "generating")
            await client.post(f"/api/images/{job_id}/cancel")
            assert (await reader.block())["data"]["status"] == "CANCELED"


# Some of a person's jobs.


async def test_named_jobs_come_first_with_one_id_at_the_last(service, done):
    first, second = await running_job(service), await running_job(service)
    named = [second, done["job_id"], first, second]
    newest = await head(service)
    async with reading(service, "/api/events", job=named) as reader:
        states = [await reader.block() for _ in range(3)]
        assert [state["data"]["job_id"] for state in states] == [second, done["job_id"], first]
        assert ["id" in state for state in states] == [False, False, True]
        assert int(states[-1]["id"]) >= newest
        await running_job(service)  # not one of them
        await cancel(service, first)
        block = await reader.block()
        assert (block["data"]["job_id"], block["data"]["status"]) == (first, "CANCELED")
        await tell(service, second, 61)
        await cancel(service, second)
        rest = await reader.rest()
    assert [block["data"]["job_id"] for block in rest] == [second, second]


async def test_a_stream_of_named_jobs_ends_when_all_of_them_have(service, done):
    [state] = await whole(service, "/api/events", job=[done["job_id"]])
    assert state["data"]["status"] == "COMPLETED"
    job_id = await running_job(service)
    cursor = await head(service)
    for start in (None, cursor):
        # One of them had ended before the stream began.
        async with reading(service, "/api/events", job=[job_id, done["job_id"]], cursor=start) as reader:
            if start is None:
                await reader.block()
                await reader.block()
                await tell(service, job_id, 66)
                await reader.until(progress=66)
            else:
                await cancel(service, job_id)
                assert [block["data"]["status"] for block in (await reader.rest())[-1:]] == ["CANCELED"]
    query = {"job": [job_id, done["job_id"]]}
    answer = await service.client.get(
        "/api/events", params=query, headers={"Last-Event-ID": str(await head(service))}
    )
    assert answer.status_code == 204


async def test_a_named_job_that_is_retried_meanwhile_keeps_its_stream_open(service):
    other, job_id = await running_job(service), await running_job(service)
    async with reading(service, "/api/events", job=[other, job_id]) as reader:
        await reader.block()
        await reader.block()
        await cancel(service, job_id)
        await reader.until(job_id=job_id, status="CANCELED")
        assert (await service.client.post(f"/api/images/{job_id}/retry")).status_code == 202
        await reader.until(job_id=job_id, attempt=2)
        await cancel(service, other)
        await reader.until(job_id=other, status="CANCELED")
        await cancel(service, job_id)
        rest = await reader.rest()
    assert rest[-1]["data"]["status"] == "CANCELED"


async def test_a_hundred_jobs_may_be_named_and_no_more(service, done):
    query = {"job": [done["job_id"]] * 100}
    async with service.client.stream("GET", "/api/events", params=query) as response:
        assert response.status_code == 200
    answer = await service.client.get("/api/events", params={"job": [f"{n}" for n in range(101)]})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid")
    assert [line["field"] for line in answer.json()["errors"]] == ["job"]


# Who may have how many, and who waits for whom.


async def test_over_the_cap_of_a_person_a_stream_is_told_to_come_later(tmp_path_factory):
    async with rig.running(tmp_path_factory.mktemp("cap"), streams_per_user=2) as service:
        job = await service.upload()
        async with reading(service, "/api/events"), reading(service, of(job["job_id"])) as second:
            await second.block()
            await live.until(lambda: len(service.parts.hub) == 2)
            for path in ("/api/events", of(job["job_id"])):
                assert await put_off(service, path)
            other = person(service, "other@example.org")
            async with other as client, reading(service, "/api/events", client=client) as reader:
                assert (await reader.block())["event"] == "ready"
        await live.until(lambda: len(service.parts.hub) == 0)
        async with reading(service, "/api/events") as reader:
            assert (await reader.block())["event"] == "ready"


async def test_the_cap_holds_for_streams_that_come_at_once(tmp_path_factory):
    async with rig.running(tmp_path_factory.mktemp("race"), streams_per_user=3) as service:
        job = await service.upload()
        over = asyncio.Event()
        begun = []

        async def connect():
            async with reading(service, of(job["job_id"])) as reader:
                state = await reader.block()
                begun.append(state)
                await over.wait()
                return state is not None

        async with readers_held(service.parts.database) as held:
            tasks = [asyncio.create_task(connect()) for _ in range(20)]
            # All of them now wait for the same thing: who is asking.
            await live.until(lambda: len(held._readers[Lane.SIGN_IN]._getters) == 20)
        await live.until(lambda: len(begun) == 20)
        most = len(service.parts.hub)
        over.set()
        assert (await asyncio.gather(*tasks)).count(True) == 3
        assert most == 3


@contextlib.asynccontextmanager
async def readers_held(base):
    """Hold every connection by which it is known who is asking."""
    readers = base._readers[Lane.SIGN_IN]
    held = [await readers.get() for _ in range(database.CONNECTIONS[Lane.SIGN_IN])]
    try:
        yield base
    finally:
        for reader in held:
            readers.put_nowait(reader)


@pytest.mark.parametrize("who", ["by key", "by token", "as a stranger"])
async def test_while_the_database_is_away_a_stream_is_put_off(tmp_path, who):
    async with rig.running(tmp_path) as service:
        job = await service.upload()
        made = (await service.client.post("/api/events/token", json={"job_id": job["job_id"]})).json()
        path = made["url"] if who == "by token" else of(job["job_id"])
        sent = {
            "by key": {"Authorization": service.client.headers["authorization"]},
            "by token": {},
            "as a stranger": {"Authorization": f"Bearer nh_{'x' * 43}"},
        }
        async with httpx.AsyncClient(
            base_url=service.base, headers=sent[who], trust_env=False, timeout=20
        ) as client:
            with no_tables(tmp_path):
                assert await put_off(service, path, client=client)
            if who == "as a stranger":
                assert (await client.get(path)).status_code == 401
            else:
                async with reading(service, path, client=client) as reader:
                    assert (await reader.block())["data"]["stage"] == "uploaded"


@contextlib.contextmanager
def no_tables(data_dir):
    """Let everything that asks for people or jobs fail as a damaged or locked file does."""
    with contextlib.closing(sqlite3.connect(data_dir / "nanohook.db", isolation_level=None)) as other:
        for name in ("users", "jobs"):
            other.execute(f"ALTER TABLE {name} RENAME TO {name}_away")
        yield
        for name in ("users", "jobs"):
            other.execute(f"ALTER TABLE {name}_away RENAME TO {name}")


async def test_streams_are_counted_against_no_limit_of_requests(tmp_path):
    limits = {"rate_status": "1/minute", "rate_write": "1/minute", "rate_upload": "1/minute"}
    async with rig.running(tmp_path, **limits) as service:
        job_id = (await service.upload())["job_id"]
        for _ in range(20):
            async with reading(service, of(job_id)) as reader:
                assert (await reader.block())["data"]["stage"] == "uploaded"
            async with reading(service, "/api/events") as reader:
                assert (await reader.block())["event"] == "ready"
        assert not any("events" in route and rate for (route, rate) in service.parts.rates.counts)


# Who is shut out.


@contextlib.asynccontextmanager
async def open_streams(service, client, job_id):
    """Read a job, all jobs and some jobs, live; yields the readers."""
    async with contextlib.AsyncExitStack() as stack:
        readers = []
        for path in (of(job_id), "/api/events", f"/api/events?job={job_id}"):
            response = await stack.enter_async_context(client.stream("GET", path))
            readers.append(Reader(response))
            await readers[-1].block()
        await live.until(lambda: [stream.is_live for stream in streams(service)].count(True) >= 3)
        yield readers


OF_BOB = "owner_id = (SELECT id FROM users WHERE email = 'bob@example.org')"


async def assert_sent_away(readers):
    for reader in readers:
        assert await reader.rest() == []
        assert len(reader.retries) == 2


@pytest.mark.parametrize("how", ["disabled", "deleted", "key revoked"])
async def test_the_streams_of_who_is_shut_out_end_whoever_did_it(tmp_path, how):
    async with rig.running(tmp_path) as service:
        job_id = await running_job(service)
        async with person(service, "bob@example.org") as bob:
            his = await running_job(service, client=bob)
            async with (
                open_streams(service, bob, his) as lost,
                reading(service, of(job_id)) as stays,
            ):
                await stays.block()
                if how == "disabled":
                    # As the command does it, in another process.
                    chosen = settings.fixed(data_dir=tmp_path)
                    await people.disable(chosen, email="bob@example.org", is_disabled=True)
                elif how == "deleted":
                    delete_person(tmp_path, "bob@example.org")
                else:
                    change(tmp_path, f"UPDATE api_keys SET revoked_at = 1 WHERE {OF_BOB}")
                await assert_sent_away(lost)
                await tell(service, job_id, 61)
                assert (await stays.block())["data"]["progress"] == 61
            assert (await bob.get("/api/events")).status_code == 401
        await live.until(lambda: not streams(service))


def change(data_dir, script):
    """Change the database from outside."""
    with contextlib.closing(sqlite3.connect(data_dir / "nanohook.db", timeout=10)) as other:
        other.executescript(script)


def delete_person(data_dir, email):
    """Delete a person with all that is theirs, from outside."""
    with contextlib.closing(sqlite3.connect(data_dir / "nanohook.db", timeout=10)) as other, other:
        [(user_id,)] = other.execute("SELECT id FROM users WHERE email = ?", (email,))
        tables = [name for (name,) in other.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for name in tables:
            if "owner_id" in {column[1] for column in other.execute(f"PRAGMA table_info({name})")}:
                other.execute(f"DELETE FROM {name} WHERE owner_id = ?", (user_id,))
        other.execute("DELETE FROM users WHERE id = ?", (user_id,))


async def test_a_disabled_reader_of_somebody_elses_job_is_sent_away(tmp_path):
    async with rig.running(tmp_path) as service:
        job_id = await running_job(service)
        key = await rig.make_account(service, "root@example.org", is_admin=True)
        headers = {"Authorization": f"Bearer {key}"}
        async with (
            httpx.AsyncClient(base_url=service.base, headers=headers, trust_env=False, timeout=20) as admin,
            open_streams(service, admin, job_id) as lost,
            reading(service, of(job_id)) as stays,
        ):
            await stays.block()
            await people.disable(settings.fixed(data_dir=tmp_path), email="root@example.org", is_disabled=True)
            await assert_sent_away(lost)
            await cancel(service, job_id)
            assert (await stays.block())["data"]["status"] == "CANCELED"


async def test_a_stream_of_a_session_ends_with_it(tmp_path):
    async with rig.running(tmp_path) as service:
        job_id = await running_job(service)
        found = await service.parts.database.read(lambda tx: accounts.account(tx, "ada@example.org"))
        now = clock.now_us()

        session_id = await service.parts.database.write(
            lambda tx: flow.sign_in(tx, found.person.id, browser=flow.Browser(), now_us=now)
        )
        cookie = service.parts.tokens.sign_purpose(credentials.SESSION, session_id, int(time.time()) + 60)
        headers = {"Cookie": f"{service.cookie}={cookie}", "Origin": service.base}
        async with (
            httpx.AsyncClient(base_url=service.base, headers=headers, trust_env=False, timeout=20) as page,
            open_streams(service, page, job_id) as lost,
            reading(service, of(job_id)) as stays,
        ):
            await stays.block()
            assert (await page.post("/api/auth/logout")).status_code == 204
            await assert_sent_away(lost)
            await tell(service, job_id, 61)
            assert (await stays.block())["data"]["progress"] == 61


@pytest.mark.parametrize("sql", ["UPDATE users SET disabled_at = 1", "UPDATE api_keys SET revoked_at = 1"])
async def test_a_stream_by_token_ends_with_its_person_and_with_the_key_that_made_it(tmp_path, sql):
    async with rig.running(tmp_path) as service:
        path = (await service.client.post("/api/events/token", json={})).json()["url"]
        async with httpx.AsyncClient(base_url=service.base, trust_env=False, timeout=20) as client:
            async with reading(service, path, client=client) as reader:
                await reader.block()
                change(tmp_path, sql)
                assert await reader.rest() == []
            assert (await client.get(path)).status_code == 401


async def test_nobody_is_asked_after_while_no_stream_is_open(tmp_path):
    asked = []

    async with rig.running(tmp_path) as service:
        job_id = await running_job(service)
        await live.until(lambda: not streams(service))
        real = service.parts.hub._revoked

        async def count(used):
            asked.append(len(used))
            return await real(used)

        service.parts.hub._revoked = count
        async with reading(service, of(job_id)), reading(service, of(job_id)), reading(service, "/api/events"):
            await live.until(lambda: 1 in asked)
        await live.until(lambda: not streams(service))
        before = len(asked)
        await asyncio.sleep(3 * hub.CREDENTIALS_EVERY_S)
        assert len(asked) <= before + 1
        assert set(asked) == {1}, "one credential, however many streams"


async def test_a_reader_who_leaves_is_forgotten(service):
    before = len(service.parts.hub)
    job_id = await running_job(service)
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(20):
            reader = await stack.enter_async_context(reading(service, of(job_id)))
            await reader.block()
        await live.until(lambda: len(service.parts.hub) == before + 20)
    await live.until(lambda: len(service.parts.hub) == before)
    await tell(service, job_id, 61)


async def test_at_shutdown_streams_are_told_to_come_back_and_end(tmp_path_factory):
    address = httpx.URL("http://unset")
    async with contextlib.AsyncExitStack() as stack:
        client = await stack.enter_async_context(httpx.AsyncClient(trust_env=False, timeout=20))
        readers = []
        async with rig.running(tmp_path_factory.mktemp("down")) as service:
            address = httpx.URL(service.base)
            job = await service.upload()
            for path in ("/api/events", of(job["job_id"])):
                response = await stack.enter_async_context(
                    client.stream("GET", address.join(path), headers=service.client.headers)
                )
                readers.append(Reader(response))
                await readers[-1].block()
            await live.until(lambda: all(stream.is_live for stream in streams(service)))
            await service.service.state.running.drain()
            # Those who come now are told the same.
            for path in ("/api/events", of(job["job_id"])):
                assert await put_off(service, path)
        for reader in readers:
            assert await reader.rest() == []
            assert len(reader.retries) == 2


def streams(service):
    """Every stream that the hub holds."""
    return [stream for slot in service.parts.hub._slots for stream in slot]


READER_BYTES = 256 * 1024
SO_MEMINFO = 55
"""``<asm-generic/socket.h>``; what ``ss --memory`` shows."""


def cost_bytes(stream):
    """
    What a reader costs: in the server's buffer, and in the kernel's with all of its bookkeeping.

    The piece that its task holds while it waits to send comes on top.
    """
    send = stream.send
    while not hasattr(send, "__self__"):  # a wrapper around the server's own
        send = next(cell.cell_contents for cell in send.__closure__ if callable(cell.cell_contents))
    transport = send.__self__._wire._transport
    raw = transport.get_extra_info("socket")
    # struct sock's rmem_alloc, rcvbuf, wmem_alloc, sndbuf, fwd_alloc, wmem_queued, …
    kernel = struct.unpack("9I", raw.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 36))
    received, sent, most_sent, ahead, queued = kernel[0], kernel[2], kernel[3], kernel[4], kernel[5]
    assert most_sent == 2 * sockets.STREAM_SEND_BUFFER_BYTES
    return transport.get_write_buffer_size() + received + max(sent, queued) + ahead


async def test_a_reader_who_never_reads_costs_nobody_else_anything(tmp_path_factory):
    async with rig.running(tmp_path_factory.mktemp("slow")) as service:
        job_id = await running_job(service)
        await live.until(lambda: not streams(service))
        host, port = service.base.removeprefix("http://").split(":")
        with socket.socket() as deaf:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            deaf.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(deaf, (host, int(port)))
            request = (
                f"GET /api/events HTTP/1.1\r\nHost: {host}\r\n"
                f"Authorization: {service.client.headers['authorization']}\r\n\r\n"
            )
            await loop.sock_sendall(deaf, request.encode())
            await live.until(lambda: streams(service))
            [stalled] = streams(service)
            async with reading(service, of(job_id)) as one, reading(service, "/api/events") as all_:
                await one.block()
                await all_.block()
                most = 0
                for _ in range(20):
                    await log_events(service, job_id, 100, size=400)
                    for reader in (one, all_):
                        assert [(await reader.block())["data"]["n"] for _ in range(100)] == list(range(100))
                    most = max(most, cost_bytes(stalled))
                assert 0 < most + sse.PIECE_BYTES <= READER_BYTES
                # A megabyte of events went by; the stalled one is behind, and still there.
                assert not stalled.is_live
                await cancel(service, job_id)
                assert (await one.rest())[-1]["data"]["status"] == "CANCELED"
            # Once it reads again, it gets what it missed, or is told to start anew: no event is torn.
            reader, writer = await asyncio.open_connection(sock=deaf)
            text = b""
            async with asyncio.timeout(10):
                while b'"CANCELED"' not in text and b"event: reset" not in text:
                    text += await reader.read(65_536)
            seen = [int(number) for number in re.findall(rb"\nid: (\d+)\n", text)]
            assert seen == sorted(set(seen))
            writer.close()


@contextlib.contextmanager
def deaf_readers(service, number, paths):
    """Connect, ask, and never read."""
    url = httpx.URL(service.base)
    with contextlib.ExitStack() as stack:
        for index in range(number):
            deaf = stack.enter_context(socket.socket())
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            deaf.connect((url.host, url.port))
            deaf.sendall(
                f"GET {paths[index % len(paths)]} HTTP/1.1\r\nHost: {url.host}\r\n"
                f"Authorization: {service.client.headers['authorization']}\r\n\r\n".encode()
            )
        yield


async def test_many_readers_who_never_read_cost_a_bounded_sum(tmp_path):
    number = 200
    async with rig.running(tmp_path, streams_per_user=1_000) as service:
        job_id = await running_job(service)
        await live.until(lambda: not streams(service))
        start = await head(service)
        paths = ["/api/events", of(job_id), f"/api/events?job={job_id}", f"/api/events?last_event_id={start}"]
        with deaf_readers(service, number, paths):
            await live.until(lambda: len(streams(service)) == number)
            before = resident_bytes()
            async with reading(service, of(job_id)) as heard:
                await heard.block()
                for _ in range(20):
                    await log_events(service, job_id, 100, size=1_000)
                    assert [(await heard.block())["data"]["n"] for _ in range(100)] == list(range(100))
            # 2 MB went by each of them.
            costs = [cost_bytes(stream) for stream in streams(service)]
            assert len(costs) >= number
            assert max(costs) + sse.PIECE_BYTES <= READER_BYTES
            # What the process itself holds, of all of them, without the kernel's part.
            assert resident_bytes() - before < number * READER_BYTES
            await cancel(service, job_id)
        await live.until(lambda: not streams(service))


def resident_bytes():
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


async def test_of_a_long_beginning_nothing_is_held_that_was_sent():
    blocks = [bytes([number]) * 10_000 for number in range(100)]
    tracemalloc.start()
    try:
        made = web_streams._pieces(blocks)
        most = sum(len(piece) for piece in made)
        assert most == 1_000_000
        # Blocks were made before it looked: all it sees is what the pieces take.
        assert tracemalloc.get_traced_memory()[1] < 3 * sse.PIECE_BYTES
    finally:
        tracemalloc.stop()
    assert blocks == []


async def test_a_quiet_stream_is_kept_awake(service):
    """Each stream has its second of the heartbeat's round: of many, the first is soon heard."""
    job_id = await running_job(service)

    async def listen(response):
        async for line in response.aiter_lines():
            if line.startswith(":"):
                return line
        raise AssertionError("the stream ended")

    async with contextlib.AsyncExitStack() as stack:
        tasks = []
        for _ in range(45):
            response = await stack.enter_async_context(service.client.stream("GET", of(job_id)))
            tasks.append(asyncio.create_task(listen(response)))
        heard, _ = await asyncio.wait(tasks, timeout=hub.HEARTBEAT_S + 1, return_when=asyncio.FIRST_COMPLETED)
        assert {task.result() for task in heard} == {":"}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_many_readers_of_one_job_all_see_its_end(service):
    job_id = await running_job(service)

    async def listen():
        async with reading(service, of(job_id)) as reader:
            opened.append(await reader.block())
            return (await reader.rest())[-1]["data"]["status"]

    opened = []
    tasks = [asyncio.create_task(listen()) for _ in range(60)]
    await live.until(lambda: len(opened) == 60)
    await cancel(service, job_id)
    assert await asyncio.gather(*tasks) == ["CANCELED"] * 60


async def test_who_asks_for_it_is_sent_a_heartbeat_that_script_can_see(service):
    job_id = await running_job(service)
    for path in (of(job_id), "/api/events", f"/api/events?job={job_id}"):
        address = f"{path}{'&' if '?' in path else '?'}heartbeat=event"
        async with service.client.stream("GET", address, timeout=hub.HEARTBEAT_S + 5) as response:
            found, beats = [], 0
            async for line in response.aiter_lines():
                found.append(line)
                assert not line.startswith(":")
                beats += line == "event: heartbeat"
                # The first at once: a stream that is held back on its way is known by its silence.
                if beats == (2 if path == "/api/events" else 1):
                    break


async def test_one_who_looks_while_everybody_waits_is_told_why(tmp_path):
    async with rig.running(tmp_path) as service:
        await service.parts.database.write(lambda tx: gate.pause(tx, actor="a test", now_us=clock.now_us()))
        job_id = (await service.generate("a kite"))["job_id"]
        async with reading(service, of(job_id)) as reader:
            told = (await reader.until(stage="queued"))[-1]["data"]
        said = "Waiting: the operator has paused the work"
        assert (told["stage"], told["message"]) == ("queued", said)
        status = (await service.client.get(f"/api/images/{job_id}/status")).json()
        assert (status["message"], status["place"]) == (said, 1)
        assert (await service.job(job_id))["message"] == said
