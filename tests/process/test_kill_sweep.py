"""kill -9 between files that are to go and their rows: a later sweep ends what this one began."""

import asyncio
import contextlib
import os
import pathlib
import sqlite3
from typing import Any

import httpx

from nanohook import settings
from nanohook.cli import people
from nanohook.sandbox.app import create_app
from nanohook.sandbox.options import Options
from tests import books, live, rig
from tests.process import child, post_mortem
from tests.process.upstream import Hold, Odd

DAY_US = 24 * 3600 * 1_000_000


async def test_what_was_half_swept_is_swept_after_a_restart(tmp_path):
    account = people.NewAccount(email="ada@example.org", is_verified=True)
    key = await people.create(settings.fixed(data_dir=tmp_path), account)
    headers = {"Authorization": f"Bearer {key}"}
    async with live.serve(create_app(Options())) as upstream:
        where = {"port": live.closed_port(), "upstream": upstream}
        async with child.service(tmp_path, **where) as service:
            base = f"http://127.0.0.1:{where['port']}"
            async with httpx.AsyncClient(base_url=base, headers=headers, trust_env=False) as client:
                for _ in range(2):
                    made = await client.post("/api/images", files={"file": ("x.png", rig.picture())})
                    path = f"/api/images/{made.raise_for_status().json()['job_id']}"
                    (await client.delete(path)).raise_for_status()
            assert await service.stopped() == 0
        assert len(post_mortem.files(tmp_path)) == 4
        with contextlib.closing(sqlite3.connect(tmp_path / "nanohook.db")) as connection, connection:
            connection.execute("UPDATE jobs SET deleted_at = deleted_at - ?", (2 * DAY_US,))

        await die_sweeping(tmp_path, "purge.files_gone", where)
        assert len(post_mortem.files(tmp_path)) == 2
        assert books.rows(tmp_path, "SELECT COUNT(purged_at) AS n FROM jobs") == [{"n": 0}]
        assert len(books.rows(tmp_path, "SELECT 1 FROM originals")) == 2

        async with child.service(tmp_path, **where) as service:
            done = "SELECT COUNT(purged_at) AS n FROM jobs"
            await live.until(lambda: books.rows(tmp_path, done) == [{"n": 2}])
            assert await service.stopped() == 0
    assert await asyncio.to_thread(post_mortem.files, tmp_path) == set()
    assert books.rows(tmp_path, "SELECT 1 FROM originals") == []
    books.check(tmp_path)


async def test_a_late_result_that_was_half_removed_is_removed_after_a_restart(tmp_path):
    account = people.NewAccount(email="ada@example.org", is_verified=True, credits=100)
    key = await people.create(settings.fixed(data_dir=tmp_path), account)
    headers = {"Authorization": f"Bearer {key}"}
    hold = Hold()
    async with live.serve(Odd(Options(latency_s=0.02), picture={"": [hold]})) as upstream:
        where = {"port": live.closed_port(), "upstream": upstream}
        async with child.service(tmp_path, **where) as service:
            base = f"http://127.0.0.1:{where['port']}"
            async with httpx.AsyncClient(base_url=base, headers=headers, trust_env=False) as client:
                made = await client.post("/api/generate-image", json={"prompt": "a kite"})
                await asyncio.wait_for(hold.waiting.wait(), 20)
                (await client.post(made.json()["links"]["cancel"])).raise_for_status()
            hold.gate.set()
            await live.until(lambda: books.rows(tmp_path, "SELECT 1 FROM unclaimed"))
            assert await service.stopped() == 0
        assert len(post_mortem.files(tmp_path)) == 2
        with contextlib.closing(sqlite3.connect(tmp_path / "nanohook.db")) as connection, connection:
            connection.execute("UPDATE unclaimed SET created_at = created_at - ?", (8 * DAY_US,))

        await die_sweeping(tmp_path, "unclaimed.rows_gone", where)
        assert books.rows(tmp_path, "SELECT 1 FROM unclaimed") == []
        await post_mortem.audit(tmp_path, orphans=2)
        for key in post_mortem.files(tmp_path):
            os.utime(tmp_path / "media" / key, (0, 0))

        async with child.service(tmp_path, **where) as service:
            await live.until(lambda: not post_mortem.files(tmp_path))
            assert await service.stopped() == 0
    await post_mortem.audit(tmp_path)


async def die_sweeping(data_dir: pathlib.Path, point: str, where: dict[str, Any]) -> None:
    # It sweeps as it starts, so it may be gone before it is ready.
    with contextlib.suppress(AssertionError):
        async with child.service(data_dir, **where, die_at=point) as service:
            await service.exited()
