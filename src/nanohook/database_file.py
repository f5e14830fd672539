"""
The file of an open database: whether it is still the one that others find, and whole.

SQLite keeps writing into files that it has open, whoever removes, moves or replaces them meanwhile. All of that
is gone with the process, so nothing may be answered for it. Neither may anything be built on damaged pages.

Source: sqlite.org/howtocorrupt.html, section 2.4 "Unlinking or renaming a database file while in use".
"""

import asyncio
import contextlib
import os
import pathlib
import sqlite3
import time
from collections.abc import Callable
from typing import Final

from nanohook import errors
from nanohook.faults import reach
from nanohook.supervision import Supervisor

WATCH_S: Final = 2.0
"""The files are looked at this often, before a read after a longer gap, and after each commit."""
RESTORE: Final = "stop the service, keep the file, and put back the newest of your backups (nanohook backup)"
"""What to do with a database that is damaged or gone."""
_ENDINGS: Final = ("", "-wal", "-shm")
"""The database, its write-ahead log and the index of that: all three stay while one connection is open."""
_DAMAGE: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


class DatabaseFile:
    """
    Watches the files at *path*; once they are lost, nothing is taken or given any more and the process ends.

    Args:
        path: Of the database, which is open.
        supervisor: Ends the process.
    """

    def __init__(self, path: pathlib.Path, *, supervisor: Supervisor) -> None:
        self._paths = [f"{path.absolute()}{ending}" for ending in _ENDINGS]
        self._supervisor = supervisor
        # Device and inode, as first seen: an inode that is open is given to no other file.
        self._known: dict[str, tuple[int, int]] = {}
        self._fault()
        self._looked_at = time.monotonic()
        self._is_lost = False
        self.on_lost: Callable[[], None] = lambda: None
        """Called once, at the loss."""

    async def run_watch(self) -> None:
        """Look at the files now and then, until canceled."""
        while True:
            await asyncio.sleep(WATCH_S)
            reach("database.watch")
            with contextlib.suppress(errors.Unavailable):
                self.check()

    def check_after_gap(self) -> None:
        """
        Check the files if nobody has for ``WATCH_S``.

        Raises:
            Unavailable: They are lost.
        """
        if self._is_lost or time.monotonic() - self._looked_at > WATCH_S:
            self.check()

    def check(self) -> None:
        """
        Check that the database is still where others look for it; some microseconds.

        Raises:
            Unavailable: It is lost, and the process is ending.
        """
        self._looked_at = time.monotonic()
        fault = None if self._is_lost else self._fault()
        if fault is not None:
            self.lose(f"{fault}; what was written since is not kept: {RESTORE}")
        if self._is_lost:
            raise errors.Unavailable("the database is lost, the service is ending", code="database_lost")

    def look_for_damage(self, exc: BaseException | None) -> None:
        """Give the database up if *exc* is SQLite's word for damaged pages."""
        if getattr(exc, "sqlite_errorcode", 0) & 0xFF in _DAMAGE:
            self.lose(f"the database is damaged ({exc}): {RESTORE}")

    def lose(self, reason: str) -> None:
        """Take and give nothing any more, and end the process for *reason*."""
        if not self._is_lost:
            self._is_lost = True
            self.on_lost()
            self._supervisor.end(errors.Fatal(reason))

    def _fault(self) -> str | None:
        """Say which file is not there any more, or is another; ``None``: all is well."""
        for path in self._paths:
            try:
                found = os.stat(path)  # noqa: PTH116 - after every commit: a third of the time of pathlib's
            except (FileNotFoundError, NotADirectoryError):
                if path in self._known:
                    return f"{path} was removed or moved while it was in use"
            except OSError:
                continue  # it cannot be told, and may be there: what SQLite can do with it counts
            else:
                identity = found.st_dev, found.st_ino
                if self._known.setdefault(path, identity) != identity:
                    return f"{path} was replaced while it was in use"
        return None
