"""A process that is stopped for longer than its leases last, as on a laptop whose lid is closed."""

import asyncio
import pathlib
import signal

from nanohook.sandbox.options import Options
from tests import books, live, rig
from tests.process.upstream import Always, Odd, refused
from tests.process.world import make_ready, world

PICTURE = rig.picture(256, 256, kind="JPEG")
LEASE_S = 6.0
"""A third of it is the patience: a freeze takes a step of it, the answer half a second, a slow machine more."""
JOBS = 5


async def frozen(it, *, for_s: float) -> None:
    it.service.process.send_signal(signal.SIGSTOP)
    await asyncio.sleep(for_s)  # it is time itself that has to pass
    it.service.process.send_signal(signal.SIGCONT)


def hurry(it) -> None:
    """Let every back-off be over."""
    books.rows(it.data_dir, "UPDATE tasks SET due_at = 1 WHERE step = 'submit' AND held = 0")


def submits(upstream: Odd) -> int:
    return sum(len(moments) for (kind, _), moments in upstream.asked.items() if kind == "submit")


async def test_refusals_that_arrive_while_it_is_frozen_are_refusals(tmp_path: pathlib.Path):
    async def busy_after_a_while(*given):
        await asyncio.sleep(0.5)
        await refused(429)(*given)

    upstream = Odd(Options(latency_s=0.1, picture_bytes=PICTURE), submit={"": [Always(busy_after_a_while)]})
    ready = await make_ready(tmp_path / "ready")
    async with world(ready, tmp_path / "data", upstream, impatient_s=LEASE_S / 3) as it:
        for number in range(JOBS):
            await it.generate(f"a kite {number}")
        for _ in range(5):
            asked = sum(map(len, upstream.asked.values()))
            await live.until(lambda: sum(map(len, upstream.asked.values())) > asked, timeout_s=30)  # noqa: B023
            await frozen(it, for_s=LEASE_S + 1)
        upstream.let_through("submit")
        await live.until(
            lambda: len(it.rows("SELECT 1 FROM jobs WHERE status = 'COMPLETED'")) == JOBS, timeout_s=90
        )
        assert len(upstream.tasks.by_id) == JOBS
