"""
Looks for damaged pages of the database: for a moment before the start, then through all of it at leisure.

SQLite notices a damaged page only when it happens to read it. Until then a service on such a file looks well, and
every backup made of it is damaged too.
"""

import asyncio
import contextlib
import logging
import os
import pathlib
import sqlite3
import threading
import time
from collections.abc import Iterator
from typing import Final

from nanohook import errors
from nanohook.database_file import RESTORE, DatabaseFile
from nanohook.faults import reach

logger = logging.getLogger(__name__)

START_S: Final = 0.2
"""How long the start waits for it."""
_SLICE_S: Final = 0.01
_REST_S: Final = 0.04
"""Between two slices: a fifth of one core's time, of what nobody else wants."""
_OPCODES: Final = 20_000
"""Of SQLite's virtual machine, between two looks at the clock: under a millisecond."""
_IDLE_NICENESS: Final = 19
_NOT_DAMAGE: Final = ("NULL value in ", "CHECK constraint failed in ", "NUMERIC value in ", "TEXT value in ")
"""What the check says about values, which other checks are for; everything else it says is about pages."""


def at_start(path: pathlib.Path, *, limit_s: float = START_S) -> None:
    """
    Look through the file at *path* for *limit_s* seconds at most; one that is not there is fine.

    Raises:
        ConfigError: It is damaged, or no database.
    """
    if not path.exists():
        return
    ends_at = time.monotonic() + limit_s
    with contextlib.suppress(_StoppedError), _opened(path) as connection:
        # Some versions of SQLite look at the progress handler between pages, all at the interrupt.
        connection.set_progress_handler(lambda: time.monotonic() > ends_at, _OPCODES)
        timer = threading.Timer(limit_s, connection.interrupt)
        timer.start()
        try:
            fault = _fault(connection, "PRAGMA quick_check")
        finally:
            timer.cancel()
            timer.join()
        if fault is not None:
            raise errors.ConfigError(f"the database at {path} is damaged ({fault}): {RESTORE}")


class PageCheck:
    """
    Looks through the whole of a database that is in use, once, without being felt.

    Args:
        file: Given up when it is found damaged.
    """

    def __init__(self, path: pathlib.Path, file: DatabaseFile) -> None:
        self._path = path
        self._file = file

    async def run(self) -> None:
        """Look at every table; canceled, it stops within a slice. If it ends otherwise, it can be run again."""
        reach("page_check.started")
        loop, found = asyncio.get_running_loop(), asyncio.get_running_loop().create_future()
        # Of this run alone: its thread may begin after it was canceled.
        stop = threading.Event()

        def look() -> None:
            fault, crash = None, None
            try:
                fault = self._look(stop)
            except BaseException as exc:  # noqa: BLE001 - a thread of our own: all of it is the task's
                crash = exc
            with contextlib.suppress(RuntimeError):  # the loop is closed, nobody waits
                loop.call_soon_threadsafe(_resolve, found, fault, crash)

        # Not one of a pool: it takes the lowest priority with it, and does not hold up the end of the process.
        threading.Thread(target=look, name="page-check", daemon=True).start()
        try:
            fault = await found
        finally:
            stop.set()
        if fault is None:
            logger.info("database.checked")
        else:
            self._file.lose(f"the database is damaged ({fault}): {RESTORE}")

    def _look(self, stop: threading.Event) -> str | None:
        """Check table after table, in this thread."""
        with contextlib.suppress(OSError, AttributeError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _IDLE_NICENESS)
        slice_ends_at = time.monotonic() + _SLICE_S

        def pause() -> bool:
            nonlocal slice_ends_at
            if time.monotonic() > slice_ends_at:
                stop.wait(_REST_S)
                slice_ends_at = time.monotonic() + _SLICE_S
            return stop.is_set()

        with contextlib.suppress(_StoppedError), _opened(self._path) as connection:
            connection.set_progress_handler(pause, _OPCODES)
            for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
                # A snapshot for each table: the log of writes can be put back in between.
                fault = _fault(connection, f'PRAGMA quick_check("{name}")')
                if fault is not None:
                    return fault
        return None


class _StoppedError(Exception):
    """There was no more time for it."""


@contextlib.contextmanager
def _opened(path: pathlib.Path) -> Iterator[sqlite3.Connection]:
    # Not by URI: a file of the same process must be named in one way only.
    with contextlib.closing(
        sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
    ) as connection:
        connection.execute("PRAGMA query_only=ON").close()
        yield connection


def _fault(connection: sqlite3.Connection, check: str) -> str | None:
    """
    Run *check* and return the first word about a damaged page; ``None``: there is none.

    Raises:
        _StoppedError: It was not finished.
    """
    try:
        said = [str(row[0]) for row in connection.execute(check)]
    except sqlite3.DatabaseError as exc:
        if exc.sqlite_errorcode & 0xFF in {sqlite3.SQLITE_INTERRUPT, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
            raise _StoppedError from exc
        if exc.sqlite_errorcode & 0xFF in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
            return str(exc)
        raise
    for line in said:
        if line.startswith(_NOT_DAMAGE):
            logger.warning("database.value_against_rule", extra={"reason": line[:200]})
        elif line != "ok":
            return " ".join(line.split())[:200]
    return None


def _resolve(found: "asyncio.Future[str | None]", fault: str | None, crash: BaseException | None) -> None:
    if found.done():
        return
    if crash is None:
        found.set_result(fault)
    else:
        found.set_exception(crash)
