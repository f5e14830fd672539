"""
The one writer of a database: takes all units that wait, in the order they came, and commits them together.

``database`` tells why it is one, and what runs where.
"""

import asyncio
import collections
import logging
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Generic, NamedTuple, TypeVar, cast

import aiosqlite

from nanohook import errors, units
from nanohook.database_file import DatabaseFile
from nanohook.faults import reach
from nanohook.units import Topic, Unit

logger = logging.getLogger(__name__)

INBOX_UNITS: Final = 2_000
"""Units that may wait for the writer; one more is refused."""
INBOX_BYTES: Final = 64 * 1024 * 1024
"""Bytes that waiting units may hold."""
BATCH_UNITS: Final = 256
"""Units in one commit, so that nobody waits behind an endless one."""
BUSY_MS: Final = 5_000
"""How long BEGIN waits for another process before all who wait are refused, milliseconds."""

T = TypeVar("T")
U = TypeVar("U")


class _Waiting(NamedTuple, Generic[T]):
    """A unit in line, with the future of its caller."""

    unit: Unit[T]
    future: "asyncio.Future[T]"
    size_bytes: int


class Writer:
    """
    Commits what is offered, while ``run`` runs.

    Args:
        connection: Its alone.
        file: What the connection writes to.
    """

    def __init__(self, connection: aiosqlite.Connection, file: DatabaseFile) -> None:
        self._connection = connection
        self._file = file
        file.on_lost = self._refuse_line
        self._line: collections.deque[_Waiting[Any]] = collections.deque()
        self._line_bytes = 0
        self._arrived = asyncio.Event()
        self._room = asyncio.Event()
        self._closing = False
        self._is_down = False
        self._listeners: dict[Topic, list[Callable[[], None]]] = {topic: [] for topic in Topic}

    def listen(self, topic: Topic, wake: Callable[[], None]) -> None:
        """Call *wake* after every commit that touched *topic*."""
        self._listeners[topic].append(wake)

    @property
    def is_closing(self) -> bool:
        """No write is taken any more."""
        return self._closing

    @property
    def is_down(self) -> bool:
        """It has crashed and waits for its restart, or has ended for good."""
        return self._is_down

    @property
    def waiting(self) -> int:
        """Units in line."""
        return len(self._line)

    def offer(self, unit: Unit[T], *, size_bytes: int = 0) -> "asyncio.Future[T]":
        """
        Put *unit* in line at once, or refuse it.

        Returns:
            A future that resolves after the commit, with the unit's result or its error.

        Raises:
            Unavailable: The line is full, the writer is down, or the service is closing.
        """
        self._file.check_after_gap()
        if self._is_down:
            raise errors.Unavailable("the database takes no writes for the moment, try again")
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

    async def run(self) -> None:
        """
        Commit what waits, until ``finish`` was called and the line is empty.

        Whatever ends it otherwise, everybody who waits is refused; it can be run again.
        """
        batch: list[_Waiting[Any]] = []
        try:
            # A crash may have left a transaction open.
            await run_in_thread(self._connection, _roll_back, None)
            self._is_down = False
            while True:
                while not self._line:
                    if self._closing:
                        return
                    self._arrived.clear()
                    await self._arrived.wait()
                batch = self._take()
                await self._serve(batch)
        except BaseException:
            self._is_down = True
            self._refuse(batch)
            self._refuse_line()
            raise

    async def _serve(self, batch: Sequence[_Waiting[Any]]) -> None:
        reach("database.batch")
        done = await self._commit(batch)
        for waiting, result in zip(batch, done.results, strict=True):
            _hand_over(waiting.future, result)
        for call in (*(wake for topic in done.topics for wake in self._listeners[topic]), *done.after_commit):
            try:
                call()
            except Exception:
                # It is committed and answered: that nobody was told of it is no reason to refuse others.
                logger.exception("database.listener_failed")

    def _refuse_line(self) -> None:
        self._refuse(self._line)
        self._line.clear()
        self._line_bytes = 0
        self._room.set()

    def _refuse(self, waiting: Iterable[_Waiting[Any]]) -> None:
        for each in waiting:
            _hand_over(each.future, units.Failed(errors.Unavailable("the database could not commit, try again")))

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
        connection = self._connection._conn  # noqa: SLF001
        asked = [waiting.unit for waiting in batch]
        try:
            await self._begin(connection)
            try:
                done = units.run_together(connection, asked)
                if done is None:
                    await run_in_thread(self._connection, _roll_back, None)
                    await self._begin(connection)
                    done = units.run_apart(connection, asked)
                await run_in_thread(self._connection, _execute, "COMMIT")
            except BaseException:
                await run_in_thread(self._connection, _roll_back, None)
                raise
        except (sqlite3.Error, ValueError) as exc:
            # Nothing of the batch was kept; each caller may ask again. The writer lives on.
            logger.warning("database.commit_failed", extra={"units": len(batch), "reason": str(exc)})
            self._file.look_for_damage(exc)
            if connection.in_transaction:
                raise RuntimeError("the database's transaction cannot be undone") from exc
            return units.Done(results=[units.Failed.refused(exc) for _ in batch])
        for result in done.results:
            if isinstance(result, units.Failed):
                self._file.look_for_damage(result.error.__cause__)
        try:
            # Committed to a file that is not the database any more is not kept.
            self._file.check()
        except errors.Unavailable as exc:
            return units.Done(results=[units.Failed.refused(exc) for _ in batch])
        return done

    async def _begin(self, connection: sqlite3.Connection) -> None:
        if not _begin_at_once(connection):
            reach("database.locked")
            await run_in_thread(self._connection, _begin_in_turn, None)


async def run_in_thread(
    connection: aiosqlite.Connection, call: Callable[[sqlite3.Connection, U], T], given: U
) -> T:
    """
    Call ``call(connection, given)`` in *connection*'s own thread.

    The library has no public way to run more than one statement there, and a change of threads for each
    would cost more than the statements; its version is pinned for this.
    """
    return cast("T", await connection._execute(call, connection._conn, given))  # type: ignore[no-untyped-call]  # noqa: SLF001


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
