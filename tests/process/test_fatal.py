"""What the process cannot do without is gone: it ends with the reason, and acknowledges nothing that is lost."""

import contextlib
import os
import pathlib
import shutil
import signal

import httpx
import pytest

from nanohook import settings
from nanohook.cli import people
from nanohook.sandbox.options import Options
from tests import books, live, rig
from tests.process import child
from tests.process.upstream import Odd

END_S = 30.0
RESTORE = "put back the newest of your backups (nanohook backup)"


@contextlib.asynccontextmanager
async def running(data_dir: pathlib.Path, **how):
    """A service with a task that NanoBanana has; yields it, a client, and the path of its callbacks."""
    account = people.NewAccount(email="ada@example.org", is_verified=True, credits=1_000)
    key = await people.create(settings.fixed(data_dir=data_dir), account)
    upstream = Odd(Options(latency_s=600))
    port = live.closed_port()
    base = f"http://127.0.0.1:{port}"
    headers = {"Authorization": f"Bearer {key}"}
    async with (
        live.serve(upstream) as address,
        child.service(data_dir, port=port, upstream=address, reconcile_after_s=3600, **how) as service,
        httpx.AsyncClient(base_url=base, headers=headers, trust_env=False, timeout=20) as client,
    ):
        made = await client.post("/api/generate-image", json={"prompt": "a kite"})
        assert made.status_code == 202, made.text
        await live.until(
            lambda: upstream.tasks.by_id and books.rows(data_dir, "SELECT 1 FROM tasks WHERE step = 'ask'")
        )
        [task] = upstream.tasks.by_id.values()
        yield service, client, httpx.URL(str(task.order.callback_url)).path


async def call_back(client: httpx.AsyncClient, path: str, number: int) -> httpx.Response | None:
    """Call back with something new; ``None``: nobody is there."""
    body = {"status": "generating", "data": {"progress": 60 + number % 10, "number": number}}
    try:
        return await client.post(path, json=body)
    except httpx.TransportError:
        return None


def sentence(service: child.Child) -> str:
    """What it says in the end, for people."""
    [found] = [line for line in service.said.splitlines() if line.startswith("nanohook: ")]
    return found


def empty(folder: pathlib.Path) -> None:
    for path in folder.iterdir():
        if path.name != "logs":
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def remove_database(folder: pathlib.Path) -> None:
    (folder / "nanohook.db").unlink()


def put_back_a_backup(folder: pathlib.Path) -> None:
    """As an operator may who forgot to stop the service."""
    shutil.copyfile(folder / "nanohook.db", folder / "backup.db")
    (folder / "backup.db").rename(folder / "nanohook.db")


def remove_log(folder: pathlib.Path) -> None:
    (folder / "nanohook.db-wal").unlink()


@pytest.mark.parametrize("act", [empty, remove_database, put_back_a_backup, remove_log])
async def test_a_database_that_is_taken_away_ends_the_process_and_nothing_is_acknowledged_after(tmp_path, act):
    async with running(tmp_path) as (service, client, path):
        first = await call_back(client, path, 0)
        assert first is not None
        assert (first.status_code, first.json()["status"]) == (200, "accepted")
        act(tmp_path)
        # From here on nobody is told that something was kept.
        ready = None
        with contextlib.suppress(httpx.TransportError):
            ready = (await client.get("/readyz")).status_code
        answers = [await call_back(client, path, number) for number in range(1, 6)]
        assert ready in {503, None}
        assert {answer.status_code for answer in answers if answer is not None} <= {503}
        assert await service.exited(timeout_s=END_S) == 1
    assert "nanohook.db" in sentence(service)
    assert "while it was in use" in sentence(service)
    assert RESTORE in sentence(service)


async def test_a_loss_is_noticed_by_a_service_that_nobody_asks_anything(tmp_path):
    async with running(tmp_path) as (service, _client, _path):
        empty(tmp_path)
        assert await service.exited(timeout_s=END_S) == 1
    assert RESTORE in sentence(service)


