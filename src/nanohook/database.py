"""
The database: the one module that imports ``databases``.

Every write of the process is a *unit*: a coroutine function that is given a transaction, awaits nothing but its
statements and changes nothing else. One writer takes all units that wait, in the order they came, and commits
them together: one ``BEGIN IMMEDIATE``, one COMMIT, so a full fsync is shared by everybody who waited for it. If
one raises when it has written, all is undone and run again with a SAVEPOINT each, so that it fails alone.
A unit's result is handed over only after the commit.

On SQLite what may wait runs in the connection's own thread: COMMIT, which waits for the disk, and BEGIN where
another process holds the lock. Between the two the lock is ours and every statement is work in memory, some
microseconds each: a unit is driven to its end on the event loop, its awaits return at once. In a thread each of
its statements would have to win the interpreter back from the loop. Reads, which may be long, run in threads,
over a few held connections.
"""

import asyncio
import contextlib
import logging
import pathlib
import sqlite3
import urllib.parse
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any, Final, TypeVar

import aiosqlite
import databases

from nanohook import errors, units
from nanohook.database_file import DatabaseFile
from nanohook.supervision import Supervisor
from nanohook.units import Row, Topic, Transaction, Unit, Value
from nanohook.writer import BATCH_UNITS, BUSY_MS, INBOX_BYTES, INBOX_UNITS, Writer, run_in_thread

__all__ = [
    "BATCH_UNITS",
    "INBOX_BYTES",
    "INBOX_UNITS",
    "Database",
    "ReadOnly",
    "Row",
    "Topic",
    "Transaction",
    "Unit",
    "Value",
    "open_database",
    "open_read_only",
]

logger = logging.getLogger(__name__)

READERS: Final = 2
"""Held read connections: as many as there are cores to use them on the smallest machine."""
T = TypeVar("T")
U = TypeVar("U")


