"""`doctor --audit`: finds nothing wrong where nothing is, and every single thing that is; it changes nothing."""

import asyncio
import contextlib
import hashlib
import os
import pathlib
import shutil
import sqlite3
import time

import orjson
import pytest

from nanohook import clock, errors, migrations, settings
from nanohook.cli import integrity
from nanohook.cli.findings import Level
from tests import books, live, rig

RUNNING = "[sandbox:latency=60]"


def audited(data_dir, *, now_us=None):
    """Every verdict by its name."""

    async def examine():
        chosen = settings.fixed(data_dir=data_dir)
        return {
            verdict.name: verdict
            async for verdict in integrity.examine(
                chosen, now_us=now_us or clock.now_us(), progress=lambda _number: None
            )
        }

    return asyncio.run(examine())


def bad(data_dir, **more):
    return {name: verdict for name, verdict in audited(data_dir, **more).items() if verdict.level is not Level.OK}


async def fill(data_dir):
    """Leave some of everything: open, completed, failed, canceled, deleted, uploaded; a cover, something late."""
    async with rig.running(data_dir) as service:
        running = (await service.generate(RUNNING))["job_id"]
        uploaded = await service.upload(rig.picture(64, 48))
        await service.generate(imageId=uploaded["job_id"], numImages=2)
        failed = (await service.generate("[sandbox:fail=501] x"))["job_id"]
        canceled = (await service.generate(RUNNING))["job_id"]
        deleted = (await service.generate())["job_id"]
        await service.upload(rig.picture(64, 48))
        for job_id in (uploaded["job_id"], failed, deleted):
            await service.ended(job_id)
        await live.until(lambda: len(books.rows(data_dir, "SELECT 1 FROM tasks WHERE step = 'ask'")) == 2)
        await service.client.post(f"/api/images/{canceled}/cancel")
        await service.client.delete(f"/api/images/{deleted}")
        cover = {"cover": ("x.png", rig.picture())}
        await service.client.post("/api/projects", data={"name": "Winter"}, files=cover)
        await service.parts.storage.put("results/late.png", b"late")
        await service.parts.storage.put("results/late-small.webp", b"late")
        books.rows(
            data_dir,
            "INSERT INTO unclaimed SELECT id, 1, 0, owner_id, 'results/late.png', 'results/late-small.webp', "
            "'image/png', 1, 1, 4, ?, ? FROM jobs WHERE id = ?",
            hashlib.sha256(b"late").digest(),
            clock.now_us(),
            failed,
        )
        await service.call_back(running, {"status": "generating", "data": {"progress": 66}})
        # Beside the service, which goes on.
        assert await asyncio.to_thread(bad, data_dir) == {}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A data folder where nothing is wrong, and nobody at work."""
    folder = tmp_path_factory.mktemp("whole")
    asyncio.run(fill(folder))
    return folder


@pytest.fixture
def data_dir(whole, tmp_path, monkeypatch):
    monkeypatch.setattr(integrity, "AGAIN_S", 0.001)
    return shutil.copytree(whole, tmp_path / "data", symlinks=True)


def change(data_dir, sql):
    """Make one thing wrong."""
    with contextlib.closing(sqlite3.connect(data_dir / "nanohook.db")) as connection, connection:
        assert connection.execute(sql).rowcount != 0


def test_all_is_well_and_nothing_was_changed(data_dir):
    def seen():
        # Who reads a log beside others has a place in its index.
        parts = ("-wal", "-shm")
        files = [path for path in data_dir.rglob("*") if path.is_file() and not path.name.endswith(parts)]
        return {path: path.read_bytes() for path in files}

    before = seen()
    verdicts = audited(data_dir)
    assert [verdict.lines().__next__() for verdict in verdicts.values() if verdict.level is not Level.OK] == []
    assert list(verdicts) == [
        *("schema", "ledger", "reserved", "counts", "open", "completed", "paid_once", "events", "deliveries"),
        *("files", "strays"),
    ]
    assert verdicts["files"].note == "7 pictures"
    assert seen() == before


FAILED = "(SELECT id FROM jobs WHERE status = 'FAILED')"
LAST = "(SELECT last_event_id FROM jobs WHERE status = 'FAILED')"
COMPLETED = "(SELECT id FROM jobs WHERE status = 'COMPLETED' AND deleted_at IS NULL)"
ENTRY = (
    "INSERT INTO ledger (owner_id, kind, available, reserved, job_id, attempt, idx, created_at) SELECT owner_id, "
)
EVENT = "INSERT INTO events (owner_id, job_id, name, is_last, payload, created_at) SELECT owner_id, job_id, "
TASK = (
    "INSERT INTO tasks (job_id, attempt, idx, owner_id, task_id, stage, progress) "
    "SELECT job_id, 2, idx, owner_id, "
)
WRONG = {
    "a balance too high": ("ledger", "UPDATE balances SET available = available + 1"),
    "a reserve that is nobody's": ("ledger", "UPDATE balances SET reserved = reserved + 1"),
    "an entry lost": ("ledger reserved", "DELETE FROM ledger WHERE id = (SELECT MAX(id) FROM ledger)"),
    "a return too many": (
        # On its own it looks like that of a canceled task which NanoBanana had not taken.
        "ledger",
        f"{ENTRY} 'return', 4, 0, job_id, attempt, idx, 1 FROM ledger WHERE kind = 'charge' LIMIT 1",
    ),
    "a count too high": ("counts", "UPDATE job_counts SET number = number + 1 WHERE status = 'FAILED'"),
    "a job that is not counted": ("counts", "UPDATE jobs SET project_id = 'p' WHERE status = 'FAILED'"),
    "an open task without a step": ("open", "UPDATE tasks SET step = NULL WHERE step = 'ask'"),
    "an open task that is never due": ("open", "UPDATE tasks SET due_at = NULL WHERE step = 'ask'"),
    "an open job whose tasks have ended": (
        "open reserved",
        "UPDATE tasks SET stage = 'failed', step = NULL, due_at = NULL WHERE step = 'ask'",
    ),
    "an ended job with an open task": (
        "open reserved",
        f"UPDATE tasks SET stage = 'generating', step = 'ask', due_at = 1 WHERE job_id = {FAILED}",
    ),
    "a completed job without a picture": (
        "completed strays",
        f"DELETE FROM pictures WHERE job_id = {COMPLETED}",
    ),
    "a task of two pictures": (
        "paid_once",
        "UPDATE tasks SET task_id = (SELECT task_id FROM tasks WHERE step = 'ask') WHERE stage = 'failed'",
    ),
    "a second purchase where there was a picture": (
        "paid_once",
        f"{TASK} 'another', 'failed', 60 FROM tasks WHERE stage = 'completed' AND idx = 1",
    ),
    "a second purchase beside an open one": (
        "paid_once",
        f"{TASK} NULL, 'failed', 60 FROM tasks WHERE step = 'ask'",
    ),
    "a status that nobody was told": (
        "events counts",
        "UPDATE jobs SET status = 'CANCELED' WHERE status = 'FAILED'",
    ),
    "a progress that nobody was told": ("events", "UPDATE jobs SET progress = 61 WHERE status = 'FAILED'"),
    "an attempt that nobody was told": (
        "events open",
        "UPDATE jobs SET attempt = 2 WHERE status = 'GENERATING'",
    ),
    "an event too many": (
        "events",
        f"{EVENT} name, is_last, payload, 1 FROM events WHERE id = {LAST}",
    ),
    "a last event that is lost": (
        "events",
        f"DELETE FROM events WHERE id = {LAST}",
    ),
    "all events lost": (
        "events",
        f"DELETE FROM events WHERE job_id = {FAILED}",
    ),
    "a dead letter": (
        "deliveries",
        "UPDATE deliveries SET effect = 'dead', reason = 'KeyError' WHERE source = 'token'",
    ),
    "a size that is another": ("files", "UPDATE originals SET bytes = bytes + 1"),
    "a sha256 that is another": ("files", "UPDATE unclaimed SET sha256 = x'00'"),
    "an older schema": ("schema", "UPDATE alembic_version SET version_num = '0002'"),
    "a newer schema": ("schema", "UPDATE alembic_version SET version_num = '9999'"),
}


@pytest.mark.parametrize(("names", "sql"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_in_the_rows_is_named(data_dir, names, sql):
    change(data_dir, sql)
    found = bad(data_dir, now_us=clock.now_us() + 48 * 3600 * 1_000_000 if "strays" in names else None)
    assert set(found) == set(names.split())
    for verdict in found.values():
        assert verdict.level is (Level.WARN if verdict.name == "deliveries" else Level.FAIL)
        assert verdict.number >= 1
        assert verdict.examples or verdict.note
        assert len(list(verdict.lines())) == 1 + len(verdict.examples)


@pytest.mark.parametrize("table", ["originals", "pictures", "projects", "unclaimed"])
def test_a_file_that_is_missing_cut_or_another_is_named(data_dir, table):
    [[key, thumbnail_key], *_] = map(
        dict.values, books.rows(data_dir, f"SELECT key, thumbnail_key FROM {table} ORDER BY key")
    )
    path = data_dir / "media" / key
    body = path.read_bytes()
    for wrong, said in (
        (None, "it is missing"),
        (body[:-1], f"it has {len(body) - 1} bytes instead of {len(body)}"),
        (bytes([body[0] ^ 1]) + body[1:], "its sha256 is another"),
    ):
        path.unlink(missing_ok=True)
        if wrong is not None:
            path.write_bytes(wrong)
        found = bad(data_dir)
        if "sha256" in said and table in {"originals", "projects"}:
            assert found == {}  # of these no hash is kept
            continue
        assert found["files"].examples == (f"{key}: {said}",)
        assert set(found) == {"files"}
    path.write_bytes(body)
    (data_dir / "media" / thumbnail_key).unlink()
    assert bad(data_dir)["files"].examples == (f"{key}: its thumbnail {thumbnail_key} is missing",)


def test_a_file_without_a_row_is_named_once_it_is_a_day_old(data_dir):
    for number in range(12):
        path = data_dir / "media" / f"{number}.png#1"
        path.touch()
        os.utime(path, (time.time() - 86_401,) * 2)
    (data_dir / "media" / "young.png").touch()
    found = bad(data_dir)
    assert set(found) == {"strays"}
    strays = found["strays"]
    assert (strays.number, len(strays.examples), strays.note) == (12, 10, "1 young, perhaps being written")
    assert list(strays.lines())[-1] == "      and 2 more"


def test_what_housekeeping_may_be_removing_just_now_is_not_missing(data_dir):
    """A deleted job's files go before its rows; an ended job's events go one day."""
    [deleted] = books.rows(data_dir, "SELECT id, deleted_at FROM jobs WHERE deleted_at IS NOT NULL")
    for row in books.rows(data_dir, "SELECT key FROM pictures WHERE job_id = ?", deleted["id"]):
        (data_dir / "media" / row["key"]).unlink()
    assert set(bad(data_dir)) == {"files"}
    change(data_dir, f"UPDATE jobs SET deleted_at = {deleted['deleted_at'] - 86_400_000_000} WHERE deleted_at > 0")
    assert bad(data_dir) == {}

    [failed] = books.rows(data_dir, "SELECT id, last_event_id FROM jobs WHERE status = 'FAILED'")
    change(data_dir, f"DELETE FROM events WHERE job_id = '{failed['id']}'")
    change(data_dir, f"INSERT INTO facts VALUES ('events_removed_to', '{failed['last_event_id']}')")
    assert bad(data_dir) == {}


def test_the_exit_code_and_what_is_printed(data_dir, capsys):
    chosen = settings.fixed(data_dir=data_dir)
    assert integrity.run(chosen) == 0
    said = capsys.readouterr()
    assert said.out.splitlines()[1] == "ok    the ledger is the balance"
    assert said.err == ""
    change(data_dir, "UPDATE balances SET available = available + 1")
    assert integrity.run(chosen) == 1
    [owner] = books.rows(data_dir, "SELECT id FROM users")
    said = capsys.readouterr().out
    assert "FAIL  the ledger is the balance: 1 found\n" in said
    assert f"      {owner['id']} available 1 reserved 0 too many\n" in said
    assert integrity.run(chosen, json=True) == 1
    shown = orjson.loads(capsys.readouterr().out)
    assert shown["ok"] is False
    assert [check["name"] for check in shown["checks"] if check["level"] == "FAIL"] == ["ledger"]


def test_no_database_is_made_and_one_that_is_damaged_is_refused(tmp_path):
    empty = tmp_path / "empty"
    with pytest.raises(errors.ConfigError, match="no database"):
        audited(empty)
    assert not empty.exists()
    empty.mkdir()
    (empty / "nanohook.db").write_bytes(b"not a database" * 100)
    with pytest.raises(errors.ConfigError, match="cannot be read"):
        audited(empty)
    assert {path.name for path in empty.iterdir()} == {"nanohook.db"}


def test_an_empty_database_is_in_order(tmp_path):
    migrations.upgrade(tmp_path / "nanohook.db")
    assert bad(tmp_path) == {}
    assert not pathlib.Path(tmp_path / "media").exists()
