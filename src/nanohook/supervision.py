"""
Supervision of the service's background tasks: each has a declared fate for the day it crashes.

A task that can begin again without harm is restarted, with growing pauses, and counted. One that cannot ends the
process with the reason: whoever started it starts it anew, which is better than a service that lives and does not
work. A crash is any end by an error, whatever its kind.
"""

import asyncio
import collections
import contextlib
import logging
import random
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from typing import Any, Final

from nanohook import errors
from nanohook.rules import backoff
from nanohook.values import frozen

logger = logging.getLogger(__name__)

FIRST_PAUSE_S: Final = 1.0
MAX_PAUSE_S: Final = 60.0
"""Ceilings of the pause before the first restart, and before every later one: they double in between."""
HEALTHY_S: Final = 60.0
"""Who has run for so long has recovered: its next crash counts as the first."""

Work = Callable[[], Coroutine[Any, Any, None]]


@frozen
class Fate:
    """What a crash of a task leads to."""

    restarts: int | None
    """How often in a row it is restarted before the process ends instead; ``None``: without end."""
    why: str


_STATELESS: Final = Fate(restarts=None, why="everything it needs is in the tables: it looks again")

FATES: Final[Mapping[str, Fate]] = {
    # Between two batches no transaction is open, and each batch was refused as a whole. But without it nothing is
    # taken: a writer that cannot go on must not leave a service behind that answers 503 for good.
    "database-writer": Fate(restarts=5, why="a crash undoes its batch; everybody waits for it"),
    "database-watch": _STATELESS,
    "page-check": _STATELESS,
    "hub-tail": Fate(restarts=None, why="it goes on behind the newest event that it handed out"),
    "hub-heartbeat": Fate(restarts=None, why="streams are kept apart from it"),
    "hub-credentials": _STATELESS,
    "work": _STATELESS,
    "work-heartbeat": _STATELESS,
    "rejections": Fate(restarts=None, why="at most a second's refused requests are not kept"),
    "apply": _STATELESS,
    "mail": Fate(restarts=None, why="its line is kept apart from it"),
    "sweep": _STATELESS,
    "sweep-room": Fate(restarts=None, why="whoever needs room asks for it again"),
    "tunnel": _STATELESS,
    "account": _STATELESS,
}
"""By the name of the task; one that is not here does not start."""


class Supervisor:
    """
    Runs background tasks, each under its fate.

    Args:
        end: Ends the process for a reason; called once. Without it, it is only logged.
    """

    def __init__(self, end: Callable[[errors.Fatal], None] | None = None) -> None:
        self._end = end
        self.restarts: collections.Counter[str] = collections.Counter()
        """How often each task was restarted."""
        self.reason: errors.Fatal | None = None
        """Why the process ends; ``None``: it does not."""

    def end(self, reason: errors.Fatal) -> None:
        """End the process because of *reason*; only the first one counts."""
        if self.reason is None:
            self.reason = reason
            logger.critical("service.cannot_go_on", extra={"reason": str(reason)})
            if self._end is not None:
                self._end(reason)

    @contextlib.asynccontextmanager
    async def running(self, name: str, work: Work) -> AsyncIterator[None]:
        """
        Run *work* beside what is within; canceled and awaited at the end.

        Raises:
            KeyError: No fate is declared for *name*.
        """
        FATES[name]
        task = asyncio.create_task(self.run(name, work), name=name)
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def run(self, name: str, work: Work) -> None:
        """Run *work* until it returns, the fate of *name* ends it, or it is canceled."""
        fate, crashes = FATES[name], 0
        while True:
            began = time.monotonic()
            try:
                await work()
            except BaseException as exc:
                if not is_crash(exc):
                    raise
                crash = exc
            else:
                return
            crashes = 1 if time.monotonic() - began >= HEALTHY_S else crashes + 1
            is_over = fate.restarts is not None and crashes > fate.restarts
            chance = random.random()  # noqa: S311 - spreads load
            pause_s = backoff.delay_s(crashes, first_s=FIRST_PAUSE_S, most_s=MAX_PAUSE_S, chance=chance)
            logger.error(
                "background_task.crashed",
                extra={"task": name, "crashes": crashes, "pause_s": None if is_over else round(pause_s, 3)},
                exc_info=crash,
            )
            if is_over:
                self.end(errors.Fatal(f"the {name} has crashed {crashes} times in a row: {crash!r}"))
                return
            del crash  # it holds the frames of what crashed
            await asyncio.sleep(pause_s)
            self.restarts[name] += 1


def is_crash(exc: BaseException) -> bool:
    """
    Tell an error from an end that somebody wants.

    A cancellation that nobody asked this task for came out of something that it waited for: a crash too. So is a
    library that means to end the process.
    """
    if isinstance(exc, asyncio.CancelledError):
        task = asyncio.current_task()
        return task is not None and not task.cancelling()
    return not isinstance(exc, (KeyboardInterrupt, GeneratorExit))
