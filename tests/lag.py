"""How long a service holds up its event loop, by the clock of its thread: others on this machine do not count."""

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass


@dataclass
class Lag:
    """What was seen."""

    worst_s: float = 0.0
    """The longest time for which no other task had its turn."""

    async def look(self) -> None:
        last = time.thread_time()
        while True:
            await asyncio.sleep(0.002)
            now = time.thread_time()
            self.worst_s, last = max(self.worst_s, now - last), now


def crowd() -> float:
    """Tell how many want each core of this machine; 1 if there is one for everybody."""
    return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


@contextlib.asynccontextmanager
async def seen() -> AsyncIterator[Lag]:
    """Look how long the loop is held up meanwhile; the service of ``rig.running`` and its client share it."""
    lag = Lag()
    looking = asyncio.create_task(lag.look())
    await asyncio.sleep(0)
    try:
        yield lag
    finally:
        await asyncio.sleep(0.01)  # the last turn is seen by the next
        looking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await looking
