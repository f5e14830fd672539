"""What goes when its time is over, and what does not: over HTTP, with the sweeper's clock in the test's hand."""

import contextlib
import os
import re
import sqlite3

import pytest_asyncio

from nanohook import clock, ids
from nanohook.flow.expire import UPLOAD_US
from nanohook.rules.job import UNCLAIMED_FOR_US
from nanohook.sandbox.options import Options
from nanohook.work import orphans, retain, sweep
from nanohook.work.sweep import Sweeper
from tests import books, live, rig
from tests.process import post_mortem

RUNNING = "[sandbox:latency=60]"
SECOND = 1_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR


def rows(service, sql, *values):
    return books.rows(service.parts.settings.data_dir, sql, *values)


def left(service, table, column="job_id"):
    return {row[column] for row in rows(service, f"SELECT {column} FROM {table}")}


def files(service):
    return post_mortem.files(service.parts.settings.data_dir)


def named(service):
    return post_mortem.named_files(service.parts.settings.data_dir)


async def sweep_at(service, after_us, sweeper=None):
    sweeper = sweeper or Sweeper(service.parts.database, service.parts.storage)
    await sweeper.sweep(now_us=clock.now_us() + after_us)


async def running_job(service):
    job_id = (await service.generate(RUNNING))["job_id"]
    await live.until(lambda: rows(service, "SELECT 1 FROM tasks WHERE job_id = ? AND step = 'ask'", job_id))
    return job_id


async def tell(service, job_id, percent):
    answer = await service.call_back(job_id, {"status": "generating", "data": {"progress": percent}})
    assert (answer.status_code, answer.json()["status"]) == (200, "accepted")


async def blocks(service, path, cursor, *, most=2):
    """The first blocks of a stream without ``retry``; fewer where it ends. 204 is none."""
    found = []
    async with service.client.stream("GET", path, headers={"Last-Event-ID": str(cursor)}) as answer:
        if answer.status_code == 204:
            return found
        text = ""
        async for part in answer.aiter_text():
            text += part
            whole = [re.sub(r"\Aretry: \d+\n", "", block) for block in text.split("\n\n")[:-1]]
            found = [block for block in whole if not block.startswith(":")]
            if len(found) >= most:
                break
    return found


@pytest_asyncio.fixture
async def service(tmp_path):
    async with rig.running(tmp_path) as running:
        yield running
    books.check(tmp_path)


# Deliveries and events.


async def test_after_a_month_they_are_gone_but_an_open_jobs_stay(tmp_path):
    async with rig.running(tmp_path) as service:
        opened = await running_job(service)
        await tell(service, opened, 61)
        ended = (await service.generate())["job_id"]
        job = await service.ended(ended)
        await tell(service, opened, 62)
        assert left(service, "deliveries") == left(service, "events") == {opened, ended}

        await sweep_at(service, retain.KEPT_US - HOUR)
        assert left(service, "deliveries") == left(service, "events") == {opened, ended}
        await sweep_at(service, retain.KEPT_US + MINUTE)
        assert left(service, "deliveries") == left(service, "events") == {opened}
        assert len(rows(service, "SELECT 1 FROM deliveries")) == 2

        kept = [row["id"] for row in rows(service, "SELECT id FROM events ORDER BY id")]
        gone = job["event_id"]
        assert kept[0] < gone < kept[-1]
        assert rows(service, "SELECT value FROM facts WHERE name = 'events_removed_to'") == [{"value": str(gone)}]
        key = dict(service.client.headers)["authorization"]
        await check_cursors(service, opened, ended, kept=kept, gone=gone)
    books.check(tmp_path)
    # The oldest event that is left does not tell, so it is remembered: by the next service too.
    async with rig.running(tmp_path, sign_up=False) as service:
        service.client.headers["Authorization"] = key
        await check_cursors(service, opened, ended, kept=kept, gone=gone)


