"""Waiting to be woken, but not for longer than some seconds."""

import asyncio
import contextlib


class Bell:
    """Wakes the one task that waits for it; a ring while nobody waits is kept, several count as one."""

    def __init__(self) -> None:
        self._rung = asyncio.Event()

    def ring(self) -> None:
        """Wake whoever waits, or the next to wait."""
        self._rung.set()

    async def wait(self, timeout_s: float) -> None:
        """Wait for the next ring, *timeout_s* seconds at most."""
        if not self._rung.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._rung.wait()
        self._rung.clear()
