"""
Units: what is done within one transaction of SQLite.

A unit awaits nothing but its statements, which return at once, and changes nothing but what they write: so it can
be undone, and run again.
"""

import enum
import sqlite3
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self, TypeVar

from nanohook import errors

Row = sqlite3.Row
Value = str | int | float | bytes | None
Values = Mapping[str, Value] | Sequence[Value]
T = TypeVar("T")


class Topic(enum.Enum):
    """What a commit may have changed that somebody waits for."""

    EVENTS = "events"
    WORK = "work"
    UNAPPLIED = "unapplied"


class Transaction:
    """
    Statements of one unit.

    Every call takes a statement and its values: by name for ``:name`` parameters, by place for ``?``. Nothing else
    may be awaited in a unit.
    """

    __slots__ = ("_connection", "after_commit", "topics")

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self.topics: set[Topic] = set()
        self.after_commit: list[Callable[[], None]] = []
        """Called on the event loop once this is committed, for lines in the log."""

    async def all(self, sql: str, values: Values = ()) -> list[Row]:
        """Return every row."""
        return self._connection.execute(sql, values).fetchall()

    async def one(self, sql: str, values: Values = ()) -> Row | None:
        """Return the first row, or ``None``."""
        row: Row | None = self._connection.execute(sql, values).fetchone()
        return row

    async def run(self, sql: str, values: Values = ()) -> int:
        """Execute and return the number of rows changed."""
        return self._connection.execute(sql, values).rowcount

    def wake(self, topic: Topic) -> None:
        """Tell those who wait for *topic*, once this is committed."""
        self.topics.add(topic)


Unit = Callable[[Transaction], Awaitable[T]]


@dataclass(slots=True)
class Done:
    """What came of a batch."""

    results: list[Any] = field(default_factory=list)
    topics: set[Topic] = field(default_factory=set)
    after_commit: list[Callable[[], None]] = field(default_factory=list)

    def add(self, connection: sqlite3.Connection, unit: Unit[Any]) -> None:
        """
        Run *unit* in the open transaction.

        Raises:
            OperationalError: SQLite has ended the transaction by itself, as it does when the disk is full.
            Exception: What the unit raised.
        """
        transaction = Transaction(connection)
        result = drive(unit, transaction)
        if not connection.in_transaction:
            raise sqlite3.OperationalError("SQLite has ended the transaction by itself")
        self.results.append(result)
        if transaction.topics:
            self.topics |= transaction.topics
        if transaction.after_commit:
            self.after_commit += transaction.after_commit


def run_together(connection: sqlite3.Connection, units: Sequence[Unit[Any]]) -> Done | None:
    """
    Run *units* in the open transaction, without a SAVEPOINT: a quarter of their time.

    Returns:
        ``None`` if one of them raised when it had changed something: nothing of the transaction may be committed.
    """
    done = Done()
    for unit in units:
        changes = connection.total_changes
        try:
            done.add(connection, unit)
        except Exception as exc:  # noqa: BLE001 - its caller gets it
            if not connection.in_transaction or connection.total_changes != changes:
                return None
            done.results.append(Failed.of(exc))
    return done


def run_apart(connection: sqlite3.Connection, units: Sequence[Unit[Any]]) -> Done:
    """
    Run *units* in the open transaction; an error of one undoes that one alone and becomes its result.

    Raises:
        OperationalError: The transaction was lost.
    """
    done = Done()
    for unit in units:
        connection.execute("SAVEPOINT unit")
        try:
            done.add(connection, unit)
        except Exception as exc:
            if not connection.in_transaction:
                raise sqlite3.OperationalError("SQLite has ended the transaction by itself") from exc
            connection.execute("ROLLBACK TO unit")
            done.results.append(Failed.of(exc))
        connection.execute("RELEASE unit")
    return done


def drive(unit: Unit[T], transaction: Transaction) -> T:
    """Run *unit* to its end: on SQLite its statements return at once, so it never really waits."""
    coroutine = unit(transaction).__await__()
    try:
        next(coroutine)
    except StopIteration as end:
        result: T = end.value
        return result
    raise RuntimeError("a unit of the database awaited something other than its statements")


class Failed(NamedTuple):
    """An error on its way to the one who asked."""

    error: Exception

    @classmethod
    def of(cls, exc: Exception) -> Self:
        """Tell a database that fails (disk, memory, lock) from a unit that asks for what its rules forbid."""
        is_ours = isinstance(exc, sqlite3.DatabaseError) and not isinstance(
            exc, (sqlite3.IntegrityError, sqlite3.ProgrammingError, sqlite3.DataError)
        )
        return cls.refused(exc) if is_ours else cls(exc)

    @classmethod
    def refused(cls, exc: Exception) -> Self:
        """Say that the database could not, because of *exc*, and may be asked again."""
        refusal = errors.Unavailable("the database could not commit, try again")
        refusal.__cause__ = exc
        return cls(refusal)