async def check_cursors(service, opened, ended, *, kept, gone):
    """From before what is gone there is no going on; from there, and for whom nothing was missed, there is."""
    reset = "event: reset\ndata: {}"
    everything, of_open, of_ended = "/api/events", f"/api/images/{opened}/events", f"/api/images/{ended}/events"
    first, state = await blocks(service, of_open, kept[0])
    assert (first, f"id: {kept[-1]}" in state) == (reset, True)
    assert (await blocks(service, everything, gone - 1))[0] == reset
    assert (await blocks(service, of_ended, gone - 1))[0] == reset
    assert f"id: {kept[-1]}\nevent: status" in (await blocks(service, of_open, gone, most=1))[0]
    assert f"id: {kept[-1]}\nevent: status" in (await blocks(service, everything, gone, most=1))[0]
    # Who has the end of a job that is long over is not sent the same again and again.
    assert await blocks(service, of_ended, gone) == []


async def test_more_than_a_page_goes_page_by_page(service):
    number = 2 * retain.AT_ONCE + 1
    old, [owner] = clock.now_us() - 40 * DAY, rows(service, "SELECT id FROM users")
    path = service.parts.settings.data_dir / "nanohook.db"
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.executemany(
            "INSERT INTO deliveries (id, source, headers, body, body_sha256, effect, received_at, webhook_id) "
            "VALUES (?, 'headers', '', zeroblob(?), x'00', 'no_effect', ?, ?)",
            # Some are so long that each is a page of its own.
            [
                (f"{ids.earliest(old)[:-8]}{each:08x}", retain.AT_ONCE_BYTES * (each < 3), old, str(each))
                for each in range(number)
            ],
        )
        connection.executemany(
            "INSERT INTO rejections (id, reason, peer, headers, body, received_at) VALUES (?, '', '', '', x'', ?)",
            [(f"{ids.earliest(old)[:-8]}{each:08x}", old) for each in range(number)],
        )
        connection.executemany(
            "INSERT INTO events (owner_id, job_id, name, is_last, payload, created_at) "
            "VALUES (?, 'gone', 'status', 1, '{}', ?)",
            [(owner["id"], old)] * number,
        )
    job_id = (await service.generate())["job_id"]
    await service.ended(job_id)
    await sweep_at(service, 0)
    assert left(service, "deliveries") == left(service, "events") == {job_id}
    assert rows(service, "SELECT 1 FROM rejections") == []


async def test_a_refused_callback_is_forgotten_after_a_week_though_none_comes_after_it(service):
    path = "/api/webhooks/image-completion/forged"
    assert (await service.client.post(path, content=b"{}")).status_code == 401
    await live.until(lambda: rows(service, "SELECT 1 FROM rejections"))
    await sweep_at(service, retain.REJECTED_US - MINUTE)
    assert len(rows(service, "SELECT 1 FROM rejections")) == 1
    await sweep_at(service, retain.REJECTED_US + MINUTE)
    assert rows(service, "SELECT 1 FROM rejections") == []


async def test_nobody_waits_for_an_unknown_job_longer_than_a_day(service):
    await service.call_back(ids.new_id(), {"status": "generating"})
    [parked] = rows(service, "SELECT * FROM deliveries")
    assert parked["effect"] == "parked"
    await sweep_at(service, retain.PARKED_US - MINUTE)
    assert rows(service, "SELECT * FROM deliveries") == [parked]
    await sweep_at(service, retain.PARKED_US + MINUTE)
    given_up = {**parked, "effect": "no_effect", "reason": retain.NOBODY_ASKED}
    assert rows(service, "SELECT * FROM deliveries") == [given_up]