class _Connection(sqlite3.Connection):
    """A connection with our PRAGMAs, which SQLite keeps per connection only."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.row_factory = sqlite3.Row
        # busy_timeout first: whatever follows may meet another process. A migrated file is in WAL already.
        for pragma in (f"busy_timeout={BUSY_MS}", "journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            self.execute(f"PRAGMA {pragma}").close()


class Database:
    """
    One SQLite file, one writer, a few readers.

    Opened and closed by ``open_database``; the schema is brought up before, by ``migrations``.
    """

    def __init__(self, *, writer: Writer, readers: Sequence[aiosqlite.Connection], file: DatabaseFile) -> None:
        self._writer = writer
        self.file = file
        """Where it lies: watched by whoever runs a service."""
        self._readers: asyncio.LifoQueue[aiosqlite.Connection] = asyncio.LifoQueue()
        for reader in readers:
            self._readers.put_nowait(reader)

    def listen(self, topic: Topic, wake: Callable[[], None]) -> None:
        """Call *wake* after every commit that touched *topic*."""
        self._writer.listen(topic, wake)

    @property
    def is_closing(self) -> bool:
        """No write is taken any more."""
        return self._writer.is_closing

    @property
    def waiting(self) -> int:
        """Units in line."""
        return self._writer.waiting

    async def read(self, unit: Unit[T]) -> T:
        """
        Run *unit* on a held connection, in one snapshot.

        Raises:
            Unavailable: The database does not answer.
        """
        self.file.check_after_gap()
        reader = await self._readers.get()
        try:
            return await run_in_thread(reader, _read, unit)
        except sqlite3.Error as exc:
            self.file.look_for_damage(exc)
            raise errors.Unavailable("the database cannot be read, try again") from exc
        finally:
            self._readers.put_nowait(reader)

    def offer(self, unit: Unit[T], *, size_bytes: int = 0) -> "asyncio.Future[T]":
        """
        Put *unit* in line at once, or refuse it.

        Returns:
            A future that resolves after the commit, with the unit's result or its error.

        Raises:
            Unavailable: The line is full, the writer is down, or the service is closing.
        """
        return self._writer.offer(unit, size_bytes=size_bytes)

    async def write(self, unit: Unit[T], *, size_bytes: int = 0) -> T:
        """
        Run *unit* in the next commit; waits for room in the line.

        Raises:
            Unavailable: The service is closing, or the commit failed.
        """
        return await self._writer.write(unit, size_bytes=size_bytes)

    def finish(self) -> None:
        """Refuse new units; the writer ends when the line is empty."""
        self._writer.finish()


@contextlib.asynccontextmanager
async def open_database(path: pathlib.Path, *, supervisor: Supervisor | None = None) -> AsyncIterator[Database]:
    """
    Open the SQLite file at *path* and run its writer; on leaving, what waits is committed first.

    Args:
        supervisor: Of the service; a command has one of its own.

    Raises:
        ConfigError: The file cannot be opened.
    """
    # A ``databases`` connection belongs to one object and task: one object for each held connection.
    async with contextlib.AsyncExitStack() as stack:
        try:
            held = [await stack.enter_async_context(_hold(path)) for _ in range(READERS + 1)]
        except sqlite3.Error as exc:
            raise errors.ConfigError(f"cannot open the database at {path}: {exc}") from exc
        for reader in held[1:]:
            await reader.execute("PRAGMA query_only=ON")
        # The writer never waits on the event loop: it tries, and waits in its thread.
        await held[0].execute("PRAGMA busy_timeout=0")
        supervisor = supervisor or Supervisor()
        file = DatabaseFile(path, supervisor=supervisor)
        writer = Writer(held[0], file)
        writing = asyncio.create_task(supervisor.run("database-writer", writer.run), name="database-writer")
        try:
            yield Database(writer=writer, readers=held[1:], file=file)
        finally:
            writer.finish()
            if writer.is_down:  # there is nothing to wait for but its restart
                writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)
            for reader in held[1:]:
                reader._conn.interrupt()  # noqa: SLF001 - a long read has nobody left who waits for it


class ReadOnly:
    """A file that is only read, beside whoever works with it; opened by ``open_read_only``."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def read(self, unit: Unit[T]) -> T:
        """
        Run *unit* in one snapshot, on the caller's own thread.

        Raises:
            Unavailable: The file cannot be read.
        """
        try:
            return _read(self._connection, unit)
        except sqlite3.Error as exc:
            raise errors.Unavailable(f"the database cannot be read: {exc}") from exc


@contextlib.contextmanager
def open_read_only(path: pathlib.Path) -> Iterator[ReadOnly]:
    """
    Open the SQLite file at *path* for commands that change nothing: it is neither made nor brought up.

    Raises:
        ConfigError: There is no such file, or it is no database.
    """
    address = f"{path.absolute().as_uri()}?mode=ro"
    try:
        with contextlib.closing(sqlite3.connect(address, uri=True, isolation_level=None)) as connection:
            connection.row_factory = sqlite3.Row
            for pragma in (f"busy_timeout={BUSY_MS}", "query_only=ON", "schema_version"):
                connection.execute(f"PRAGMA {pragma}").close()
            yield ReadOnly(connection)
    except sqlite3.Error as exc:
        raise errors.ConfigError(f"cannot read the database at {path}: {exc}") from exc


@contextlib.asynccontextmanager
async def _hold(path: pathlib.Path) -> AsyncIterator[aiosqlite.Connection]:
    url = f"sqlite+aiosqlite:///{urllib.parse.quote(str(path))}"
    made = databases.Database(url, factory=_Connection, check_same_thread=False)
    async with made, made.connection() as connection:
        raw = connection.raw_connection
        if not isinstance(raw, aiosqlite.Connection):
            raise errors.ConfigError("the installed version of databases is not the one this was built for")
        yield raw


def _read(connection: sqlite3.Connection, unit: Unit[T]) -> T:
    connection.execute("BEGIN")
    try:
        return units.drive(unit, Transaction(connection))
    finally:
        connection.execute("COMMIT" if connection.in_transaction else "SELECT 1")
