"""A service as a process, its upstream beside it, and somebody who asks for pictures."""

import contextlib
import dataclasses
import pathlib
import shutil
from collections.abc import AsyncIterator
from typing import Any

import httpx

from nanohook import settings
from nanohook.cli import people
from tests import live
from tests.process import child, play, post_mortem
from tests.process.upstream import Odd

END_S = 40.0
QUICK = {"reconcile_after_s": 1, "reconcile_every_s": 0.3, "rate_write": "1000/second"}


@dataclasses.dataclass(frozen=True)
class Ready:
    """A data folder with one account, to begin with."""

    data_dir: pathlib.Path
    key: str


@dataclasses.dataclass
class World:
    """What a test needs of it."""

    data_dir: pathlib.Path
    service: child.Child
    client: httpx.AsyncClient
    upstream: Odd
    upstream_port: int

    def rows(self, sql: str, *values: object) -> list[dict[str, Any]]:
        return post_mortem.rows(self.data_dir, sql, *values)

    async def generate(self, prompt: str) -> str:
        made = await self.client.post("/api/generate-image", json={"prompt": prompt})
        return str(made.raise_for_status().json()["job_id"])

    async def until(self, where: str, *, number: int) -> None:
        """Wait until there are *number* tasks *where*."""
        sql = f"SELECT 1 FROM tasks WHERE {where}"
        try:
            await live.until(lambda: len(self.rows(sql)) == number, timeout_s=END_S)
        except TimeoutError:
            raise AssertionError(f"{where}: {len(self.rows(sql))}\n{self.service.said[-3000:]}") from None

    async def quiet(self) -> None:
        """Wait until neither side has anything left to do."""
        try:
            await live.until(lambda: play.is_quiet(self.data_dir, self.upstream.tasks), timeout_s=END_S)
        except TimeoutError:
            left = self.rows("SELECT * FROM tasks WHERE step IS NOT NULL")
            raise AssertionError(f"still open: {left}\n{self.service.said[-3000:]}") from None


async def make_ready(data_dir: pathlib.Path) -> Ready:
    account = people.NewAccount(email="ada@example.org", is_verified=True, credits=1_000_000)
    return Ready(data_dir, await people.create(settings.fixed(data_dir=data_dir), account))


@contextlib.asynccontextmanager
async def world(
    ready: Ready,
    data_dir: pathlib.Path,
    upstream: Odd,
    *,
    are_errors_expected: bool = False,
    impatient_s: float = 2.0,
    clock: pathlib.Path | None = None,
    **given: Any,
) -> AsyncIterator[World]:
    """
    Run it in a copy of *ready*. In the end everything is quiet, the service goes in good order, and all that is
    stored agrees.

    Args:
        data_dir: Where the copy goes.
        are_errors_expected: There is something that a person must know of: its log tells.
        impatient_s: See ``tests.process.entry``.
        clock: A file that holds by how many seconds the wall clock is wrong.
        given: Settings.
    """
    shutil.copytree(ready.data_dir, data_dir)
    port = live.closed_port()
    async with (
        live.serve(upstream) as address,
        child.service(
            data_dir, port=port, upstream=address, impatient_s=impatient_s, clock=clock, **{**QUICK, **given}
        ) as service,
        httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}",
            headers={"Authorization": f"Bearer {ready.key}"},
            trust_env=False,
            timeout=30,
        ) as client,
    ):
        made = World(data_dir, service, client, upstream, int(address.rpartition(":")[2]))
        yield made
        await made.quiet()
        assert await service.stopped() == 0
    # A full disk may have torn lines.
    errors = [line for line in service.said.splitlines() if '"level":"ERROR"' in line or "CRITICAL" in line]
    assert bool(errors) is are_errors_expected, errors
    await post_mortem.audit(data_dir)
