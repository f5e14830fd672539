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
QUICK_BYTES: Final = 64_000_000
"""Work that needs no more than this, of a megapixel or so, is over in some hundredths of a second."""

P = ParamSpec("P")
T = TypeVar("T")


class Decoder:
    """
    Runs picture work in threads: people take turns, and each one's is first come, first served.

    Quick work has threads of its own: a small picture never waits for a large one to be done. Those of long work
    yield to all others.

    Args:
        max_threads: At most this many of each kind; Pillow lets go of the GIL while it works.
    """

    def __init__(self, *, max_threads: int) -> None:
        self._quick = _Lane(ThreadPoolExecutor(max_threads, thread_name_prefix="decode"), max_threads)
        self._long = _Lane(
            ThreadPoolExecutor(max_threads, thread_name_prefix="decode-long", initializer=threads.be_nice),
            max_threads,
        )
        self._in_flight = 0
        self._next: _Turn | None = None
        """Whose turn it is; nobody passes it by while it waits for memory."""

    async def run(
        self, owner_id: str, memory_bytes: int, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Call ``work(*args, **kwargs)`` for *owner_id* in a thread, once one and *memory_bytes* are free."""
        lane = self._quick if memory_bytes <= QUICK_BYTES else self._long
        turn = await self._enter(owner_id, lane, memory_bytes)
        try:
            loop = asyncio.get_running_loop()
            running = loop.run_in_executor(lane.pool, lambda: work(*args, **kwargs))
            # A thread cannot be stopped: its memory counts until it is done, whoever went away.
            running.add_done_callback(lambda _: self._leave(turn))
        except BaseException:
            self._leave(turn)
            raise
        return await asyncio.shield(running)

    def close(self) -> None:
        """Take no more, refuse what waits; a thread that decodes ends when it is done, and is not waited for."""
        for lane in (self._quick, self._long):
            lane.pool.shutdown(wait=False)
        for turn in (*self._quick.waiting, *self._long.waiting, *filter(None, [self._next])):
            if not turn.granted.done():
                turn.granted.set_exception(errors.Unavailable("going down, nothing is decoded any more"))

    async def _enter(self, owner_id: str, lane: "_Lane", memory_bytes: int) -> "_Turn":
        turn = _Turn(lane, memory_bytes, asyncio.get_running_loop().create_future())
        lane.waiting.put(owner_id, turn)
        self._serve()
        try:
            await turn.granted
        except asyncio.CancelledError:
            if turn.granted.done() and not turn.granted.cancelled():  # it came in the same moment: pass it on
                self._leave(turn)
            else:
                lane.waiting.remove(owner_id, turn)
                self._serve()
            raise
        return turn

    def _leave(self, turn: "_Turn") -> None:
        turn.lane.running -= 1
        self._in_flight -= turn.memory_bytes
        self._serve()

    def _serve(self) -> None:
        """Let those in whose turn it is, as far as there is room."""
        while (turn := self._next or self._whose_turn()) is not None:
            self._next = turn
            if not turn.granted.done():  # else they have gone away
                if not self._fits(turn.memory_bytes):
                    return
                turn.lane.running += 1
                self._in_flight += turn.memory_bytes
                turn.granted.set_result(None)
            self._next = None

    def _whose_turn(self) -> "_Turn | None":
        for lane in (self._quick, self._long):
            if lane.waiting and lane.running < lane.max_threads:
                return lane.waiting.pop()[1]
        return None

    def _fits(self, memory_bytes: int) -> bool:
        # One that is larger than the bound alone still gets its turn, when nothing else runs.
        return self._in_flight == 0 or self._in_flight + memory_bytes <= MAX_MEMORY_BYTES


class _Lane:
    """Work of one kind: its threads, and who waits for them."""

    def __init__(self, pool: ThreadPoolExecutor, max_threads: int) -> None:
        self.pool, self.max_threads = pool, max_threads
        self.running = 0
        # Whoever waits has a place of those who upload, or of those who finish.
        self.waiting: FairQueue[_Turn] = FairQueue()


class _Turn(NamedTuple):
    lane: _Lane
    memory_bytes: int
    granted: "asyncio.Future[None]"
