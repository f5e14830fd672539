"""What happened to a job; taking a deletion back; and what is swept up when nobody can any more."""

import asyncio
import contextlib
import dataclasses

import httpx
import orjson
import pytest
import pytest_asyncio

from nanohook import clock
from nanohook.flow.cancel import RESTORE_US
from nanohook.work import sweep
from nanohook.work.sweep import Sweeper
from tests import books, live, rig
from tests.process import post_mortem

pytestmark = pytest.mark.asyncio(loop_scope="module")

RUNNING = "[sandbox:latency=60]"
NOBODY = "0192a4b0-0000-7000-8000-000000000000"
MINUTE = 60_000_000


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(tmp_path_factory):
    folder = tmp_path_factory.mktemp("history")
    async with rig.running(folder) as running:
        yield running
        books.check(folder)


@contextlib.asynccontextmanager
async def somebody(service, **more):
    key = await rig.make_account(service, f"p{clock.now_us()}@example.org", **more)
    headers = {"Authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(base_url=service.base, headers=headers, trust_env=False, timeout=20) as client:
        yield dataclasses.replace(service, client=client)


def rows(service, sql, *values):
    return books.rows(service.parts.settings.data_dir, sql, *values)


def refused(answer, status, code):
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text


async def history(one, job_id, **query):
    return (await one.client.get(f"/api/images/{job_id}/history", params=query)).raise_for_status().json()


async def delete(one, job_id):
    assert (await one.client.delete(f"/api/images/{job_id}")).status_code == 204


async def restore(one, job_id):
    return await one.client.post(f"/api/images/{job_id}/restore")


# What happened.


async def test_a_job_tells_its_whole_story_in_order(service):
    job = await service.upload(rig.picture(64, 48))
    job_id = job["job_id"]
    await service.generate("[sandbox:fail=501] x", imageId=job_id)
    await service.ended(job_id)
    rows(service, "UPDATE jobs SET prompt = 'x' WHERE id = ?", job_id)
    await service.client.post(f"/api/images/{job_id}/retry")
    ended = await service.ended(job_id)
    assert ended["status"] == "COMPLETED"

    told = await history(service, job_id)
    assert (told["job_id"], told["next_cursor"]) == (job_id, None)
    assert [(one["number"], one["status"], one["error_code"]) for one in told["attempts"]] == [
        (1, "FAILED", "upstream_failed"),
        (2, "COMPLETED", None),
    ]
    assert all(one["created_at"] <= one["ended_at"] for one in told["attempts"])
    events = told["events"]
    ids = [event["id"] for event in events]
    assert ids == sorted(set(ids))
    assert (ids[0], ids[-1]) == (job["event_id"], ended["event_id"])
    assert {event["name"] for event in events} == {"status"}
    for attempt in (0, 1, 2):
        mine = [event["progress"] for event in events if event["attempt"] == attempt]
        assert mine == sorted(mine)
        assert mine
    last = events[-1]
    assert {name: last[name] for name in ("status", "stage", "progress", "message")} == {
        name: ended[name] for name in ("status", "stage", "progress", "message")
    }
    # Its pictures can be opened, however old the event is.
    assert last["images"] == ended["images"]
    assert (await service.client.get(last["images"][0]["thumbnail_url"])).status_code == 200
    assert [event["images"] for event in events[:-1]] == [[]] * (len(events) - 1)


async def test_a_long_story_is_told_in_pages(service):
    job_id = (await service.generate())["job_id"]
    await service.ended(job_id)
    whole = (await history(service, job_id))["events"]
    for limit in (1, 2, len(whole) - 1, len(whole), len(whole) + 1):
        seen, query = [], {"limit": limit}
        while True:
            page = await history(service, job_id, **query)
            seen += page["events"]
            assert len(page["attempts"]) == 1
            if page["next_cursor"] is None:
                break
            assert len(page["events"]) == limit
            query["cursor"] = page["next_cursor"]
        assert seen == whole
    for query in ({"cursor": "x"}, {"cursor": "-1"}, {"cursor": "9" * 19}, {"limit": "201"}):
        refused(await service.client.get(f"/api/images/{job_id}/history", params=query), 422, "invalid")


async def test_an_uploaded_picture_has_a_short_story(service):
    job = await service.upload()
    told = await history(service, job["job_id"])
    assert told["attempts"] == []
    assert [(event["id"], event["stage"]) for event in told["events"]] == [(job["event_id"], "uploaded")]


async def test_anothers_story_is_as_unknown_as_none(service):
    job_id = (await service.upload())["job_id"]
    async with somebody(service) as stranger, somebody(service, is_admin=True) as admin:
        for name in (job_id, NOBODY):
            refused(await stranger.client.get(f"/api/images/{name}/history"), 404, "not_found")
            refused(await restore(stranger, name), 404, "not_found")
        assert await history(admin, job_id) == await history(service, job_id)
    await delete(service, job_id)
    refused(await service.client.get(f"/api/images/{job_id}/history"), 404, "not_found")


# Deleted and had back.


async def test_a_deletion_can_be_taken_back(service):
    job = await service.upload(rig.picture(64, 48))
    await service.generate(imageId=job["job_id"])
    ended = await service.ended(job["job_id"])
    await delete(service, job["job_id"])
    answer = await restore(service, job["job_id"])
    assert answer.status_code == 200
    restored = answer.json()
    changed = {"event_id", "updated_at"}
    assert {name: value for name, value in restored.items() if name not in changed} == {
        name: value for name, value in ended.items() if name not in changed
    }
    assert restored["event_id"] > ended["event_id"]
    assert await service.job(job["job_id"]) == restored
    for url in (restored["images"][0]["url"], restored["original"]["url"]):
        assert (await service.client.get(url)).status_code == 200
    told = (await history(service, job["job_id"]))["events"]
    assert [event["name"] for event in told[-3:]] == ["status", "deleted", "status"]
    assert told[-1]["images"] == ended["images"]
    # It is there: taking the deletion back once more changes nothing.
    again = await restore(service, job["job_id"])
    assert (again.status_code, again.json()) == (200, restored)
    assert (await history(service, job["job_id"]))["events"] == told


async def test_what_ran_stays_canceled_and_can_be_retried(service):
    async with somebody(service) as one:
        job_id = (await one.generate(RUNNING))["job_id"]
        await live.until(lambda: rows(one, "SELECT 1 FROM tasks WHERE job_id = ? AND task_id IS NOT NULL", job_id))
        await delete(one, job_id)
        restored = (await restore(one, job_id)).json()
        assert (restored["status"], restored["credits"]) == ("CANCELED", 4)
        answer = await one.client.post(f"/api/images/{job_id}/retry")
        assert (answer.status_code, answer.json()["credits"]) == (202, 4)


async def test_a_day_later_it_is_too_late(service):
    job_id = (await service.upload())["job_id"]
    await delete(service, job_id)
    rows(service, "UPDATE jobs SET deleted_at = ? WHERE id = ?", clock.now_us() - RESTORE_US + MINUTE, job_id)
    assert (await restore(service, job_id)).status_code == 200
    await delete(service, job_id)
    rows(service, "UPDATE jobs SET deleted_at = ? WHERE id = ?", clock.now_us() - RESTORE_US, job_id)
    refused(await restore(service, job_id), 404, "not_found")


async def test_streams_of_everything_see_it_go_and_come_back(service):
    async with somebody(service) as one:
        job = await one.upload()
        seen = []

        async def read():
            async with one.client.stream("GET", "/api/events", timeout=20) as stream:
                name = None
                async for line in stream.aiter_lines():
                    if line.startswith("id:"):
                        ready.set()
                    if line.startswith("event:"):
                        name = line.removeprefix("event: ")
                    if line.startswith("data:") and name != "ready":
                        seen.append((name, orjson.loads(line[5:])))
                        if len(seen) == 2:
                            return

        ready = asyncio.Event()
        reading = asyncio.create_task(read())
        await ready.wait()
        await delete(one, job["job_id"])
        await restore(one, job["job_id"])
        await asyncio.wait_for(reading, 10)
        assert seen[0] == ("deleted", {"job_id": job["job_id"]})
        name, state = seen[1]
        assert (name, state["job_id"], state["stage"]) == ("status", job["job_id"], "uploaded")


async def test_deleting_twice_and_restoring_at_once_agree(service):
    job_id = (await service.upload())["job_id"]
    for _ in range(3):
        answers = await asyncio.gather(
            *(service.client.delete(f"/api/images/{job_id}") for _ in range(3)),
            *(restore(service, job_id) for _ in range(3)),
        )
        assert {answer.status_code for answer in answers} <= {200, 204, 404}
        books.check(service.parts.settings.data_dir)
        assert (await restore(service, job_id)).status_code == 200


# Swept up.


@pytest_asyncio.fixture(loop_scope="module")
async def swept(tmp_path):
    """A service of its own, with a sweeper whose time is the test's."""
    async with rig.running(tmp_path) as running:
        sweeper = Sweeper(running.parts.database, running.parts.storage)

        async def at(after_us):
            await sweeper.sweep(now_us=clock.now_us() + after_us)

        yield running, at
    books.check(tmp_path)


def files(service):
    return post_mortem.files(service.parts.settings.data_dir)


def named(service):
    return post_mortem.named_files(service.parts.settings.data_dir)


async def test_after_a_day_files_and_words_are_gone_and_not_before(swept):
    service, sweep_at = swept
    job = await service.upload(rig.picture(64, 48))
    await service.generate("a secret", imageId=job["job_id"], numImages=2)
    await service.ended(job["job_id"])
    kept = (await service.generate("another"))["job_id"]
    await service.ended(kept)
    before = files(service)
    assert len(before) == 8
    await sweep_at(10 * RESTORE_US)
    assert files(service) == before

    await delete(service, job["job_id"])
    await sweep_at(RESTORE_US)
    assert files(service) == before
    await sweep_at(RESTORE_US + 2 * MINUTE)
    assert files(service) == named(service)
    assert len(files(service)) == 2
    [gone] = rows(service, "SELECT * FROM jobs WHERE id = ?", job["job_id"])
    assert (gone["prompt"], gone["original_id"], gone["purged_at"] is None) == (None, None, False)
    assert rows(service, "SELECT 1 FROM originals") == []
    assert len(rows(service, "SELECT 1 FROM ledger WHERE job_id = ?", job["job_id"])) == 4
    assert rows(service, "SELECT 1 FROM deliveries WHERE job_id = ?", job["job_id"])
    refused(await restore(service, job["job_id"]), 404, "not_found")
    assert (await service.job(kept))["status"] == "COMPLETED"
    database = service.parts.settings.data_dir / "nanohook.db"
    assert b"a secret" not in b"".join(part.read_bytes() for part in database.parent.glob("nanohook.db"))


async def test_an_original_goes_with_its_last_job(swept):
    service, sweep_at = swept
    first = (await service.upload(rig.picture(64, 48)))["job_id"]
    await service.generate(imageId=first)
    await service.ended(first)
    second = (await service.generate(imageId=first))["job_id"]
    await service.ended(second)
    await delete(service, first)
    await sweep_at(RESTORE_US + 2 * MINUTE)
    [original] = rows(service, "SELECT * FROM originals")
    assert files(service) == named(service)
    assert {original["key"], original["thumbnail_key"]} < files(service)
    # Those who are left can go on from it.
    third = (await service.generate(imageId=second))["job_id"]
    assert ((await service.ended(third))["images"][0]["width"]) == 64

    await delete(service, second)
    await delete(service, third)
    await sweep_at(RESTORE_US + 2 * MINUTE)
    assert rows(service, "SELECT 1 FROM originals") == []
    assert files(service) == set()


async def test_an_original_stays_for_one_who_may_still_be_had_back(swept):
    service, sweep_at = swept
    first = (await service.upload())["job_id"]
    await service.generate("[sandbox:submit=422] x", imageId=first)
    await service.ended(first)
    second = (await service.generate("[sandbox:submit=422] x", imageId=first))["job_id"]
    await service.ended(second)
    await delete(service, first)
    rows(service, "UPDATE jobs SET deleted_at = deleted_at - ? WHERE id = ?", RESTORE_US, first)
    await delete(service, second)
    await sweep_at(2 * MINUTE)
    assert rows(service, "SELECT purged_at IS NULL AS left FROM jobs ORDER BY id") == [{"left": 0}, {"left": 1}]
    restored = (await restore(service, second)).json()
    assert (await service.client.get(restored["original"]["url"])).status_code == 200


async def test_many_are_swept_at_once(swept):
    service, sweep_at = swept
    number = 2 * sweep.AT_ONCE + 1
    [owner] = rows(service, "SELECT id FROM users")
    made = [(await service.upload(rig.picture(2, 2)))["job_id"] for _ in range(3)]
    for job_id in made:
        await delete(service, job_id)
    columns = "owner_id, status, stage, progress, attempt, options, priority, language, metadata, created_at"
    rows(
        service,
        f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {number}) "
        f"INSERT INTO jobs (id, {columns}, updated_at, deleted_at) "
        "SELECT 'old' || i, ?, 'PENDING', 'uploaded', 0, 0, '{}', 'normal', 'en', '{}', 1, 1, i FROM n",
        owner["id"],
    )
    await sweep_at(RESTORE_US + 2 * MINUTE)
    assert rows(service, "SELECT 1 FROM jobs WHERE purged_at IS NULL") == []
    assert files(service) == set()