async def test_a_dead_letter_stays_its_month_and_what_is_still_tried_stays_longer(service):
    job_id = (await service.generate())["job_id"]
    await service.ended(job_id)
    for percent, change in (
        (1, "effect = 'dead'"),
        (2, f"effect = 'unapplied', due_at = {clock.now_us() + MINUTE}"),
    ):
        await tell(service, job_id, percent)
        rows(service, f"UPDATE deliveries SET {change} WHERE id = (SELECT MAX(id) FROM deliveries)")
    await sweep_at(service, retain.KEPT_US - HOUR)
    assert left(service, "deliveries", "effect") == {"applied", "dead", "unapplied"}
    await sweep_at(service, retain.KEPT_US + MINUTE)
    assert left(service, "deliveries", "effect") == {"unapplied"}


# Uploads and late results.


async def test_an_upload_that_nobody_used_goes_after_a_week_and_its_file_a_day_later(service):
    unused = (await service.upload(rig.picture(64, 48)))["job_id"]
    had_back = (await service.upload(rig.picture(64, 48)))["job_id"]
    rows(service, "UPDATE jobs SET updated_at = updated_at + ? WHERE id = ?", 3 * DAY, had_back)
    used = (await service.upload(rig.picture(64, 48)))["job_id"]
    await service.generate(imageId=used)
    newest = (await service.ended(used))["event_id"]
    before = files(service)
    await sweep_at(service, UPLOAD_US - MINUTE)
    assert (await service.job(unused))["stage"] == "uploaded"

    await sweep_at(service, UPLOAD_US + MINUTE)
    assert (await service.client.get(f"/api/images/{unused}")).status_code == 404
    told = (await blocks(service, "/api/events", newest, most=1))[0]
    assert told.endswith('event: deleted\ndata: {"job_id":"' + unused + '"}')
    assert files(service) == before
    assert (await service.job(had_back))["stage"] == "uploaded"
    books.check(service.parts.settings.data_dir)

    await sweep_at(service, UPLOAD_US + DAY + 5 * MINUTE)
    assert files(service) == named(service)
    assert (files(service) < before, len(files(service))) == (True, len(before) - 2)
    assert (await service.job(used))["status"] == "COMPLETED"


async def keep_late(service, job_id, *, created_at=0):
    """Give a job a late result, as finishing does: the files, then the row."""
    key = f"results/{job_id}/late"
    for name in (f"{key}.png", f"{key}-small.webp"):
        await service.parts.storage.put(name, b"late")
    rows(
        service,
        "INSERT INTO unclaimed SELECT id, 1, 9, owner_id, ?, ?, 'image/png', 1, 1, 4, x'00', ? FROM jobs "
        "WHERE id = ?",
        f"{key}.png",
        f"{key}-small.webp",
        created_at or clock.now_us(),
        job_id,
    )
    return {f"{key}.png", f"{key}-small.webp"}


async def test_a_late_result_that_nobody_took_goes_after_a_week(service):
    job_id = (await service.generate())["job_id"]
    await service.ended(job_id)
    before = files(service)
    late = await keep_late(service, job_id)
    await sweep_at(service, UNCLAIMED_FOR_US - MINUTE)
    assert files(service) == before | late
    await sweep_at(service, UNCLAIMED_FOR_US + MINUTE)
    assert rows(service, "SELECT 1 FROM unclaimed") == []
    assert files(service) == before


async def test_many_late_results_go_at_once_and_one_that_cannot_be_removed_holds_up_none(service):
    job_id = (await service.generate())["job_id"]
    await service.ended(job_id)
    before = files(service)
    rows(
        service,
        f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {2 * sweep.AT_ONCE + 1}) "
        "INSERT INTO unclaimed SELECT id, 2, i, owner_id, 'x' || i, 'y' || i, 'image/png', 1, 1, 4, x'00', i "
        "FROM jobs, n",
    )
    media = service.parts.settings.data_dir / "media"
    (media / "x1" / "in the way").mkdir(parents=True)
    late = await keep_late(service, job_id, created_at=10**15)
    await sweep_at(service, 0)
    assert rows(service, "SELECT 1 FROM unclaimed") == []
    assert files(service) == before
    assert late.isdisjoint(files(service))


