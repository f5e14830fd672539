"""Our programs as processes of their own: started, watched, told to go, and gone in the end."""

import contextlib
import dataclasses
import os
import pathlib
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any

import httpx
import orjson

from tests import live

ROOT = pathlib.Path(__file__).parents[2]
NANOHOOK = (sys.executable, "-m", "nanohook")
START_S = 20.0


@dataclasses.dataclass
class Child:
    """A process, and the file its standard error goes to; standard output goes to another beside it."""

    process: subprocess.Popen[bytes]
    log: pathlib.Path
    output: pathlib.Path

    @property
    def text(self) -> str:
        """What it has said on standard error."""
        return self.log.read_text()

    @property
    def printed(self) -> str:
        """What it has printed on standard output."""
        return self.output.read_text()

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The JSON lines of its log."""
        return [orjson.loads(line) for line in self.text.splitlines() if line.startswith("{")]

    async def exited(self, *, timeout_s: float = 20.0) -> int:
        """Wait for its end; return its exit code, negative for a signal."""
        try:
            await live.until(lambda: self.process.poll() is not None, timeout_s=timeout_s)
        except TimeoutError:
            raise AssertionError(f"it did not exit in {timeout_s} s\n{self.text[-3000:]}") from None
        return int(self.process.returncode)

    async def stopped(self, number: signal.Signals = signal.SIGTERM, *, timeout_s: float = 15.0) -> int:
        """Tell it to go, and wait for its end; return its exit code."""
        self.process.send_signal(number)
        return await self.exited(timeout_s=timeout_s)

    async def answers(self, base: str) -> bool:
        """Wait until it is ready at *base*; ``False`` if it ended before."""
        async with httpx.AsyncClient(trust_env=False, timeout=5) as client:

            async def is_ready() -> bool:
                with contextlib.suppress(httpx.TransportError):
                    return (await client.get(f"{base}/readyz")).status_code == 200
                return False

            async with live.polling(START_S) as again:
                async for _ in again:
                    if self.process.poll() is not None:
                        return False
                    if await is_ready():
                        return True
        raise AssertionError(f"it did not become ready\n{self.text[-3000:]}")