async def test_a_file_that_cannot_be_removed_holds_up_nobody_else(swept):
    service, sweep_at = swept
    jobs = [(await service.upload(rig.picture(2, 2))) for _ in range(3)]
    for job in jobs:
        await delete(service, job["job_id"])
    media = service.parts.settings.data_dir / "media"
    [key] = [key for key in files(service) if key in jobs[0]["original"]["url"]]
    body = (media / key).read_bytes()
    (media / key).unlink()
    (media / key / "in the way").mkdir(parents=True)
    rows(service, "INSERT INTO idempotency VALUES ((SELECT id FROM users), 'r', 'k', x'00', '{}', 1)")
    await sweep_at(RESTORE_US + 2 * MINUTE)
    left = [row["id"] for row in rows(service, "SELECT id FROM jobs WHERE purged_at IS NULL")]
    assert left == [jobs[0]["job_id"]]
    assert rows(service, "SELECT 1 FROM idempotency") == []
    (media / key / "in the way").rmdir()
    (media / key).rmdir()
    (media / key).write_bytes(body)
    await sweep_at(RESTORE_US + 2 * MINUTE)
    assert files(service) == set()
    assert rows(service, "SELECT 1 FROM jobs WHERE purged_at IS NULL") == []


async def test_what_an_open_job_starts_from_stays_until_that_has_ended(swept):
    service, sweep_at = swept
    first = (await service.generate())["job_id"]
    await service.ended(first)
    heir = (await service.generate(RUNNING, imageId=first, use="result"))["job_id"]
    await delete(service, first)
    await sweep_at(RESTORE_US + 2 * MINUTE)
    assert files(service) == named(service) != set()
    await service.client.post(f"/api/images/{heir}/cancel")
    await sweep_at(RESTORE_US + 2 * MINUTE)
    assert files(service) == set()


async def test_nothing_else_is_bought_where_the_picture_to_start_from_is_gone(swept):
    service, sweep_at = swept
    first = (await service.generate())["job_id"]
    await service.ended(first)
    heir = (await service.generate("[sandbox:submit=422] x", imageId=first, use="result"))["job_id"]
    assert (await service.ended(heir))["status"] == "FAILED"
    await delete(service, first)
    await sweep_at(RESTORE_US + 2 * MINUTE)
    bought = len(service.upstream.by_id)
    assert (await service.client.post(f"/api/images/{heir}/retry", json={})).status_code == 202
    ended = await service.ended(heir)
    assert (ended["status"], ended["error"]["code"], ended["credits"]) == ("FAILED", "internal", 0)
    assert len(service.upstream.by_id) == bought