async def test_a_deleted_jobs_late_results_go_with_it(service):
    job_id = (await service.generate())["job_id"]
    await service.ended(job_id)
    await keep_late(service, job_id)
    assert (await service.client.delete(f"/api/images/{job_id}")).status_code == 204
    await sweep_at(service, DAY + 5 * MINUTE)
    assert files(service) == set()
    assert rows(service, "SELECT 1 FROM unclaimed") == []


# Rows that nobody can see any more.


async def test_a_revoked_key_goes_after_a_month_and_the_others_stay(service):
    made = [(await service.client.post("/api/auth/keys")).json() for _ in range(3)]
    assert (await service.client.delete(f"/api/auth/keys/{made[0]['id']}")).status_code == 204
    before = left(service, "api_keys", "id")
    await sweep_at(service, retain.KEPT_US - HOUR)
    assert left(service, "api_keys", "id") == before
    await sweep_at(service, retain.KEPT_US + MINUTE)
    assert left(service, "api_keys", "id") == before - {made[0]["id"]}
    for key, status in ((made[0], 401), (made[1], 200)):
        headers = {"Authorization": f"Bearer {key['key']}"}
        assert (await service.client.get("/api/auth/me", headers=headers)).status_code == status


async def test_many_revoked_keys_go_page_by_page_and_one_that_cannot_holds_up_none(service, monkeypatch, caplog):
    monkeypatch.setattr(retain, "LOOKED_AT", 100)
    monkeypatch.setattr(retain, "AT_ONCE", 30)
    [owner] = rows(service, "SELECT id FROM users")
    old = [ids.earliest(number * MINUTE) for number in range(1, 251)]
    with contextlib.closing(sqlite3.connect(service.parts.settings.data_dir / "nanohook.db")) as made, made:
        made.executemany(
            "INSERT INTO api_keys (id, owner_id, sha256, created_at, revoked_at) VALUES (?, ?, ?, 0, ?)",
            # Every fifth is good still, though as old.
            [(each, owner["id"], each, None if number % 5 == 0 else 1) for number, each in enumerate(old)],
        )
    end = in_the_way(service, "DELETE", "api_keys", old[101])
    sweeper = Sweeper(service.parts.database, service.parts.storage)
    await sweep_at(service, 0, sweeper)
    good = set(old[::5])
    assert left(service, "api_keys", "id") & set(old) == good | {old[101]}
    assert skipped(caplog) == {("revoked_key", old[101])}
    end()
    # The table is walked once a day.
    await sweep_at(service, retain.WALK_EVERY_US - MINUTE, sweeper)
    assert old[101] in left(service, "api_keys", "id")
    await sweep_at(service, retain.WALK_EVERY_US + MINUTE, sweeper)
    assert left(service, "api_keys", "id") & set(old) == good


async def test_of_an_upload_nothing_was_asked_for_nothing_stays_a_month_after_its_end(service):
    unused, kept, used, canceled = [(await service.upload(rig.picture(64, 48)))["job_id"] for _ in range(4)]
    await service.generate(imageId=used)
    await service.ended(used)
    await service.generate("[sandbox:latency=60]", imageId=canceled)
    for job_id in (unused, used, canceled):
        assert (await service.client.delete(f"/api/images/{job_id}")).status_code == 204
    purged_us = DAY + 5 * MINUTE
    await sweep_at(service, purged_us)
    everybody = {unused, kept, used, canceled}
    assert left(service, "jobs", "id") == everybody
    await sweep_at(service, purged_us + retain.KEPT_US - HOUR)
    assert left(service, "jobs", "id") == everybody
    await sweep_at(service, purged_us + retain.KEPT_US + HOUR)
    # What money, or an attempt, names stays for as long as those.
    assert left(service, "jobs", "id") == everybody - {unused}
    assert (await service.client.get(f"/api/images/{unused}")).status_code == 404
    assert (await service.client.post(f"/api/images/{unused}/restore")).status_code == 404
    assert unused not in left(service, "events")


