"""Pictures that were never generated have a quota, and deleting makes room."""

import asyncio
import contextlib
import itertools

import pytest

from nanohook import clock, ids
from nanohook.flow import quota
from nanohook.stores import uploads
from nanohook.work import sweep
from nanohook.work.sweep import Sweeper
from tests import live, rig

pytestmark = pytest.mark.asyncio(loop_scope="function")

MINUTE_US = 60_000_000


@contextlib.asynccontextmanager
async def service(folder, **chosen):
    async with rig.running(folder, **chosen) as running:
        yield running


async def size_of_one(running):
    job = await running.upload()
    return job["original"]["bytes"], job["job_id"]


async def send(running, **more):
    return await running.client.post("/api/images", files={"file": ("x.png", rig.picture())}, **more)


def refused(answer, status=413, code="quota"):
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    return answer.json()["detail"]


async def files(running):
    return {found.name async for some in running.parts.storage.walk() for found in some}


@contextlib.asynccontextmanager
async def room_for(folder, number):
    """A service whose quota is *number* of our test pictures."""
    async with service(folder / "first") as running:
        size_bytes, _ = await size_of_one(running)
    async with service(folder / "second", upload_quota_bytes=number * size_bytes) as running:
        yield running


async def test_over_the_quota_an_upload_is_refused_and_leaves_nothing(tmp_path):
    async with room_for(tmp_path, 3) as running:
        jobs = [await running.upload() for _ in range(3)]
        before = await files(running)
        detail = refused(await send(running))
        assert "delete some, or generate" in detail
        assert await files(running) == before
        listed = (await running.client.get("/api/images")).json()["images"]
        assert {job["job_id"] for job in listed} == {job["job_id"] for job in jobs}
        # Another person has a quota of their own.
        other = await rig.person(running)
        async with other.client:
            await other.upload()


async def test_who_deletes_or_generates_may_upload_again(tmp_path):
    async with room_for(tmp_path, 2) as running:
        first, second = [await running.upload() for _ in range(2)]
        refused(await send(running))
        assert (await running.client.delete(f"/api/images/{first['job_id']}")).status_code == 204
        await running.upload()
        refused(await send(running))
        await running.generate(imageId=second["job_id"])
        await running.ended(second["job_id"])
        await running.upload()
        refused(await send(running))


async def test_a_job_that_is_canceled_before_it_is_paid_is_no_way_around(tmp_path):
    async with room_for(tmp_path, 2) as running:
        admin = await rig.person(running, is_admin=True)
        async with admin.client:
            assert (await admin.client.post("/api/work/pause")).status_code == 200
        jobs = [await running.upload() for _ in range(2)]
        for job in jobs:
            await running.generate(imageId=job["job_id"])
            refused(await send(running))
            assert (await running.client.post(f"/api/images/{job['job_id']}/cancel")).status_code == 200
            refused(await send(running))
        # Nothing was sent for it: deleted, it goes when room is needed, as one for which nothing was asked.
        await running.client.delete(f"/api/images/{jobs[0]['job_id']}")
        before = await files(running)
        await running.parts.database.write(
            lambda tx: tx.run("UPDATE jobs SET deleted_at = deleted_at - ?", (11 * MINUTE_US,))
        )
        owner_id = (await running.client.get("/api/auth/me")).json()["id"]
        await running.parts.make_room(owner_id)
        assert len(before) - len(await files(running)) == 2


async def test_what_is_deleted_may_take_as_much_again_and_no_more(tmp_path):
    """Or deleting were a way around the quota: the files are kept, to be restored."""
    async with room_for(tmp_path, 2) as running:
        jobs = []
        for _ in range(4):
            answer = await send(running)
            assert answer.status_code == 201
            jobs.append(answer.json()["job_id"])
            await running.client.delete(f"/api/images/{jobs[-1]}")
        detail = refused(await send(running))
        assert "10 minutes" in detail
        # All of them can be had back so far; what was deleted more than ten minutes ago goes when room is needed.
        assert (await running.client.post(f"/api/images/{jobs[3]}/restore")).status_code == 200
        for job_id in jobs[:2]:
            await running.parts.database.write(
                lambda tx: tx.run(
                    "UPDATE jobs SET deleted_at = ? WHERE id = ?",
                    (clock.now_us() - 11 * MINUTE_US, job_id),  # noqa: B023
                )
            )
        before = await files(running)
        assert (await send(running)).status_code == 201
        assert len(before) - len(await files(running)) == 2  # four files went, two came
        for job_id in jobs[:2]:
            refused(await running.client.post(f"/api/images/{job_id}/restore"), 404, "not_found")
        assert (await running.client.get(f"/api/images/{jobs[3]}")).status_code == 200


