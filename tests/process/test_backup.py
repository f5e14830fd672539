"""`nanohook backup`: beside a service under load, cut off, refused; and a service that goes on from one."""

import asyncio
import contextlib
import pathlib
import shutil
import signal
import stat
import subprocess
import sys

import pytest

from nanohook import errors, faults, settings
from nanohook.cli import backup
from nanohook.sandbox.options import Options
from tests import books, live, rig
from tests.process import child, post_mortem

JOBS = 12


async def test_a_backup_under_load_is_whole_and_a_service_goes_on_from_it(tmp_path):
    data_dir, folder = tmp_path / "data", tmp_path / "deep" / "backup"
    async with rig.running(data_dir, sandbox=Options(latency_s=0.02, callback_pause_s=0.05)) as service:
        admin = await rig.make_account(service, "root@example.org", is_admin=True)
        first = await service.ended((await service.generate())["job_id"])
        uploaded = [(await service.upload(rig.picture(64, 48)))["job_id"] for _ in range(JOBS)]
        running = [asyncio.create_task(generated(service, job_id)) for job_id in uploaded]
        await live.until(lambda: len(books.rows(data_dir, "SELECT 1 FROM pictures")) > 2)
        made = await asyncio.to_thread(backup.run, service.parts.settings, folder)
        assert await books.audited(folder) == []
        assert len(books.rows(folder, "SELECT 1 FROM pictures")) < JOBS + 1
        await asyncio.gather(*running)
        later = (await service.generate("[sandbox:latency=60]"))["job_id"]
        address = f"/api/webhooks/image-completion/{service.token(later)}"
        assert await books.audited(data_dir) == []
    check_folder(folder, made)

    async with rig.running(folder, sign_up=False) as service:
        job_id = first["job_id"]
        service.client.headers["Authorization"] = f"Bearer {admin}"
        assert (await service.job(job_id))["status"] == "COMPLETED"
        # Addresses that were given out stay valid: the secret is the same.
        assert (await service.client.get(first["images"][0]["url"])).status_code == 200
        answer = await service.client.post(address, json={"status": "generating"})
        assert (answer.status_code, answer.json()["status"]) == (200, "accepted")
        # What stood in line may have been bought since: nothing is submitted before somebody says so.
        stood = {row["job_id"] for row in books.rows(folder, "SELECT job_id FROM tasks WHERE step = 'submit'")}
        waiting = (await service.client.get("/api/stats?scope=all")).raise_for_status().json()["work"]
        assert (waiting["state"], waiting["waiting"]) == ("paused", len(stood))
        listed = (await service.client.get("/api/deliveries?effect=parked")).raise_for_status().json()
        [parked] = listed["deliveries"]
        assert (parked["delivery_id"], parked["job_id"]) == (answer.json()["delivery_id"], later)


async def test_who_followed_what_is_lost_is_reset_however_late_they_come_back(tmp_path):
    data_dir, folder = tmp_path / "data", tmp_path / "backup"
    async with rig.running(data_dir) as service:
        key = service.client.headers["Authorization"]
        admin = await rig.make_account(service, "root@example.org", is_admin=True)
        kept = await service.ended((await service.generate())["job_id"])
        await asyncio.to_thread(backup.run, service.parts.settings, folder)
        lost = await service.ended((await service.generate())["job_id"])
    cursors = [kept["event_id"] + 1, lost["event_id"]]

    async with rig.running(folder, sign_up=False) as service:
        service.client.headers["Authorization"] = f"Bearer {admin}"
        (await service.client.post("/api/work/resume")).raise_for_status()
        service.client.headers["Authorization"] = key
        assert [await first_event(service, each) for each in cursors] == ["reset"] * 2
        for _ in range(2):  # more than was lost
            newest = await service.ended((await service.generate())["job_id"])
        assert [await first_event(service, each) for each in cursors] == ["reset"] * 2
        assert await first_event(service, newest["event_id"] - 1) == "status"
        # Nor is a job's own stream believed to be over for who has ids that it never gave.
        path = f"/api/images/{kept['job_id']}/events"
        assert [await first_event(service, each, path) for each in cursors] == ["reset"] * 2
        over = await service.client.get(path, headers={"Last-Event-ID": str(kept["event_id"])})
        assert over.status_code == 204
    assert await books.audited(folder) == []


async def first_event(service, cursor, path="/api/events"):
    async with service.client.stream("GET", path, headers={"Last-Event-ID": str(cursor)}) as answer:
        async for line in answer.aiter_lines():
            if line.startswith("event: "):
                return line.removeprefix("event: ")
    raise AssertionError("the stream ended")


async def generated(service, job_id):
    await service.generate(imageId=job_id)
    assert (await service.ended(job_id))["status"] == "COMPLETED"