async def test_a_purged_upload_that_something_names_stays(service):
    job_ids = [(await service.upload(rig.picture(64, 48)))["job_id"] for _ in range(4)]
    entry, delivery, heir, _ = job_ids
    for job_id in job_ids:
        assert (await service.client.delete(f"/api/images/{job_id}")).status_code == 204
    await sweep_at(service, DAY + 5 * MINUTE)
    rows(service, "UPDATE jobs SET purged_at = 1")
    rows(service, "DELETE FROM events")
    rows(
        service,
        "INSERT INTO ledger (owner_id, kind, available, reserved, job_id, created_at) "
        "SELECT owner_id, 'grant', 0, 0, id, 0 FROM jobs WHERE id = ?",
        entry,
    )
    rows(
        service,
        "INSERT INTO deliveries (id, source, job_id, headers, body, body_sha256, effect, received_at, due_at) "
        "VALUES ('x', 'token', ?, '', x'', x'00', 'unapplied', 0, ?)",
        delivery,
        2**60,
    )
    child = (await service.upload(rig.picture(64, 48)))["job_id"]
    rows(service, "UPDATE jobs SET source_job_id = ? WHERE id = ?", heir, child)
    await sweep_at(service, retain.KEPT_US + MINUTE)
    assert left(service, "jobs", "id") == {entry, delivery, heir, child}
    for table in ("deliveries", "ledger"):
        rows(service, f"DELETE FROM {table} WHERE job_id IS NOT NULL")


# Files that no row names.


async def test_a_file_without_a_row_goes_once_it_is_a_day_old(service):
    await service.upload(rig.picture(64, 48))
    mine = files(service)
    media = service.parts.settings.data_dir / "media"
    old = {"results/gone/1-0-1.png", "originals/x.png", "originals/x.png#1", "stray", "results/deep/er/still.webp"}
    for name in [*old, "originals/young.png"]:
        (media / name).parent.mkdir(parents=True, exist_ok=True)
        (media / name).write_bytes(b"orphan")
    (media / os.fsdecode(b"not \xff text")).write_bytes(b"orphan")
    (media / "link").symlink_to(media.parent / "nanohook.db")
    moment = clock.now_us() / SECOND
    for path in media.rglob("*"):
        if path.is_file() and path.name != "young.png" and not path.is_symlink():
            os.utime(path, (moment - 86_399, moment - 86_399))

    sweeper = Sweeper(service.parts.database, service.parts.storage)
    await sweep_at(service, 0, sweeper)
    assert files(service) > mine | old
    # Not before the folder is looked at again: once an hour.
    await sweep_at(service, orphans.EVERY_US - MINUTE, sweeper)
    assert files(service) > mine | old
    await sweep_at(service, orphans.EVERY_US, sweeper)
    assert files(service) == mine | {"originals/young.png", "link"}
    assert (media.parent / "nanohook.db").exists()


async def test_every_kind_of_row_keeps_its_files(service):
    """Whatever names a file: of more files than are looked at together, none of those goes."""
    uploaded = await service.upload(rig.picture(64, 48))
    await service.generate(imageId=uploaded["job_id"])
    await service.ended(uploaded["job_id"])
    cover = {"cover": ("x.png", rig.picture())}
    made = await service.client.post("/api/projects", data={"name": "Winter"}, files=cover)
    assert made.status_code == 201, made.text
    await keep_late(service, uploaded["job_id"])
    mine = files(service)
    assert len(mine) == 8
    media = service.parts.settings.data_dir / "media"
    for number in range(1_100):
        (media / f"stray-{number}").touch()
    await sweep_at(service, orphans.YOUNG_US + MINUTE)
    assert files(service) == mine


# Below the reserve.


