"""
Our own side fails: the disk is full or cannot be written, another process holds the database, the account is
empty, NanoBanana is not there. Nothing that was acknowledged is lost, what was not is sent again, and all goes on
when the cause is gone.

The scenes mostly wait, so they run side by side; each test looks at one of them.
"""

import asyncio
import contextlib
import pathlib
import resource
import sqlite3
import subprocess
from collections.abc import AsyncIterator, Iterator

import pytest

from nanohook.sandbox.options import Options
from tests import live, rig
from tests.process.upstream import Hold, Odd, refused
from tests.process.world import Ready, World, make_ready, world

JOBS = 4
LOCKED_S = 10.0
DISK_BYTES = 8 * 1024 * 1024
PICTURE = rig.picture(256, 256, kind="JPEG")


async def a_database_that_is_locked_for_ten_seconds_loses_no_callback(ready: Ready, folder: pathlib.Path) -> None:
    async with world(ready, folder, _upstream(latency_s=1.5), reconcile_after_s=60) as it:
        job_ids = await _submitted(it)
        with contextlib.closing(sqlite3.connect(folder / "nanohook.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            unlocked = asyncio.get_running_loop().time() + LOCKED_S
            # Reading goes on meanwhile.
            assert (await it.client.get(f"/api/images/{job_ids[0]}")).json()["status"] == "GENERATING"
            await asyncio.sleep(unlocked - asyncio.get_running_loop().time())
            said = {task.callback_status for task in it.upstream.tasks.by_id.values()}
            assert said <= {None, 503}  # waiting, or told to come again
            other.execute("ROLLBACK")
        await _all_completed(it, job_ids)
        # None of them had to be asked for: the repeats came through.
        assert it.rows("SELECT 1 FROM deliveries WHERE source = 'record'") == []
        assert len(it.rows("SELECT 1 FROM deliveries WHERE source = 'token'")) == JOBS
        assert {task.callback_status for task in it.upstream.tasks.by_id.values()} == {200}


async def a_process_that_may_write_nothing_takes_no_callback_and_loses_none(
    ready: Ready, folder: pathlib.Path
) -> None:
    """A limit on the size of files: every write fails, of the database, of pictures and of the log."""
    async with world(ready, folder, _upstream(latency_s=1.0), reconcile_after_s=60) as it:
        job_ids = await _submitted(it)
        pid = it.service.process.pid
        most = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (1, most[1]))
        await _refused(it)
        assert (await it.client.get(f"/api/images/{job_ids[0]}")).json()["status"] == "GENERATING"
        upload = await it.client.post("/api/images", files={"file": ("x.png", rig.picture())})
        assert upload.status_code in {503, 507}, upload.text
        resource.prlimit(pid, resource.RLIMIT_FSIZE, most)
        await _all_completed(it, job_ids)


async def a_full_disk_holds_pictures_up_and_loses_none(ready: Ready, folder: pathlib.Path) -> None:
    hold = Hold()
    chosen = Options(latency_s=0.2, callback_pause_s=0.5, picture_bytes=PICTURE)
    upstream = Odd(chosen, picture={"": [hold] * 100})
    with _small_disk(folder) as disk:
        async with world(ready, disk / "data", upstream, finish_concurrency=JOBS) as it:
            job_ids = [await it.generate(f"kite {number}") for number in range(JOBS)]
            await it.until("step = 'finish'", number=JOBS)
            _fill(disk / "filler")
            hold.gate.set()
            await live.until(lambda: "storage_failed" in it.service.said or "commit_failed" in it.service.said)
            (disk / "filler").unlink()
            await _all_completed(it, job_ids)


async def a_folder_that_cannot_be_written_holds_pictures_up_and_loses_none(
    ready: Ready, folder: pathlib.Path
) -> None:
    """A file in the folder's place: root may write to whatever is only marked read-only."""
    async with world(ready, folder, _upstream(latency_s=0.1)) as it:
        (folder / "media" / "results").write_bytes(b"")
        job_ids = [await it.generate(f"kite {number}") for number in range(JOBS)]
        await live.until(lambda: it.service.said.count("storage_failed") >= JOBS, timeout_s=20)
        assert it.rows("SELECT DISTINCT status FROM jobs") == [{"status": "GENERATING"}]
        (folder / "media" / "results").unlink()
        await _all_completed(it, job_ids)


async def an_empty_account_keeps_all_waiting_until_it_is_topped_up(ready: Ready, folder: pathlib.Path) -> None:
    upstream = Odd(Options(latency_s=0.1, credit=0, picture_bytes=PICTURE))
    async with world(ready, folder, upstream, are_errors_expected=True) as it:
        job_ids = [await it.generate(f"kite {number}") for number in range(JOBS)]
        await live.until(lambda: "upstream.blocked" in it.service.said)
        await it.until("held = 0", number=JOBS)
        # What was tried goes no step back.
        stages = {row["stage"] for row in it.rows("SELECT stage FROM jobs")}
        assert stages <= {"queued", "submitting"}
        asked = sum(map(len, upstream.asked.values()))
        upstream.tasks.credit = 1_000
        await _all_completed(it, job_ids)
        # Those that were on their way at once, then nobody but one that tried first.
        assert asked <= 2 * JOBS


async def a_key_that_is_refused_for_a_while_costs_no_job(ready: Ready, folder: pathlib.Path) -> None:
    upstream = Odd(Options(latency_s=0.1, picture_bytes=PICTURE), submit={"": [refused(401)] * JOBS})
    async with world(ready, folder, upstream, are_errors_expected=True) as it:
        await _all_completed(it, [await it.generate(f"kite {number}") for number in range(JOBS)])


async def a_nanobanana_that_is_away_is_waited_for(ready: Ready, folder: pathlib.Path) -> None:
    port = live.closed_port()
    given = {"nanobanana_url": f"http://127.0.0.1:{port}", "download_hosts": [f"127.0.0.1:{port}"]}
    async with world(ready, folder, _upstream(latency_s=0.1), **given) as it:
        job_ids = [await it.generate(f"kite {number}") for number in range(JOBS)]
        await live.until(lambda: it.service.said.count("NotSent") >= 2 * JOBS)
        async with _relay(port, to_port=it.upstream_port):
            await _all_completed(it, job_ids)


@contextlib.asynccontextmanager
async def _relay(port: int, *, to_port: int) -> AsyncIterator[None]:
    """Pass on what comes to *port*."""

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(65_536):
            writer.write(piece)
            await writer.drain()
        writer.close()

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", to_port)
        await asyncio.gather(pipe(reader, back), pipe(there, writer), return_exceptions=True)

    async with await asyncio.start_server(pass_on, "127.0.0.1", port):
        yield


def _upstream(*, latency_s: float) -> Odd:
    return Odd(Options(latency_s=latency_s, callback_pause_s=1.0, picture_bytes=PICTURE))


async def _submitted(it: World) -> list[str]:
    """Ask for some pictures, and wait until NanoBanana has them all."""
    job_ids = [await it.generate(f"kite {number}") for number in range(JOBS)]
    await it.until("accepted_at IS NOT NULL", number=JOBS)
    return job_ids


async def _refused(it: World) -> None:
    """Wait until each callback was refused, to be sent again."""
    tasks = it.upstream.tasks.by_id.values()
    await live.until(lambda: all(task.callbacks_sent for task in tasks), timeout_s=20)
    assert {task.callback_status for task in tasks} == {503}


async def _all_completed(it: World, job_ids: list[str]) -> None:
    await it.quiet()
    assert it.rows("SELECT id, status FROM jobs ORDER BY id") == [
        {"id": job_id, "status": "COMPLETED"} for job_id in sorted(job_ids)
    ]
    assert it.upstream.tasks.submitted == len(job_ids)


def _fill(path: pathlib.Path) -> None:
    """Write until there is no room for a byte more."""
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


@contextlib.contextmanager
def _small_disk(place: pathlib.Path) -> Iterator[pathlib.Path]:
    """A disk of its own, in memory; whoever may not mount one skips."""
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "none", str(place)]
    made = subprocess.run(mount, check=False, capture_output=True)
    if made.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {made.stderr.decode()}")
    try:
        yield place
    finally:
        # Lazily: a connection that read it may not have been collected yet.
        subprocess.run(["umount", "--lazy", str(place)], check=True)


SCENES = [
    a_database_that_is_locked_for_ten_seconds_loses_no_callback,
    a_process_that_may_write_nothing_takes_no_callback_and_loses_none,
    a_full_disk_holds_pictures_up_and_loses_none,
    a_folder_that_cannot_be_written_holds_pictures_up_and_loses_none,
    an_empty_account_keeps_all_waiting_until_it_is_topped_up,
    a_key_that_is_refused_for_a_while_costs_no_job,
    a_nanobanana_that_is_away_is_waited_for,
]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, BaseException | None]:
    folder = tmp_path_factory.mktemp("here")

    async def play() -> list[BaseException | None]:
        ready = await make_ready(folder / "ready")
        played = [scene(ready, folder / str(number)) for number, scene in enumerate(SCENES)]
        return await asyncio.gather(*played, return_exceptions=True)

    names = [scene.__name__ for scene in SCENES]
    return dict(zip(names, asyncio.run(play()), strict=True))


@pytest.mark.parametrize("name", [scene.__name__ for scene in SCENES])
def test_whatever_fails_on_our_side(outcomes: dict[str, BaseException | None], name: str):
    outcome = outcomes[name]
    if outcome is not None:
        raise outcome
