"""
Shares of time, between people: of the event loop's, and of threads'.

The loop is one thread: whatever one person's requests take of it, those of all others wait for. A limit of
requests does not help: a refusal takes a good part of what an answer takes, and nobody has to heed it. So while
others are here, whoever has taken more than a share is kept waiting: for an answer, and longer for a refusal.

Threads are shared in the same way, apart: whoever uploads a hundred photos waits with these, and not with a page.
"""

import asyncio
import collections
import contextlib
import time
from collections.abc import Awaitable, Callable, Generator, Iterator
from typing import Any, Final, Generic, TypeVar

from nanohook import errors
from nanohook.presence import Presence

SHARE_OF_ONE: Final = 0.03
"""Of the loop's time, over seconds: thirty people who want all they can get fill it, and one is hardly felt."""
LEAD_S: Final = 4.0
"""So much of a share may be taken at once: a tenth of a second of the loop's time, or some hundred answers."""
THREADS_SHARE_OF_ONE: Final = 0.1
"""Of one core, for uploads, searches and lists: on a small machine a thread has the only other one."""
THREADS_LEAD_S: Final = 20.0
"""Two seconds of a core at once: some photos, as a telephone makes them."""
MAX_WAIT_S: Final = 10.0
"""For an answer, however much was taken: a browser's page waits longer than this."""
MAX_WAITING_OF_ONE: Final = 64
"""Requests of one person that wait for an answer; a browser has six connections. More wait for a refusal."""
REFUSED_FOR: Final = 2
"""So many times as long: a refusal takes the loop nearly as long as an answer. Programs wait for 30 s."""
OTHERS_S: Final = 10.0
"""Whoever has asked for something within this is here: people look at what they see before they go on."""
_AROUND_S: Final = 0.0003
"""What a request takes beside what is measured: to be read, to find out who is asking, to be answered."""
_SWEPT_AT: Final = 4_096
_COME_BACK_S: Final = 2

T = TypeVar("T")


class TimeShare:
    """
    Keeps those waiting who have taken more than their share; on the event loop alone.

    Args:
        presence: Of everybody who asks for something.
        share_of_one: Of a second, each second.
        lead_s: So much of a share may be taken at once.
    """

    def __init__(
        self, presence: Presence | None = None, *, share_of_one: float = SHARE_OF_ONE, lead_s: float = LEAD_S
    ) -> None:
        self._presence = presence or Presence(OTHERS_S)
        self._share_of_one, self._lead_s = share_of_one, lead_s
        self._even_at: dict[str, float] = {}
        """When what each person has taken is what their share has come to, by the monotonic clock."""
        self._waiting: collections.Counter[str] = collections.Counter()

    async def wait(self, owner_id: str) -> bool:
        """
        Wait until the share of *owner_id* allows another request; tell whether there was a wait.

        Raises:
            TooMany: As many of this person's requests wait as may; after ``REFUSED_FOR`` times the wait.
        """
        now = time.monotonic()
        self._presence.note(owner_id, now_s=now)
        self.charge(owner_id, _AROUND_S)
        wait_s = min(self._even_at[owner_id] - now - self._lead_s, MAX_WAIT_S)
        if wait_s <= 0 or not self._presence.has_others(owner_id, now_s=now):
            return False
        has_place = self._waiting[owner_id] < MAX_WAITING_OF_ONE
        self._waiting[owner_id] += has_place
        try:
            await asyncio.sleep(wait_s if has_place else wait_s * REFUSED_FOR)
        finally:
            self._waiting[owner_id] -= has_place
            if not self._waiting[owner_id]:
                del self._waiting[owner_id]
        if not has_place:
            raise errors.TooMany(
                f"at most {MAX_WAITING_OF_ONE} requests wait", code="too_many_waiting", retry_after_s=_COME_BACK_S
            )
        return True

    async def measure(self, owner_id: str, work: Awaitable[T]) -> T:
        """Run *work* for *owner_id*, and count what it takes of the loop's time."""
        measured = _Measured(work)
        try:
            return await measured
        finally:
            self.charge(owner_id, measured.took_s)

    def thread_meter(self, owner_id: str) -> Callable[[], contextlib.AbstractContextManager[None]]:
        """
        Make what counts a thread's time as that of *owner_id*: ``with meter():`` around the work.

        The time that the thread waits does not count: for a disk, or for others.
        """
        loop = asyncio.get_running_loop()

        @contextlib.contextmanager
        def meter() -> Iterator[None]:
            began = time.thread_time()
            try:
                yield
            finally:
                took_s = time.thread_time() - began
                with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                    loop.call_soon_threadsafe(self.charge, owner_id, took_s)

        return meter

    def charge(self, owner_id: str, took_s: float) -> None:
        """Count *took_s*."""
        now = time.monotonic()
        if len(self._even_at) >= _SWEPT_AT:
            self._even_at = {each: at for each, at in self._even_at.items() if at > now}
        even_at = max(self._even_at.get(owner_id, 0.0), now) + took_s / self._share_of_one
        self._even_at[owner_id] = min(even_at, now + self._lead_s + MAX_WAIT_S)


class _Measured(Generic[T]):
    """Awaits something, and adds up what its steps take of the event loop's time."""

    __slots__ = ("_work", "took_s")

    def __init__(self, work: Awaitable[T]) -> None:
        self._work = work
        self.took_s = 0.0

    def __await__(self) -> Generator[Any, None, T]:
        steps, thrown = self._work.__await__(), None
        while True:
            began = time.perf_counter()
            try:
                waits_for = steps.send(None) if thrown is None else steps.throw(thrown)
            except StopIteration as end:
                result: T = end.value
                return result
            finally:
                self.took_s += time.perf_counter() - began
            try:
                yield waits_for
            except BaseException as exc:  # noqa: BLE001 - whatever it is, it is the work's
                thrown = exc
            else:
                thrown = None