async def test_with_little_room_nothing_new_is_taken_and_what_runs_is_finished(tmp_path):
    async with rig.running(tmp_path, sandbox=Options(latency_s=0.5)) as service:
        failed = (await service.generate("[sandbox:fail=501] x"))["job_id"]
        assert (await service.ended(failed))["status"] == "FAILED"
        uploaded = await service.upload()
        job_id = (await service.generate(imageId=uploaded["job_id"]))["job_id"]
        await live.until(lambda: rows(service, "SELECT 1 FROM tasks WHERE job_id = ? AND step = 'ask'", job_id))
        service.parts.settings.__dict__["disk_reserve_bytes"] = 2**62
        one = {"prompt": "another"}
        for path, more in (
            ("/api/images", {"files": {"file": ("x.png", rig.picture())}}),
            ("/api/generate-image", {"json": one}),
            ("/api/batches", {"json": {"jobs": [one]}}),
            (f"/api/images/{failed}/retry", {"json": {}}),
        ):
            answer = await service.client.post(path, **more)
            assert (answer.status_code, answer.json()["code"]) == (507, "disk_full"), path
        ended = await service.ended(job_id)
        assert (ended["status"], len(ended["images"])) == ("COMPLETED", 1)
        assert rows(service, "SELECT effect FROM deliveries WHERE job_id = ? AND source = 'token'", job_id) == [
            {"effect": "applied"}
        ]
    books.check(tmp_path)


# What cannot be treated.


def in_the_way(service, act, table, row, *, id_is="id"):
    """Let the database refuse to *act* on a row of *table*, as a rule would; return how to end that."""
    rows(
        service,
        f"CREATE TRIGGER in_the_way_of_{table} BEFORE {act} ON {table} WHEN CAST(OLD.{id_is} AS TEXT) = '{row}' "
        "BEGIN SELECT RAISE(ABORT, 'no such luck'); END",
    )
    return lambda: rows(service, f"DROP TRIGGER in_the_way_of_{table}")


def skipped(caplog):
    # Once each: the service's own first round may have met it too.
    found = [record for record in caplog.records if record.message == "sweep.row_skipped"]
    return {(record.kind, record.row_id) for record in found}


async def test_a_delivery_or_event_that_cannot_be_removed_holds_up_no_other(service, caplog):
    path = service.parts.settings.data_dir / "nanohook.db"
    old = [ids.earliest(number * MINUTE) for number in range(1, 1_200)]
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.executemany(
            "INSERT INTO deliveries (id, source, headers, body, body_sha256, effect, received_at) "
            "VALUES (?, 'headers', '', x'00', x'00', 'no_effect', 0)",
            [(each,) for each in old],
        )
        connection.executemany(
            "INSERT INTO events (id, owner_id, job_id, name, is_last, payload, created_at) "
            "VALUES (?, 'o', 'j', 'status', 0, '{}', 0)",
            [(number,) for number in range(1, 1_200)],
        )
    sweeper = Sweeper(service.parts.database, service.parts.storage)
    stuck = {"deliveries": old[700], "events": 700}
    ends = [in_the_way(service, "DELETE", table, row) for table, row in stuck.items()]
    await sweep_at(service, 0, sweeper)
    assert {table: [row["id"] for row in rows(service, f"SELECT id FROM {table}")] for table in stuck} == {
        table: [row] for table, row in stuck.items()
    }
    assert skipped(caplog) == {("delivery", old[700]), ("event", "700")}
    assert sweeper.failures == {"delivery": 1, "event": 1}
    # They go in the next round, once nothing stands in their way.
    for end in ends:
        end()
    await sweep_at(service, 0, sweeper)
    assert [rows(service, f"SELECT id FROM {table}") for table in stuck] == [[], []]