def check_folder(folder, made):
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "secret").stat().st_mode) == 0o600
    assert {path.name for path in folder.iterdir()} == {"nanohook.db", "media", "secret"}
    assert post_mortem.files(folder) == post_mortem.named_files(folder)
    assert made.pictures == len(post_mortem.files(folder)) / 2
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    assert made.size_bytes == sum(sizes)


async def fill(data_dir):
    async with rig.running(data_dir) as service:
        await service.upload(rig.picture(64, 48))
        for name in ("Winter", "Spring"):
            cover = {"cover": ("x.png", rig.picture())}
            await service.client.post("/api/projects", data={"name": name}, files=cover)


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("filled")
    asyncio.run(fill(folder))
    return folder


@pytest.fixture
def chosen(filled, tmp_path):
    return settings.fixed(data_dir=shutil.copytree(filled, tmp_path / "data"))


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "backups" / "today"


@contextlib.contextmanager
def meanwhile(do):
    """Do something the first time that the database is copied, and its files not yet."""
    left = [do]

    def at(point):
        if point == "backup.database_copied" and left:
            left.pop()()

    faults.at = at
    try:
        yield
    finally:
        faults.at = None


def test_a_picture_that_is_removed_meanwhile_is_in_neither_the_rows_nor_the_files(chosen, folder):
    data_dir = chosen.data_dir

    def remove():
        [row, _] = books.rows(data_dir, "SELECT key, thumbnail_key FROM projects ORDER BY id")
        books.rows(data_dir, "DELETE FROM projects WHERE key = ?", row["key"])
        # Half of it was copied.
        (data_dir / "media" / row["thumbnail_key"]).unlink()

    with meanwhile(remove):
        backup.run(chosen, folder)
    assert asyncio.run(books.audited(folder)) == []
    assert len(books.rows(folder, "SELECT 1 FROM projects")) == 1
    assert post_mortem.files(folder) == post_mortem.named_files(folder)


def test_a_picture_that_is_lost_is_an_error_and_nothing_is_left(chosen, folder):
    [row] = books.rows(chosen.data_dir, "SELECT key FROM originals")
    (chosen.data_dir / "media" / row["key"]).unlink()
    with pytest.raises(errors.StorageFailed, match=row["key"]):
        backup.run(chosen, folder)
    assert list(folder.parent.iterdir()) == []


def test_a_folder_that_is_empty_becomes_the_backup(chosen, folder):
    folder.mkdir(parents=True)
    assert backup.run(chosen, folder).pictures == 3
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_folder_that_cannot_become_one_is_refused(chosen, tmp_path):
    full, file, link = tmp_path / "full", tmp_path / "file", tmp_path / "link"
    full.mkdir()
    (full / ".hidden").touch()
    file.touch()
    link.symlink_to(tmp_path / "elsewhere")
    for name, why in (
        (full, "not empty"),
        (file, "no folder"),
        (link, "no folder"),
        (chosen.data_dir / "media" / "backup", "media folder"),
        (chosen.data_dir, "not empty"),
        (pathlib.Path("/proc"), "a disk of its own"),
    ):
        with pytest.raises(errors.ConfigError, match=why):
            backup.run(chosen, name)
    assert not (tmp_path / "elsewhere").exists()
    with pytest.raises(errors.ConfigError, match="no database"):
        backup.run(settings.fixed(data_dir=tmp_path / "none"), tmp_path / "backup")
    books.rows(chosen.data_dir, "UPDATE alembic_version SET version_num = '0002'")
    with pytest.raises(errors.ConfigError, match="run nanohook migrate"):
        backup.run(chosen, tmp_path / "backup")


def test_one_that_is_cut_off_is_not_taken_for_a_backup(chosen, folder):
    code = (
        "import os, pathlib, signal, sys\nfrom nanohook import faults, settings\nfrom nanohook.cli import backup\n"
        "faults.at = lambda point: os.kill(os.getpid(), signal.SIGKILL)\n"
        "backup.run(settings.fixed(data_dir=pathlib.Path(sys.argv[1])), pathlib.Path(sys.argv[2]))"
    )
    command = [sys.executable, "-c", code, str(chosen.data_dir), str(folder)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    [half] = folder.parent.iterdir()
    assert half.name.startswith(".today.half-")
    backup.run(chosen, folder)
    assert asyncio.run(books.audited(folder)) == []


async def test_the_commands_say_what_they_did(chosen, folder, tmp_path):
    env = {"NANOHOOK_DATA_DIR": str(chosen.data_dir)}
    made = await child.ran("backup", str(folder), folder=tmp_path / "run", env=env)
    assert (made.code, made.printed.startswith("3 pictures and the database, ")) == (0, True), made.said
    audit = await child.ran("doctor", "--audit", folder=tmp_path / "audit", env={"NANOHOOK_DATA_DIR": str(folder)})
    assert (audit.code, audit.printed.count("ok  ")) == (0, 11), audit.said
    assert "\r" not in audit.said
