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
over a few held connections. But short ones, a few rows by their keys, run on the loop as well: every request waits
for one or two of them, and a connection whose thread has to be waited for serves one request each time that the
loop comes round.
"""

import asyncio
import contextlib
import enum
import itertools
import logging
import pathlib
import sqlite3
import urllib.parse
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
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
    "Lane",
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


class Lane(enum.Enum):
    """Reads of one kind, which have connections of their own: a short one never waits behind a long one."""

    SIGN_IN = "sign-in"
    """Who is asking: one row by its key, on the event loop."""
    POINT = "point"
    """A few rows by their keys, whatever there is of others; on the event loop, some hundreds of microseconds."""
    PAGE = "page"
    """As many rows as a list has, along an index."""
    SEARCH = "search"
    """Rows that are looked at one by one."""
    HOUSEKEEPING = "housekeeping"
    """Whatever nobody waits for."""


READERS: Final = 2
"""Held connections for lists: as many as there are cores to use them on the smallest machine."""
CONNECTIONS: Final = {Lane.SIGN_IN: 1, Lane.POINT: 1, Lane.PAGE: READERS, Lane.SEARCH: 1, Lane.HOUSEKEEPING: 1}
LONG_READ_S: Final = 5.0
"""A page or a search that takes longer is given up; what they are bounded by takes some hundredths of that."""

_AT_ONCE: Final = frozenset({Lane.SIGN_IN, Lane.POINT})
_LONG: Final = frozenset({Lane.PAGE, Lane.SEARCH})

T = TypeVar("T")


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

    def __init__(
        self, *, writer: Writer, readers: Mapping[Lane, Sequence[aiosqlite.Connection]], file: DatabaseFile
    ) -> None:
        self._writer = writer
        self.file = file
        """Where it lies: watched by whoever runs a service."""
        self._readers: dict[Lane, asyncio.LifoQueue[aiosqlite.Connection]] = {
            lane: asyncio.LifoQueue() for lane in readers
        }
        for lane, connections in readers.items():
            for reader in connections:
                self._readers[lane].put_nowait(reader)

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

    async def read(self, unit: Unit[T], *, lane: Lane = Lane.POINT) -> T:
        """
        Run *unit* on a held connection of *lane*, in one snapshot.

        It returns rows: whatever is made of them is made when the connection is another's again.

        Raises:
            Unavailable: The database does not answer, or not within ``LONG_READ_S``.
        """
        self.file.check_after_gap()
        readers = self._readers[lane]
        reader = await readers.get()
        try:
            if lane in _AT_ONCE:
                return _read(reader._conn, unit)  # noqa: SLF001
            with _interrupted_later(reader) if lane in _LONG else contextlib.nullcontext():
                return await run_in_thread(reader, _read, unit)
        except sqlite3.Error as exc:
            if getattr(exc, "sqlite_errorcode", None) == sqlite3.SQLITE_INTERRUPT:
                logger.warning("database.read_given_up", extra={"lane": lane.value, "seconds": LONG_READ_S})
                raise errors.Unavailable("this takes too long to read, ask for less of it") from exc
            self.file.look_for_damage(exc)
            raise errors.Unavailable("the database cannot be read, try again") from exc
        finally:
            readers.put_nowait(reader)

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
            held = await stack.enter_async_context(_hold(path))
            readers = {
                lane: [await stack.enter_async_context(_hold(path)) for _ in range(number)]
                for lane, number in CONNECTIONS.items()
            }
        except sqlite3.Error as exc:
            raise errors.ConfigError(f"cannot open the database at {path}: {exc}") from exc
        for reader in itertools.chain.from_iterable(readers.values()):
            await reader.execute("PRAGMA query_only=ON")
        # Nothing waits for a lock on the event loop. The writer tries, and waits in its thread; a reader meets
        # none, the log being written ahead.
        for each in (held, *readers[Lane.SIGN_IN], *readers[Lane.POINT]):
            await each.execute("PRAGMA busy_timeout=0")
        supervisor = supervisor or Supervisor()
        file = DatabaseFile(path, supervisor=supervisor)
        writer = Writer(held, file)
        writing = asyncio.create_task(supervisor.run("database-writer", writer.run), name="database-writer")
        try:
            yield Database(writer=writer, readers=readers, file=file)
        finally:
            writer.finish()
            if writer.is_down:  # there is nothing to wait for but its restart
                writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)
            for reader in itertools.chain.from_iterable(readers.values()):
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


@contextlib.contextmanager
def _interrupted_later(reader: aiosqlite.Connection) -> Iterator[None]:
    """Have a statement end that takes longer than ``LONG_READ_S``, or that nobody waits for any more."""
    connection: sqlite3.Connection = reader._conn  # noqa: SLF001
    timer = asyncio.get_running_loop().call_later(LONG_READ_S, connection.interrupt)
    try:
        yield
    except asyncio.CancelledError:
        connection.interrupt()
        raise
    finally:
        timer.cancel()


def _read(connection: sqlite3.Connection, unit: Unit[T]) -> T:
    connection.execute("BEGIN")
    try:
        return units.drive(unit, Transaction(connection))
    finally:
        connection.execute("COMMIT" if connection.in_transaction else "SELECT 1")