async def test_a_parked_delivery_that_cannot_be_given_up_holds_up_no_other(service, caplog):
    with contextlib.closing(sqlite3.connect(service.parts.settings.data_dir / "nanohook.db")) as made, made:
        made.executemany(
            "INSERT INTO deliveries (id, source, task_id, headers, body, body_sha256, effect, received_at) "
            "VALUES (?, 'headers', 'x', '', x'00', x'00', 'parked', 0)",
            [(ids.earliest(clock.now_us() - 2 * DAY + number * SECOND),) for number in range(5)],
        )
    *_, stuck, _ = (row["id"] for row in rows(service, "SELECT id FROM deliveries ORDER BY id"))
    end = in_the_way(service, "UPDATE", "deliveries", stuck)
    await sweep_at(service, 0)
    assert [row["id"] for row in rows(service, "SELECT id FROM deliveries WHERE effect = 'parked'")] == [stuck]
    assert skipped(caplog) == {("parked_delivery", stuck)}
    end()
    await sweep_at(service, 0)
    assert rows(service, "SELECT id FROM deliveries WHERE effect = 'parked'") == []


async def test_a_job_that_cannot_be_purged_holds_up_no_other(service, caplog):
    job_ids = [(await service.upload(rig.picture(64, 48 + number)))["job_id"] for number in range(3)]
    for job_id in job_ids:
        assert (await service.client.delete(f"/api/images/{job_id}")).status_code == 204
    end = in_the_way(service, "UPDATE", "jobs", job_ids[0])
    await sweep_at(service, 2 * DAY)
    assert left(service, "jobs WHERE purged_at IS NULL", "id") == {job_ids[0]}
    assert skipped(caplog) == {("deleted_job", job_ids[0])}
    end()
    await sweep_at(service, 2 * DAY)
    assert left(service, "jobs WHERE purged_at IS NULL", "id") == set()
    assert files(service) == set()


async def test_an_upload_that_cannot_expire_holds_up_no_other(service, caplog):
    job_ids = [(await service.upload(rig.picture(64, 48 + number)))["job_id"] for number in range(3)]
    end = in_the_way(service, "UPDATE", "jobs", job_ids[1])
    await sweep_at(service, UPLOAD_US + MINUTE)
    assert left(service, "jobs WHERE deleted_at IS NULL", "id") == {job_ids[1]}
    assert skipped(caplog) == {("upload", job_ids[1])}
    end()
    await sweep_at(service, UPLOAD_US + MINUTE)
    assert left(service, "jobs WHERE deleted_at IS NULL", "id") == set()


async def test_a_late_result_that_cannot_be_forgotten_holds_up_no_other(service, caplog):
    job_id = (await service.generate())["job_id"]
    await service.ended(job_id)
    rows(
        service,
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 120) INSERT INTO unclaimed "
        "SELECT id, 2, i, owner_id, 'x' || i, 'y' || i, 'image/png', 1, 1, 4, x'00', i FROM jobs, n",
    )
    end = in_the_way(service, "DELETE", "unclaimed", "x3", id_is="key")
    await sweep_at(service, 0)
    assert left(service, "unclaimed", "key") == {"x3"}
    assert skipped(caplog) == {("late_result", f"{job_id}/2/3")}
    end()
    await sweep_at(service, 0)
    assert rows(service, "SELECT 1 FROM unclaimed") == []


async def test_parts_of_it_do_not_wait_for_each_other(service, caplog):
    """Tables that are not there stand for whatever may go wrong in one part."""
    job_id = (await service.upload())["job_id"]
    assert (await service.client.delete(f"/api/images/{job_id}")).status_code == 204
    stray = service.parts.settings.data_dir / "media" / "stray"
    stray.write_bytes(b"orphan")
    os.utime(stray, (1, 1))
    broken = ("sessions", "idempotency", "rejections", "events")
    for table in broken:
        rows(service, f"ALTER TABLE {table} RENAME TO lost_{table}")
    try:
        await sweep_at(service, 2 * DAY)
    finally:
        for table in broken:
            rows(service, f"ALTER TABLE lost_{table} RENAME TO {table}")
    assert not stray.exists()
    assert left(service, "jobs WHERE purged_at IS NULL", "id") == set()
    put_off = {record.kind for record in caplog.records if record.message in {"sweep.put_off", "sweep.failed"}}
    assert put_off == {"session", "idempotency_key", "rejection", "event"}