async def test_uploads_at_the_same_time_do_not_pass_the_quota_together(tmp_path):
    async with room_for(tmp_path, 5) as running:
        answers = []
        for _ in range(3):
            answers += await asyncio.gather(*(send(running) for _ in range(4)))
        assert sorted(answer.status_code for answer in answers) == [201] * 5 + [413] * 7
        kept = await files(running)
        assert len([name for name in kept if name.startswith("originals/")]) == 10


async def test_covers_count_and_changing_one_counts_once(tmp_path):
    async with room_for(tmp_path, 2) as running:
        cover = {"cover": ("x.png", rig.picture())}
        made = await running.client.post("/api/projects", data={"name": "a"}, files=cover)
        assert made.status_code == 201
        path = f"/api/projects/{made.json()['project_id']}"
        for _ in range(3):
            assert (await running.client.patch(path, files=cover)).status_code == 200
        await running.upload()
        refused(await send(running))
        refused(await running.client.post("/api/projects", data={"name": "b"}, files=cover))
        # What brings no picture is no upload.
        assert (await running.client.patch(path, json={"name": "c"})).status_code == 200
        assert (await running.client.post("/api/projects", json={"name": "d"})).status_code == 201
        assert (await running.client.patch(path, json={"cover": None})).status_code == 200
        await running.upload()


async def test_near_the_reserve_what_was_deleted_a_while_ago_goes_at_once(tmp_path):
    async with service(tmp_path) as running:
        old, new, generated = [await running.upload() for _ in range(3)]
        await running.generate(imageId=generated["job_id"])
        await running.ended(generated["job_id"])
        for job, minutes in ((old, 11), (generated, 11), (new, 9)):
            await running.client.delete(f"/api/images/{job['job_id']}")
            await running.parts.database.write(
                lambda tx: tx.run(
                    "UPDATE jobs SET deleted_at = ? WHERE id = ?",
                    (clock.now_us() - minutes * MINUTE_US, job["job_id"]),  # noqa: B023
                )
            )
        await running.upload()
        for job in (old, new, generated):  # there is room
            assert running.parts.storage.path(job["original"]["url"].partition("?")[0].removeprefix("/media/"))
    # As much as there is on any disk: nothing new is taken, and what may go has gone.
    async with service(tmp_path, disk_reserve_bytes=2**60, sign_up=False) as running:
        owner = await rig.person(running)
        async with owner.client:
            # A job needs room for its result: what is in its way goes for it too.
            asked = await owner.client.post("/api/generate-image", json={"prompt": "a kite"})
            refused(asked, 507, "disk_full")
        kept = [
            running.parts.storage.path(job["original"]["url"].partition("?")[0].removeprefix("/media/"))
            is not None
            for job in (old, new, generated)
        ]
        assert kept == [False, True, True]


async def test_a_restore_and_an_early_end_never_meet(tmp_path):
    """Whichever comes first is the whole of it: no job is back without its files."""
    async with service(tmp_path) as running:
        sweeper = Sweeper(running.parts.database, running.parts.storage)
        for number in range(20):
            job = await running.upload()
            path = f"/api/images/{job['job_id']}"
            await running.client.delete(path)
            me = (await running.client.get("/api/auth/me")).json()["id"]
            await running.parts.database.write(
                lambda tx: tx.run("UPDATE jobs SET deleted_at = deleted_at - ?", (quota.GRACE_US,))
            )
            ends = [sweeper.make_room(me), running.client.post(f"{path}/restore")]
            await asyncio.gather(*(ends if number % 2 else reversed(ends)))
            answer = await running.client.get(path)
            if answer.status_code == 200:
                assert (await running.client.get(answer.json()["original"]["url"])).status_code == 200
            else:
                assert answer.status_code == 404


async def test_ten_thousand_pictures_are_enough_however_small(tmp_path):
    async with service(tmp_path) as running:
        _, job_id = await size_of_one(running)

        async def fill(tx):
            row = dict(await tx.one("SELECT * FROM jobs WHERE id = ?", (job_id,)))
            names = ", ".join(row)
            sql = f"INSERT INTO jobs ({names}) VALUES ({', '.join(f':{name}' for name in row)})"
            for _ in itertools.repeat(None, uploads.MAX_COUNT - 1):
                await tx.run(sql, {**row, "id": ids.new_id()})

        await running.parts.database.write(fill)
        refused(await send(running))


async def test_the_sum_is_read_from_indexes_alone(tmp_path):
    async with service(tmp_path) as running:
        asked = []

        async def watch(tx):
            one, all_ = tx.one, tx.all

            async def explain(sql, values=()):
                asked.extend(row["detail"] for row in await all_(f"EXPLAIN QUERY PLAN {sql}", values))
                return await one(sql, values)

            spy = type("Tx", (), {"one": staticmethod(explain), "all": all_})
            await uploads.kept(spy, "a")
            await uploads.deleted(spy, "a")

        await running.parts.database.read(watch)
        looked = [line for line in asked if "jobs" in line or "projects" in line]
        assert len(looked) == 3
        assert all("USING COVERING INDEX" in line for line in looked), looked


