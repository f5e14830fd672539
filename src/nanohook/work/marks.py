"""
Marks of what is being decoded, left behind by a process that dies at it.

A decoder can end the process: by a fault in its C code, or because the kernel takes the memory back. Files tell
the next process which task that was: they outlive the process without a commit, which would cost every picture a
wait for the disk.
"""

import asyncio
import contextlib
import logging
import pathlib
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from nanohook import clock
from nanohook.database import Database, Transaction
from nanohook.faults import reach
from nanohook.flow import settle
from nanohook.rules.job import Task
from nanohook.values import frozen

logger = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")


@frozen
class Marked:
    """A task whose result was being decoded."""

    job_id: str
    attempt: int
    index: int


class Marks:
    """
    A folder of empty files, one for each task that is being decoded now.

    Args:
        folder: Made if it is not there; nobody else may use it.

    Raises:
        OSError: It cannot be made.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def guard(self, task: Task, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do *work* in this thread with the mark of *task* set; whatever it raises takes the mark away too."""
        mark = self._folder / f"{task.job_id}.{task.attempt}.{task.index}"
        mark.touch()
        try:
            reach("finish.decoding")
            return work(*args, **kwargs)
        finally:
            mark.unlink(missing_ok=True)

    def left(self) -> list[Marked]:
        """Tell what the former process died at."""
        found = []
        for mark in sorted(self._folder.iterdir()):
            job_id, _, rest = mark.name.partition(".")
            attempt, _, index = rest.partition(".")
            if attempt.isdecimal() and index.isdecimal():
                found.append(Marked(job_id=job_id, attempt=int(attempt), index=int(index)))
        return found

    def clear(self) -> None:
        """Forget what the former process died at."""
        for mark in self._folder.iterdir():
            mark.unlink(missing_ok=True)

    def forget(self) -> None:
        """Forget what is decoded now, and is given up: nobody dies of that."""
        with contextlib.suppress(OSError):  # the folder may be gone, and its marks with it
            self.clear()


async def note_deaths(database: Database, marks: Marks) -> None:
    """Make suspects of what the former process died at; the marks go only when that is stored."""
    left = await asyncio.to_thread(marks.left)

    async def note(tx: Transaction) -> None:
        now = clock.now_us()
        for mark in left:
            await settle.suspect(tx, job_id=mark.job_id, attempt=mark.attempt, index=mark.index, now_us=now)

    for mark in left:
        logger.warning("work.died_decoding", extra={"job_id": mark.job_id, "index": mark.index})
    if left:
        await database.write(note)
    await asyncio.to_thread(marks.clear)
