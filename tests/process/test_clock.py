"""The wall clock is set while the service runs, and while it does not: nobody waits for it."""

import pathlib

import httpx

from nanohook import settings
from nanohook.cli import surroundings
from nanohook.cli.findings import Level
from nanohook.sandbox.options import Options
from tests import books, live, rig
from tests.process import child
from tests.process.upstream import Always, Odd, refused
from tests.process.world import make_ready, world

PICTURE = rig.picture(256, 256, kind="JPEG")


async def completed(it, number: int) -> None:
    await live.until(lambda: len(it.rows("SELECT 1 FROM jobs WHERE status = 'COMPLETED'")) == number, timeout_s=20)


async def test_an_hour_back_holds_nobody_up(tmp_path: pathlib.Path):
    clock = tmp_path / "clock"
    clock.write_text("0")
    # A small rate: a window that went by the wall clock would be full for an hour.
    upstream = Odd(Options(latency_s=0.1, picture_bytes=PICTURE), submit={"busy": [Always(refused(429))]})
    ready = await make_ready(tmp_path / "ready")
    async with world(ready, tmp_path / "data", upstream, clock=clock, upstream_rate="4/second") as it:
        await it.generate("first")
        await completed(it, 1)
        await it.generate("busy")
        lost = await it.generate("lost [sandbox:drop]")
        await live.until(lambda: it.rows("SELECT 1 FROM tasks WHERE job_id = ? AND step = 'ask'", lost))
        assert (await it.client.get("/readyz")).json() == {"status": "ready"}
        clock.write_text("-3600")
        await it.generate("second")
        upstream.let_through("submit")
        await completed(it, 4)
        told = (await it.client.get("/readyz")).raise_for_status().json()
        assert -3605 < told["clock_jumped_s"] < -3595
        clock.write_text("-3620")
        await it.generate("third")
        await completed(it, 5)
        clock.write_text("90000")
        await it.generate("fourth")
        await completed(it, 6)
    assert '"clock.jumped"' in it.service.said


async def test_an_hour_back_while_nobody_runs_holds_nobody_up(tmp_path: pathlib.Path):
    clock = tmp_path / "clock"
    clock.write_text("3600")
    upstream = Odd(Options(latency_s=0.1, picture_bytes=PICTURE), submit={"busy": [Always(refused(429))]})
    ready = await make_ready(tmp_path / "ready")
    port = live.closed_port()
    async with live.serve(upstream) as url:
        where = {"port": port, "upstream": url, "clock": clock}
        async with child.service(ready.data_dir, **where) as first:
            await ordered(port, ready.key, "busy")
            await live.until(lambda: len(upstream.asked["submit", "busy"]) > 2)
            assert await first.stopped() == 0
        clock.write_text("0")
        upstream.let_through("submit")
        done = "SELECT 1 FROM jobs WHERE status = 'COMPLETED'"
        async with child.service(ready.data_dir, **where) as second:
            await live.until(lambda: books.rows(ready.data_dir, done), timeout_s=20)
            assert await second.stopped() == 0
    books.check(ready.data_dir)
    behind = await surroundings.look_at_clock(settings.fixed(data_dir=ready.data_dir))
    assert (behind.check, behind.level) == ("clock", Level.OK)
    books.rows(ready.data_dir, "UPDATE events SET created_at = created_at + 3600000000")
    behind = await surroundings.look_at_clock(settings.fixed(data_dir=ready.data_dir))
    assert (behind.check, behind.level) == ("clock", Level.WARN)
    assert "it was set back" in behind.text


async def ordered(port: int, key: str, prompt: str) -> None:
    headers = {"Authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers=headers, trust_env=False) as client:
        (await client.post("/api/generate-image", json={"prompt": prompt})).raise_for_status()