# Near the reserve: who waits, and for how long.


async def deleted_uploads(running, number):
    """Pictures that were never generated and were deleted a while ago."""
    for _ in range(number):
        job = await running.upload()
        await running.client.delete(f"/api/images/{job['job_id']}")
    await running.parts.database.write(
        lambda tx: tx.run("UPDATE jobs SET deleted_at = deleted_at - ?", (11 * MINUTE_US,))
    )


class Disk:
    """Stands between a service and its disk: how much it says is free, and whether it lets anything be removed."""

    def __init__(self, storage, monkeypatch, *, free_bytes):
        self.free_bytes = free_bytes
        self.lets_go = asyncio.Event()
        self.asked = 0
        delete = storage.delete

        async def held(key):
            self.asked += 1
            await self.lets_go.wait()
            await delete(key)

        monkeypatch.setattr(storage, "delete", held)
        monkeypatch.setattr(storage, "free_bytes", lambda: self.free_bytes)


async def purged(running):
    [row] = await running.parts.database.read(
        lambda tx: tx.all("SELECT COUNT(*) AS number FROM jobs WHERE purged_at IS NOT NULL")
    )
    return row["number"]


async def test_above_the_reserve_nobody_waits_for_what_goes(tmp_path, monkeypatch):
    async with service(tmp_path) as running:
        await deleted_uploads(running, 3)
        disk = Disk(running.parts.storage, monkeypatch, free_bytes=10 * 2**20)
        # The disk removes nothing so far: whoever waited for it would wait for ever.
        monkeypatch.setattr(sweep, "ROOM_WAIT_S", 3600)
        asks = (running.client.post("/api/generate-image", json={"prompt": "x"}) for _ in range(4))
        assert [answer.status_code for answer in await asyncio.gather(*asks)] == [202] * 4
        assert (await send(running)).status_code == 201
        batch = await running.client.post("/api/batches", json={"jobs": [{"prompt": "x"}]})
        assert batch.status_code == 202
        cover = {"cover": ("x.png", rig.picture())}
        assert (await running.client.post("/api/projects", data={"name": "a"}, files=cover)).status_code == 201
        # It goes all the same.
        await live.until(lambda: disk.asked)
        assert await purged(running) == 0
        disk.lets_go.set()
        while await purged(running) < 3:  # noqa: ASYNC110 - a condition of the database
            await asyncio.sleep(0.01)


async def test_below_the_reserve_who_asks_waits_for_a_bounded_time(tmp_path, monkeypatch):
    async with service(tmp_path) as running:
        await deleted_uploads(running, 3)
        running.parts.settings.__dict__["disk_reserve_bytes"] = 2**30
        disk = Disk(running.parts.storage, monkeypatch, free_bytes=10)
        monkeypatch.setattr(sweep, "ROOM_WAIT_S", 0.1)
        asks = (running.client.post("/api/generate-image", json={"prompt": "x"}) for _ in range(4))
        for answer in await asyncio.gather(*asks):
            refused(answer, 507, "disk_full")
        refused(await send(running), 507, "disk_full")
        disk.lets_go.set()


async def test_below_the_reserve_who_asks_is_taken_once_there_is_room(tmp_path, monkeypatch):
    async with service(tmp_path) as running:
        await deleted_uploads(running, 3)
        running.parts.settings.__dict__["disk_reserve_bytes"] = 2**30
        disk = Disk(running.parts.storage, monkeypatch, free_bytes=10)
        monkeypatch.setattr(sweep, "ROOM_WAIT_S", 3600)
        asked = asyncio.gather(*(send(running) for _ in range(3)))
        await live.until(lambda: disk.asked)
        disk.free_bytes = 2**31
        disk.lets_go.set()
        assert [answer.status_code for answer in await asked] == [201] * 3
        # Between two rounds there is nothing to wait for.
        disk.free_bytes = 10
        refused(await send(running), 507, "disk_full")


async def test_room_for_one_person_is_not_waited_for_behind_what_others_deleted(tmp_path, monkeypatch):
    async with room_for(tmp_path, 1) as running:
        other = await rig.person(running)
        async with other.client:
            for one in (running, other, running, other):
                job = await one.upload()
                await one.client.delete(f"/api/images/{job['job_id']}")
            await running.parts.database.write(
                lambda tx: tx.run("UPDATE jobs SET deleted_at = deleted_at - ?", (11 * MINUTE_US,))
            )
            disk = Disk(running.parts.storage, monkeypatch, free_bytes=2**40)
            disk.lets_go.set()
            assert (await send(running)).status_code == 201
            assert await purged(running) == 2
            assert (await send(other)).status_code == 201
            assert await purged(running) == 4


async def test_the_waits_are_those_that_are_meant():
    assert (sweep.ROOM_WAIT_S, sweep.ROOM_EVERY_S) == (2, 5)
