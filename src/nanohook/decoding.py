"""Decoding pictures in threads, bounded by the memory that they need: that is what runs out, not threads."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, NamedTuple, ParamSpec, TypeVar

from nanohook import errors, threads
from nanohook.fair_queue import FairQueue

LONG_MEMORY_BYTES: Final = 400_000_000
"""Of all large pictures being decoded at one time; one that needs more is the only large one."""
QUICK_MEMORY_BYTES: Final = 100_000_000
"""Of all small ones. At 12 bytes a pixel and more both together are less than 60 million pixels."""
QUICK_BYTES: Final = 64_000_000
"""Work that needs no more than this is quick: a picture of a megapixel, or a header; some tenths of a second."""

P = ParamSpec("P")
T = TypeVar("T")


class Decoder:
    """
    Runs picture work in threads: people take turns, and each one's is first come, first served.

    Quick work has threads and memory of its own: it does not wait for large pictures. Threads that do long work
    yield to all others.

    Args:
        max_threads: At most this many of each kind; Pillow lets go of the GIL while it works.
    """

    def __init__(self, *, max_threads: int) -> None:
        quick = ThreadPoolExecutor(max_threads, thread_name_prefix="decode")
        long = ThreadPoolExecutor(max_threads, thread_name_prefix="decode-long", initializer=threads.be_nice)
        self._quick = _Lane(quick, max_threads=max_threads, max_memory_bytes=QUICK_MEMORY_BYTES)
        self._long = _Lane(long, max_threads=max_threads, max_memory_bytes=LONG_MEMORY_BYTES)
        self._alone: _Turn | None = None
        """What runs alone, or waits until it can: nothing else begins meanwhile."""
        self._is_closed = False

    async def run(
        self, owner_id: str, memory_bytes: int | None, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """
        Call ``work(*args, **kwargs)`` for *owner_id* in a thread, once one and *memory_bytes* are free.

        Args:
            memory_bytes: ``None``: whatever it needs, nothing else runs beside it.

        Raises:
            Unavailable: The service is going down.
            Exception: What *work* raises.
        """
        turn = await self._enter(owner_id, memory_bytes)
        try:
            loop = asyncio.get_running_loop()
            running = loop.run_in_executor(turn.lane.pool, lambda: work(*args, **kwargs))
            # A thread cannot be stopped: its memory counts until it is done, whoever went away.
            running.add_done_callback(lambda _: self._leave(turn))
        except BaseException:
            self._leave(turn)
            raise
        return await asyncio.shield(running)

    def close(self) -> None:
        """Take no more, refuse what waits; a thread that decodes ends when it is done, and is not waited for."""
        self._is_closed = True
        for lane in (self._quick, self._long):
            lane.pool.shutdown(wait=False)
            for turn in (*lane.waiting, *filter(None, [lane.next])):
                if not turn.granted.done():
                    turn.granted.set_exception(_closed())

    async def _enter(self, owner_id: str, memory_bytes: int | None) -> "_Turn":
        if self._is_closed:
            raise _closed()
        is_quick = memory_bytes is not None and memory_bytes <= QUICK_BYTES
        lane = self._quick if is_quick else self._long
        turn = _Turn(lane, memory_bytes or 0, memory_bytes is None, asyncio.get_running_loop().create_future())
        lane.waiting.put(owner_id, turn)
        self._serve()
        try:
            await turn.granted
        except asyncio.CancelledError:
            if turn.granted.done() and not turn.granted.cancelled():  # it came in the same moment: pass it on
                self._leave(turn)
            else:
                self._give_up(owner_id, turn)
            raise
        return turn

    def _give_up(self, owner_id: str, turn: "_Turn") -> None:
        turn.lane.waiting.remove(owner_id, turn)
        if turn.lane.next is turn:
            turn.lane.next = None
        if self._alone is turn:
            self._alone = None
        self._serve()

    def _leave(self, turn: "_Turn") -> None:
        turn.lane.running -= 1
        turn.lane.in_flight -= turn.memory_bytes
        if self._alone is turn:
            self._alone = None
        self._serve()

    def _serve(self) -> None:
        """Let those in whose turn it is, as far as there is room."""
        for lane in (self._long, self._quick):
            while (turn := lane.whose_turn()) is not None:
                if turn.granted.done():  # they have gone away
                    lane.next = None
                    continue
                if turn.is_alone and self._alone is None:
                    self._alone = turn
                if not self._has_room(turn):
                    break
                lane.next = None
                lane.running += 1
                lane.in_flight += turn.memory_bytes
                turn.granted.set_result(None)

    def _has_room(self, turn: "_Turn") -> bool:
        if self._alone is not None:
            return turn is self._alone and not (self._quick.running or self._long.running)
        # One that is larger than the bound still gets its turn, when no other of its kind runs.
        lane = turn.lane
        return lane.in_flight == 0 or lane.in_flight + turn.memory_bytes <= lane.max_memory_bytes


class _Lane:
    """Work of one kind: its threads, its memory, and who waits for these."""

    def __init__(self, pool: ThreadPoolExecutor, *, max_threads: int, max_memory_bytes: int) -> None:
        self.pool, self.max_memory_bytes = pool, max_memory_bytes
        self._max_threads = max_threads
        self.running = 0
        self.in_flight = 0
        """Bytes of what runs."""
        # Whoever waits has a place of those who upload, or of those who finish.
        self.waiting: FairQueue[_Turn] = FairQueue()
        self.next: _Turn | None = None
        """Whose turn it is; nobody of this kind passes it by while it waits for memory."""

    def whose_turn(self) -> "_Turn | None":
        """Tell who is next, if there is a thread for them."""
        if self.running >= self._max_threads:
            return None
        if self.next is None and self.waiting:
            self.next = self.waiting.pop()[1]
        return self.next


class _Turn(NamedTuple):
    lane: _Lane
    memory_bytes: int
    is_alone: bool
    granted: "asyncio.Future[None]"


def _closed() -> errors.Unavailable:
    return errors.Unavailable("going down, nothing is decoded any more")
