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
import collections
import contextlib
import enum
import itertools
import logging
import pathlib
import sqlite3
import urllib.parse
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from typing import Any, Final, Generic, NamedTuple, TypeVar, cast

import aiosqlite
import databases

from nanohook import errors, units
from nanohook.units import Row, Topic, Transaction, Unit, Value

__all__ = [
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

INBOX_UNITS: Final = 2_000
"""Units that may wait for the writer; one more is refused."""
INBOX_BYTES: Final = 64 * 1024 * 1024
"""Bytes that waiting units may hold."""
BATCH_UNITS: Final = 256
"""Units in one commit, so that nobody waits behind an endless one."""


class Lane(enum.Enum):
    """Reads of one kind, which have connections of their own: a short one never waits behind a long one."""

    SIGN_IN = "sign-in"
    """Who is asking: one row by its key."""
    POINT = "point"
    """A few rows by their keys, whatever there is of others."""
    PAGE = "page"
    """As many rows as a list has, along an index."""
    SEARCH = "search"
    """Rows that are looked at one by one."""


READERS: Final = 2
"""Held connections for short reads: as many as there are cores to use them on the smallest machine."""
CONNECTIONS: Final = {Lane.SIGN_IN: 1, Lane.POINT: READERS, Lane.PAGE: READERS, Lane.SEARCH: 1}
LONG_READ_S: Final = 5.0
"""A page or a search that takes longer is given up; what they are bounded by takes some hundredths of that."""
BUSY_MS: Final = 5_000
"""How long BEGIN waits for another process before all who wait are refused, milliseconds."""

_LONG: Final = frozenset({Lane.PAGE, Lane.SEARCH})

T = TypeVar("T")
U = TypeVar("U")


class _Waiting(NamedTuple, Generic[T]):
    """A unit in line, with the future of its caller."""

    unit: Unit[T]
    future: "asyncio.Future[T]"
    size_bytes: int


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
        self, *, writer: aiosqlite.Connection, readers: Mapping[Lane, Sequence[aiosqlite.Connection]]
    ) -> None:
        self._writer = writer
        self._readers: dict[Lane, asyncio.LifoQueue[aiosqlite.Connection]] = {
            lane: asyncio.LifoQueue() for lane in readers
        }
        for lane, connections in readers.items():
            for reader in connections:
                self._readers[lane].put_nowait(reader)
        self._line: collections.deque[_Waiting[Any]] = collections.deque()
        self._line_bytes = 0
        self._arrived = asyncio.Event()
        self._room = asyncio.Event()
        self._closing = False
        self._listeners: dict[Topic, list[Callable[[], None]]] = {topic: [] for topic in Topic}

    def listen(self, topic: Topic, wake: Callable[[], None]) -> None:
        """Call *wake* after every commit that touched *topic*."""
        self._listeners[topic].append(wake)

    @property
    def is_closing(self) -> bool:
        """No write is taken any more."""
        return self._closing

    @property
    def waiting(self) -> int:
        """Units in line."""
        return len(self._line)

    async def read(self, unit: Unit[T], *, lane: Lane = Lane.POINT) -> T:
        """
        Run *unit* on a held connection of *lane*, in one snapshot.

        It returns rows: whatever is made of them is made when the connection is another's again.

        Raises:
            Unavailable: The database does not answer, or not within ``LONG_READ_S``.
        """
        readers = self._readers[lane]
        reader = await readers.get()
        try:
            with _interrupted_later(reader) if lane in _LONG else contextlib.nullcontext():
                return await _inside(reader, _read, unit)
        except sqlite3.Error as exc:
            if getattr(exc, "sqlite_errorcode", None) == sqlite3.SQLITE_INTERRUPT:
                logger.warning("database.read_given_up", extra={"lane": lane.value, "seconds": LONG_READ_S})
                raise errors.Unavailable("this takes too long to read, ask for less of it") from exc
            raise errors.Unavailable("the database cannot be read, try again") from exc
        finally:
            readers.put_nowait(reader)

    def offer(self, unit: Unit[T], *, size_bytes: int = 0) -> "asyncio.Future[T]":
        """
        Put *unit* in line at once, or refuse it.

        Returns:
            A future that resolves after the commit, with the unit's result or its error.

        Raises:
            Unavailable: The line is full, or the service is closing.
        """
        if self._closing or len(self._line) >= INBOX_UNITS or self._line_bytes + size_bytes > INBOX_BYTES:
            raise errors.Unavailable("too many writes are waiting, try again")
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._line.append(_Waiting(unit, future, size_bytes))
        self._line_bytes += size_bytes
        self._arrived.set()
        return future

    async def write(self, unit: Unit[T], *, size_bytes: int = 0) -> T:
        """
        Run *unit* in the next commit; waits for room in the line.

        Raises:
            Unavailable: The service is closing, or the commit failed.
        """
        while len(self._line) >= INBOX_UNITS and not self._closing:
            self._room.clear()
            await self._room.wait()
        return await self.offer(unit, size_bytes=size_bytes)

    async def run_writer(self) -> None:
        """Commit what waits, until ``finish`` was called and the line is empty."""
        while True:
            while not self._line:
                if self._closing:
                    return
                self._arrived.clear()
                await self._arrived.wait()
            batch = self._take()
            done = await self._commit(batch)
            for waiting, result in zip(batch, done.results, strict=True):
                _hand_over(waiting.future, result)
            for topic in done.topics:
                for wake in self._listeners[topic]:
                    wake()
            for call in done.after_commit:
                call()

    def finish(self) -> None:
        """Refuse new units; the writer ends when the line is empty."""
        self._closing = True
        self._arrived.set()
        self._room.set()

    def _take(self) -> list[_Waiting[Any]]:
        batch = [self._line.popleft() for _ in range(min(len(self._line), BATCH_UNITS))]
        self._line_bytes -= sum(waiting.size_bytes for waiting in batch)
        self._room.set()
        return batch

    async def _commit(self, batch: Sequence[_Waiting[Any]]) -> units.Done:
        connection = self._writer._conn  # noqa: SLF001
        asked = [waiting.unit for waiting in batch]
        try:
            await self._begin(connection)
            try:
                done = units.run_together(connection, asked)
                if done is None:
                    await _inside(self._writer, _roll_back, None)
                    await self._begin(connection)
                    done = units.run_apart(connection, asked)
                await _inside(self._writer, _execute, "COMMIT")
            except BaseException:
                await _inside(self._writer, _roll_back, None)
                raise
        except (sqlite3.Error, ValueError) as exc:
            # Nothing of the batch was kept; each caller may ask again. The writer lives on.
            logger.warning("database.commit_failed", extra={"units": len(batch), "reason": str(exc)})
            return units.Done(results=[units.Failed.refused(exc) for _ in batch])
        return done

    async def _begin(self, connection: sqlite3.Connection) -> None:
        if not _begin_at_once(connection):
            await _inside(self._writer, _begin_in_turn, None)