async def test_the_log_of_a_database_that_was_put_in_its_place_is_left_alone(tmp_path):
    """SQLite removes the log by its name when the last connection closes: it would be that of the other file."""
    async with running(tmp_path) as (service, _client, _path):
        os.kill(service.process.pid, signal.SIGSTOP)
        (tmp_path / "nanohook.db").rename(tmp_path / "former.db")
        for ending in ("-wal", "-shm"):
            (tmp_path / f"nanohook.db{ending}").rename(tmp_path / f"former.db{ending}")
            (tmp_path / f"nanohook.db{ending}").write_bytes(b"another's")
        (tmp_path / "nanohook.db").write_bytes(b"another's")
        os.kill(service.process.pid, signal.SIGCONT)
        assert await service.exited(timeout_s=END_S) == 1
    assert (tmp_path / "nanohook.db-wal").read_bytes() == b"another's"


async def test_damage_that_is_met_while_it_runs_ends_the_process_and_doctor_finds_it(tmp_path):
    async with running(tmp_path) as (service, client, path):
        # Read into memory by another process, and written back with what the log holds, before it is damaged.
        books.rows(tmp_path, "PRAGMA wal_checkpoint(TRUNCATE)")
        [root] = books.rows(tmp_path, "SELECT rootpage FROM sqlite_master WHERE name = 'deliveries'")
        with (tmp_path / "nanohook.db").open("r+b") as file:
            file.seek((root["rootpage"] - 1) * 4096)
            file.write(b"\xa5" * 4096)
        # Another process changes something: what is cached is read anew.
        books.rows(tmp_path, "UPDATE facts SET value = value")
        answers = [await call_back(client, path, number) for number in range(5)]
        assert {answer.status_code for answer in answers if answer is not None} <= {503}
        assert await service.exited(timeout_s=END_S) == 1
    assert "is damaged" in sentence(service)
    assert RESTORE in sentence(service)
    doctor = await child.ran(
        "doctor", "--json", folder=tmp_path / "doctor", env={"NANOHOOK_DATA_DIR": str(tmp_path)}
    )
    assert doctor.code == 1
    assert "is damaged" in doctor.printed
    assert RESTORE in doctor.printed
    # The next start says the same, and takes nothing.
    command = child.entry(tmp_path, port=live.closed_port(), upstream="http://127.0.0.1:9")
    with child.started(command, tmp_path / "logs") as second:
        assert await second.exited(timeout_s=END_S) != 0
    assert "is damaged" in second.said


async def test_a_writer_that_only_crashes_ends_the_process_with_the_reason(tmp_path):
    async with running(tmp_path, crash_at="database.batch") as (service, client, path):
        (tmp_path / "crash").touch()
        answers = []
        while service.process.poll() is None:
            answers.append(await call_back(client, path, len(answers)))
        assert {answer.status_code for answer in answers if answer is not None} == {503}
        assert await service.exited(timeout_s=END_S) == 1
    assert "the database-writer has crashed 6 times in a row" in sentence(service)


async def test_media_that_are_taken_away_are_told_of_and_missed_until_the_folder_is_back(tmp_path):
    """A disk that was unmounted looks the same: nothing new may go where it was. Callbacks go on."""
    async with running(tmp_path) as (service, client, path):
        sent = {"file": ("x.png", rig.picture())}
        url = (await client.post("/api/images", files=sent)).raise_for_status().json()["original"]["url"]
        (tmp_path / "media").rename(tmp_path / "elsewhere")
        refused = await client.post("/api/images", files=sent)
        assert (refused.status_code, refused.json()["code"]) == (503, "storage_failed")
        assert (await client.get(url)).status_code == 404
        taken = await call_back(client, path, 1)
        assert taken is not None
        assert taken.status_code == 200
        (tmp_path / "elsewhere").rename(tmp_path / "media")
        assert (await client.post("/api/images", files=sent)).status_code == 201
        assert (await client.get(url)).status_code == 200
        assert await service.stopped() == 0
