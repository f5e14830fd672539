"""Decoding pictures in threads, bounded by the memory that they need: that is what runs out, not threads."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, NamedTuple, ParamSpec, TypeVar

from nanohook import errors, threads
from nanohook.fair_queue import FairQueue

MAX_MEMORY_BYTES: Final = 700_000_000
"""Of all pictures being decoded at one time; as much as a single one may need. At 12 bytes a pixel and more that
is less than 60 million pixels."""

P = ParamSpec("P")
T = TypeVar("T")


class Decoder:
    """
    Runs picture work in threads: people take turns, and each one's is first come, first served.

    Args:
        max_threads: At most this many at once; Pillow lets go of the GIL while it works.
    """

    def __init__(self, *, max_threads: int) -> None:
        self._pool = ThreadPoolExecutor(max_threads, thread_name_prefix="decode", initializer=threads.be_nice)
        self._max_threads = max_threads
        self._running = 0
        self._in_flight = 0
        # Whoever waits has a place of those who upload, or of those who finish.
        self._waiting: FairQueue[_Turn] = FairQueue()
        self._next: _Turn | None = None
        """Whose turn it is; nobody passes it by while it waits for memory."""

    async def run(
        self, owner_id: str, memory_bytes: int, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Call ``work(*args, **kwargs)`` for *owner_id* in a thread, once one and *memory_bytes* are free."""
        await self._enter(owner_id, memory_bytes)
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
        """Take no more, refuse what waits; a thread that decodes ends when it is done, and is not waited for."""
        self._pool.shutdown(wait=False)
        for turn in (*self._waiting, *filter(None, [self._next])):
            if not turn.granted.done():
                turn.granted.set_exception(errors.Unavailable("going down, nothing is decoded any more"))

    async def _enter(self, owner_id: str, memory_bytes: int) -> None:
        turn = _Turn(memory_bytes, asyncio.get_running_loop().create_future())
        self._waiting.put(owner_id, turn)
        self._serve()
        try:
            await turn.granted
        except asyncio.CancelledError:
            if turn.granted.done() and not turn.granted.cancelled():  # it came in the same moment: pass it on
                self._leave(memory_bytes)
            else:
                self._waiting.remove(owner_id, turn)
                self._serve()
            raise

    def _leave(self, memory_bytes: int) -> None:
        self._running -= 1
        self._in_flight -= memory_bytes
        self._serve()

    def _serve(self) -> None:
        """Let those in whose turn it is, as far as there is room."""
        while self._running < self._max_threads and (self._next is not None or self._waiting):
            if self._next is None:
                _, self._next = self._waiting.pop()
            if not self._next.granted.done():  # else they have gone away
                if not self._fits(self._next.memory_bytes):
                    return
                self._running += 1
                self._in_flight += self._next.memory_bytes
                self._next.granted.set_result(None)
            self._next = None

    def _fits(self, memory_bytes: int) -> bool:
        # One that is larger than the bound alone still gets its turn, when nothing else runs.
        return self._in_flight == 0 or self._in_flight + memory_bytes <= MAX_MEMORY_BYTES


class _Turn(NamedTuple):
    memory_bytes: int
    granted: "asyncio.Future[None]"
