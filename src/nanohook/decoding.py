"""Decoding pictures in threads, bounded by the memory that they need: that is what runs out, not threads."""

import asyncio
import collections
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, ParamSpec, TypeVar

MAX_MEMORY_BYTES: Final = 700_000_000
"""Of all pictures being decoded at one time; as much as a single one may need. At 12 bytes a pixel and more that
is less than 60 million pixels."""

P = ParamSpec("P")
T = TypeVar("T")


class Decoder:
    """
    Runs picture work in threads, first come, first served.

    Args:
        threads: At most this many at once; Pillow lets go of the GIL while it works.
    """

    def __init__(self, *, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._in_flight = 0
        self._line: collections.deque[tuple[int, asyncio.Future[None]]] = collections.deque()

    async def run(self, memory_bytes: int, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call ``work(*args, **kwargs)`` in a thread once *memory_bytes* more are free."""
        await self._enter(memory_bytes)
        try:
            loop = asyncio.get_running_loop()
            running = loop.run_in_executor(self._pool, lambda: work(*args, **kwargs))
            # A thread cannot be stopped: its memory counts until it is done, whoever went away.
            running.add_done_callback(lambda _: self._leave(memory_bytes))
        except BaseException:
            self._leave(memory_bytes)
            raise
        return await asyncio.shield(running)

    def close(self) -> None:
        """Take no more and drop what waits; a thread that decodes ends when it is done, and is not waited for."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _enter(self, memory_bytes: int) -> None:
        if not self._line and self._fits(memory_bytes):
            self._in_flight += memory_bytes
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._line.append((memory_bytes, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # the turn came in the same moment: pass it on
                self._leave(memory_bytes)
            raise

    def _leave(self, memory_bytes: int) -> None:
        self._in_flight -= memory_bytes
        while self._line and (self._line[0][1].done() or self._fits(self._line[0][0])):
            waiting, turn = self._line.popleft()
            if not turn.done():
                self._in_flight += waiting
                turn.set_result(None)

    def _fits(self, memory_bytes: int) -> bool:
        # One that is larger than the bound alone still gets its turn, when nothing else runs.
        return self._in_flight == 0 or self._in_flight + memory_bytes <= MAX_MEMORY_BYTES