async def test_rows_that_can_never_be_treated_take_bounded_memory_and_end_the_round(service, monkeypatch, caplog):
    monkeypatch.setattr(sweep, "MAX_SKIPPED", 60)
    job_id = (await service.upload())["job_id"]
    rows(
        service,
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200) INSERT INTO unclaimed "
        "SELECT id, 2, i, owner_id, 'x' || i, 'y' || i, 'image/png', 1, 1, 4, x'00', i FROM jobs, n",
    )
    rows(service, "UPDATE jobs SET completed_at = 1")
    rows(service, "CREATE TRIGGER in_the_way BEFORE DELETE ON unclaimed BEGIN SELECT RAISE(ABORT, 'never'); END")
    try:
        for _ in range(2):
            caplog.clear()
            await sweep_at(service, 0)
            assert sweep.MAX_SKIPPED <= len(skipped(caplog)) < sweep.MAX_SKIPPED + 2 * sweep.AT_ONCE
            assert "sweep.gave_up" in caplog.messages
    finally:
        rows(service, "DROP TRIGGER in_the_way")
        rows(service, "DELETE FROM unclaimed")
        rows(service, "UPDATE jobs SET completed_at = NULL WHERE id = ?", job_id)


# Counters that have drifted.


async def test_a_count_that_has_drifted_refuses_nobody_and_is_made_anew(service, caplog):
    job_ids = [(await service.upload(rig.picture(64, 48 + number)))["job_id"] for number in range(3)]
    rows(service, "UPDATE job_counts SET number = 0")
    assert (await service.client.delete(f"/api/images/{job_ids[0]}")).status_code == 204
    assert rows(service, "SELECT status, number FROM job_counts") == [{"status": "PENDING", "number": 2}]
    # One that was never counted, and one that goes by itself.
    rows(service, "DELETE FROM job_counts")
    assert (await service.client.delete(f"/api/images/{job_ids[1]}")).status_code == 204
    assert rows(service, "SELECT status, number FROM job_counts") == [{"status": "PENDING", "number": 1}]
    rows(service, "UPDATE job_counts SET number = 0")
    await sweep_at(service, UPLOAD_US + MINUTE)
    assert left(service, "jobs WHERE deleted_at IS NULL", "id") == set()
    assert caplog.messages.count("job_count.recounted") == 3


async def test_a_count_of_a_project_that_has_drifted_lets_jobs_run_and_projects_go(service):
    project = (await service.client.post("/api/projects", json={"name": "Winter"})).raise_for_status().json()
    made = await service.generate(projectId=project["project_id"])
    rows(service, "UPDATE job_counts SET number = 0")
    assert (await service.ended(made["job_id"]))["status"] == "COMPLETED"
    rows(service, "UPDATE job_counts SET number = 0")
    assert (await service.client.delete(f"/api/projects/{project['project_id']}")).status_code == 204
    assert [row["number"] for row in rows(service, "SELECT number FROM job_counts WHERE number <> 0")] == []


async def test_a_balance_that_has_drifted_refuses_no_end_and_becomes_what_its_ledger_says(service, caplog):
    before = rows(service, "SELECT available, reserved FROM balances")
    job_id = await running_job(service)
    rows(service, "UPDATE balances SET available = 7, reserved = 0")
    assert (await service.client.delete(f"/api/images/{job_id}")).status_code == 204
    [balance] = rows(service, "SELECT available, reserved FROM balances")
    assert balance == rows(service, "SELECT SUM(available) AS available, SUM(reserved) AS reserved FROM ledger")[0]
    assert (balance["available"] < before[0]["available"], balance["reserved"]) == (True, 0)
    assert caplog.messages.count("balance.rebuilt") == 1