@contextlib.asynccontextmanager
async def open_database(path: pathlib.Path) -> AsyncIterator[Database]:
    """
    Open the SQLite file at *path* and run its writer; on leaving, what waits is committed first.

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
        # The writer never waits on the event loop: it tries, and waits in its thread.
        await held.execute("PRAGMA busy_timeout=0")
        database = Database(writer=held, readers=readers)
        writer = asyncio.create_task(database.run_writer(), name="database-writer")
        try:
            yield database
        finally:
            database.finish()
            await writer


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


async def _inside(connection: aiosqlite.Connection, call: Callable[[sqlite3.Connection, U], T], given: U) -> T:
    """
    Call ``call(connection, given)`` in *connection*'s own thread.

    The library has no public way to run more than one statement there, and a change of threads for each
    would cost more than the statements; its version is pinned for this.
    """
    return cast("T", await connection._execute(call, connection._conn, given))  # type: ignore[no-untyped-call]  # noqa: SLF001


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


def _execute(connection: sqlite3.Connection, sql: str) -> None:
    connection.execute(sql)


def _begin_at_once(connection: sqlite3.Connection) -> bool:
    """Take the write lock if it is free, as it is but for short commands beside us: no change of threads."""
    try:
        connection.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError as exc:
        if exc.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
            raise
        return False
    return True


def _begin_in_turn(connection: sqlite3.Connection, _nothing: None) -> None:
    """Wait for another process's lock, in the connection's own thread."""
    connection.execute(f"PRAGMA busy_timeout={BUSY_MS}").close()
    try:
        connection.execute("BEGIN IMMEDIATE")
    finally:
        connection.execute("PRAGMA busy_timeout=0").close()


def _roll_back(connection: sqlite3.Connection, _nothing: None) -> None:
    if connection.in_transaction:
        connection.execute("ROLLBACK")


def _hand_over(future: "asyncio.Future[Any]", result: object) -> None:
    if future.done():  # its caller went away; what it asked for is committed all the same
        return
    if isinstance(result, units.Failed):
        future.set_exception(result.error)
    else:
        future.set_result(result)
