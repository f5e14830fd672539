"""
The event loop's time, shared between people.

The loop is one thread: whatever one person's requests take of it, those of all others wait for. A limit of
requests does not help: a refusal takes a good part of what an answer takes, and nobody has to heed it. So while
others are here, whoever has taken more than a share is kept waiting, for an answer and for a refusal alike.
"""

import asyncio
import collections
import contextlib
import time
from collections.abc import AsyncIterator, Coroutine, Generator, Iterator
from typing import Any, Final, Generic, TypeVar

from nanohook import errors

SHARE_OF_ONE: Final = 0.05
"""Of the loop's time, over seconds: twenty people who want all they can get are felt, and fewer are not."""
LEAD_S: Final = 2.0
"""So much of a share may be taken at once: a tenth of a second of the loop's time, or some hundred answers."""
BESIDE_PART: Final = 0.25
"""Of a thread's time, what counts: so much longer takes what the loop does beside one that decodes."""
MAX_WAIT_S: Final = 10.0
"""However much was taken: a browser's page waits longer than this."""
MAX_WAITING_OF_ONE: Final = 64
"""Requests of one person that wait; a browser has six connections."""
OTHERS_S: Final = 2.0
"""Whoever has asked for something within this is here."""
_AROUND_S: Final = 0.0003
"""What a request takes beside what is measured: to be read, to find out who is asking, to be answered."""
_SWEPT_AT: Final = 4_096
_COME_BACK_S: Final = 2

T = TypeVar("T")


class LoopTime:
    """Keeps those waiting who have taken more than their share; on the event loop alone."""

    def __init__(self) -> None:
        self._even_at: dict[str, float] = {}
        """When what each person has taken is what their share has come to, by the monotonic clock."""
        self._waiting: collections.Counter[str] = collections.Counter()
        self._newest, self._newest_at, self._before_at = "", 0.0, 0.0
        """Who asked last, and when; and when anybody else did."""

    async def run(self, owner_id: str, work: Coroutine[Any, Any, T]) -> T:
        """
        Run *work* for *owner_id* when their share allows it, and count what it takes of the loop's time.

        Raises:
            TooMany: As many of this person's requests wait as may.
        """
        measured = _Measured(work)
        try:
            await self._wait(owner_id)
            return await measured
        finally:
            work.close()  # nothing happens to it if it has run
            self.charge(owner_id, measured.took_s)

    @contextlib.asynccontextmanager
    async def beside(self, owner_id: str) -> AsyncIterator[None]:
        """Count what threads do meanwhile for *owner_id*: they take the interpreter, and the loop's other core."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.charge(owner_id, (time.monotonic() - began) * BESIDE_PART)

    def charge(self, owner_id: str, took_s: float) -> None:
        """Count *took_s* of the loop's time."""
        now = time.monotonic()
        if len(self._even_at) >= _SWEPT_AT:
            self._even_at = {each: at for each, at in self._even_at.items() if at > now}
        even_at = max(self._even_at.get(owner_id, 0.0), now) + took_s / SHARE_OF_ONE
        self._even_at[owner_id] = min(even_at, now + LEAD_S + MAX_WAIT_S)

    async def _wait(self, owner_id: str) -> None:
        now = time.monotonic()
        are_others_here = self._are_others_here(owner_id, now)
        self.charge(owner_id, _AROUND_S)
        wait_s = self._even_at[owner_id] - now - LEAD_S
        if wait_s <= 0 or not are_others_here:
            return
        with self._place(owner_id):
            await asyncio.sleep(wait_s)

    @contextlib.contextmanager
    def _place(self, owner_id: str) -> Iterator[None]:
        if self._waiting[owner_id] >= MAX_WAITING_OF_ONE:
            raise errors.TooMany(
                f"at most {MAX_WAITING_OF_ONE} requests wait", code="too_many_waiting", retry_after_s=_COME_BACK_S
            )
        self._waiting[owner_id] += 1
        try:
            yield
        finally:
            self._waiting[owner_id] -= 1
            if not self._waiting[owner_id]:
                del self._waiting[owner_id]

    def _are_others_here(self, owner_id: str, now: float) -> bool:
        """Note that *owner_id* is here, and tell whether anybody else is."""
        if owner_id != self._newest:
            self._newest, self._before_at = owner_id, self._newest_at
        self._newest_at = now
        return now - self._before_at < OTHERS_S


class _Measured(Generic[T]):
    """Runs a coroutine, and adds up what its steps take of the event loop's time."""

    __slots__ = ("_work", "took_s")

    def __init__(self, work: Coroutine[Any, Any, T]) -> None:
        self._work = work
        self.took_s = 0.0

    def __await__(self) -> Generator[Any, None, T]:
        thrown: BaseException | None = None
        while True:
            began = time.perf_counter()
            try:
                waits_for = self._work.send(None) if thrown is None else self._work.throw(thrown)
            except StopIteration as end:
                result: T = end.value
                return result
            finally:
                self.took_s += time.perf_counter() - began
            try:
                yield waits_for
            except BaseException as exc:  # noqa: BLE001 - whatever it is, it is the coroutine's
                thrown = exc
            else:
                thrown = None
