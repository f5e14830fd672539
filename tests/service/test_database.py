"""The one writer and its readers, on a real file."""

import asyncio
import contextlib
import sqlite3
import threading
import time

import pytest
import pytest_asyncio

from nanohook import database, errors, migrations
from nanohook.database import Topic
from nanohook.stores import events
from tests import live


@pytest_asyncio.fixture
async def base(tmp_path):
    async with database.open_database(tmp_path / "test.db") as opened:
        await opened.write(
            lambda tx: tx.run("CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE)")
        )
        yield opened


@pytest.fixture
def other(tmp_path, base):
    """Another process' connection to the same file."""
    with contextlib.closing(sqlite3.connect(tmp_path / "test.db", isolation_level=None)) as connection:
        yield connection


def note(text):
    """A unit that stores *text*."""

    async def write(tx):
        await tx.run("INSERT INTO notes (text) VALUES (:text)", {"text": text})
        return text

    return write


async def texts(base):
    rows = await base.read(lambda tx: tx.all("SELECT text FROM notes ORDER BY id"))
    return [row["text"] for row in rows]


async def nothing(_tx):
    """A unit that does nothing."""


@contextlib.asynccontextmanager
async def writer_held(base):
    """
    Let the writer wait for another process' lock, so that others wait in line.

    At most for a second or two: after five the writer would give up.
    """
    [[_, _, path]] = await base.read(lambda tx: tx.all("PRAGMA database_list"))
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as lock:
        lock.execute("BEGIN IMMEDIATE")
        held = base.offer(nothing)
        await live.until(lambda: base.waiting == 0)
        try:
            yield
        finally:
            lock.execute("ROLLBACK")
    await held


async def outcomes(futures):
    """Results, or the types of errors, in order."""
    done = await asyncio.gather(*futures, return_exceptions=True)
    return [type(one) if isinstance(one, BaseException) else one for one in done]


# One commit for many, and each for itself.


async def test_a_result_comes_after_the_commit(base, other):
    assert await base.write(note("a")) == "a"
    assert other.execute("SELECT text FROM notes").fetchall() == [("a",)]


async def test_units_that_wait_are_committed_together_in_the_order_they_came(base, other):
    seen = []

    def counted(number):
        async def write(tx):
            await tx.run("INSERT INTO notes (text) VALUES (:text)", {"text": str(number)})
            with contextlib.closing(sqlite3.connect(path)) as outside:
                [(committed,)] = outside.execute("SELECT COUNT(*) FROM notes").fetchall()
            seen.append((number, committed))
            return number

        return write

    [(_, _, path)] = other.execute("PRAGMA database_list").fetchall()
    most = database.BATCH_UNITS
    handed = []
    async with writer_held(base):
        waiting = [base.offer(counted(number)) for number in range(most + 10)]
        for future in waiting:
            future.add_done_callback(lambda done: handed.append(done.result()))
        assert base.waiting == len(waiting)
    assert await outcomes(waiting) == list(range(most + 10))
    # Nobody outside saw a part of the first batch.
    assert seen == [(number, 0 if number < most else most) for number in range(most + 10)]
    assert handed == list(range(most + 10))
    assert base.waiting == 0


async def test_a_unit_that_raises_fails_alone_and_leaves_nothing(base):
    async def half(tx):
        await note("half")(tx)
        tx.wake(Topic.EVENTS)
        tx.after_commit.append(lambda: said.append("half"))
        raise errors.Conflict("not this one")

    async def whole(tx):
        tx.wake(Topic.WORK)
        tx.after_commit.append(lambda: said.append("whole"))
        return await note("whole")(tx)

    said = []
    base.listen(Topic.EVENTS, lambda: said.append("events"))
    base.listen(Topic.WORK, lambda: said.append("work"))
    async with writer_held(base):
        waiting = [base.offer(unit) for unit in (note("before"), half, whole, note("before"), note("after"))]
    assert await outcomes(waiting) == ["before", errors.Conflict, "whole", sqlite3.IntegrityError, "after"]
    assert await texts(base) == ["before", "whole", "after"]
    assert sorted(said) == ["whole", "work"]


async def test_units_run_again_only_if_one_raised_when_it_had_written(base):
    runs = []

    def counted(text):
        async def write(tx):
            runs.append(text)
            return await note(text)(tx)

        return write

    async def refuse(tx):
        await tx.all("SELECT * FROM notes")
        raise errors.Conflict("seen, and refused")

    async def half(tx):
        await note("half")(tx)
        raise errors.Conflict("written, then refused")

    async with writer_held(base):
        waiting = [base.offer(unit) for unit in (counted("a"), refuse, counted("b"))]
    assert await outcomes(waiting) == ["a", errors.Conflict, "b"]
    assert runs == ["a", "b"]
    async with writer_held(base):
        waiting = [base.offer(unit) for unit in (counted("c"), half, counted("d"))]
    assert await outcomes(waiting) == ["c", errors.Conflict, "d"]
    assert runs == ["a", "b", "c", "c", "d"]
    assert await texts(base) == ["a", "b", "c", "d"]


async def test_an_error_carries_nothing_of_another_units(base):
    async def one(tx):
        await note("one")(tx)
        raise errors.NotFound("one")

    async def two(_tx):
        raise ValueError("two")

    async with writer_held(base):
        waiting = [base.offer(unit) for unit in (one, two)]
    assert await outcomes(waiting) == [errors.NotFound, ValueError]
    assert [future.exception().__context__ for future in waiting] == [None, None]


async def test_the_error_that_is_raised_is_the_units_own(base):
    problem = errors.NotFound("no such image")

    async def fail(_tx):
        raise problem

    with pytest.raises(errors.NotFound) as found:
        await base.write(fail)
    assert found.value is problem


async def test_listeners_are_woken_once_a_commit(base):
    woken = []
    base.listen(Topic.EVENTS, lambda: woken.append("events"))

    async def loud(tx):
        tx.wake(Topic.EVENTS)

    async with writer_held(base):
        waiting = [base.offer(loud) for _ in range(20)]
    await asyncio.gather(*waiting)
    assert woken == ["events"]


async def test_lines_for_the_log_are_written_after_the_commit_and_in_order(base, other):
    said = []

    def loud(text):
        async def write(tx):
            tx.after_commit.append(
                lambda: said.append((text, other.execute("SELECT COUNT(*) FROM notes").fetchone()[0]))
            )
            await note(text)(tx)

        return write

    async with writer_held(base):
        waiting = [base.offer(loud(text)) for text in "abc"]
    await asyncio.gather(*waiting)
    await live.until(lambda: len(said) == 3)
    assert said == [("a", 3), ("b", 3), ("c", 3)]


async def test_a_caller_who_leaves_does_not_undo_what_was_asked(base):
    async with writer_held(base):
        gone = asyncio.create_task(base.write(note("gone")))
        stays = asyncio.create_task(base.write(note("stays")))
        await live.until(lambda: base.waiting == 2)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
    assert await stays == "stays"
    assert await texts(base) == ["gone", "stays"]


async def test_a_caller_who_leaves_does_not_disturb_even_if_its_unit_fails(base):
    await base.write(note("twice"))
    async with writer_held(base):
        gone = asyncio.create_task(base.write(note("twice")))
        stays = base.offer(note("stays"))
        await live.until(lambda: base.waiting == 2)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
    assert await stays == "stays"


# What a unit must not do.


class Other:
    """Something that waits and is no statement."""

    def __await__(self):
        yield


@pytest.mark.parametrize("way", ["write", "read"])
async def test_a_unit_that_awaits_something_else_is_told_so(base, way):
    async def wait(tx):
        await tx.all("SELECT 1")
        await Other()

    async def sleep(_tx):
        await asyncio.sleep(0)

    for unit in (wait, sleep):
        with pytest.raises(RuntimeError, match="awaited something other than its statements"):
            await getattr(base, way)(unit)
    assert await base.write(note("still here")) == "still here"
    assert await texts(base) == ["still here"]


@pytest.mark.parametrize("way", ["write", "read"])
async def test_a_statement_that_is_wrong_is_an_error_of_its_caller(base, way):
    with pytest.raises((sqlite3.OperationalError, errors.Unavailable)):
        await getattr(base, way)(lambda tx: tx.all("SELECT * FROM nowhere"))
    assert await base.write(note("still here")) == "still here"
    assert await texts(base) == ["still here"]


async def test_readers_cannot_write(base):
    with pytest.raises((sqlite3.OperationalError, errors.Unavailable)):
        await base.read(note("a"))
    assert await texts(base) == []


async def ends_it_all(tx):
    await tx.run("ROLLBACK")


async def ends_it_all_and_complains(tx):
    await tx.run("ROLLBACK")
    raise LookupError("lost")


@pytest.mark.parametrize("culprit", [ends_it_all, ends_it_all_and_complains])
async def test_if_the_whole_transaction_is_lost_everybody_is_told_and_the_writer_lives_on(base, culprit):
    async with writer_held(base):
        waiting = [base.offer(unit) for unit in (note("a"), culprit, note("b"))]
    async with asyncio.timeout(5):
        assert set(await outcomes(waiting)) == {errors.Unavailable}
        assert await texts(base) == []
        assert await base.write(note("c")) == "c"
    assert await texts(base) == ["c"]


async def test_a_disk_error_within_a_unit_is_everybodys(base):
    """A trigger of the database stands for a full disk: SQLite gives up the whole transaction by itself."""
    broken = "BEFORE INSERT ON notes WHEN NEW.text = 'x' BEGIN SELECT RAISE(ROLLBACK, 'full'); END"
    await base.write(lambda tx: tx.run(f"CREATE TRIGGER broken {broken}"))
    async with writer_held(base):
        waiting = [base.offer(note(text)) for text in ("a", "x", "b")]
    assert await outcomes(waiting) == [errors.Unavailable] * 3
    assert await base.write(note("b")) == "b"
    assert await texts(base) == ["b"]


# The line.


async def test_a_full_line_refuses_whoever_cannot_wait_and_makes_room_for_who_can(base):
    async with writer_held(base):
        waiting = [base.offer(nothing) for _ in range(database.INBOX_UNITS)]
        with pytest.raises(errors.Unavailable) as refusal:
            base.offer(nothing)
        assert refusal.value.retry_after_s >= 1
        patient = [asyncio.create_task(base.write(note(text))) for text in "abc"]
        await asyncio.sleep(0)
        assert base.waiting == database.INBOX_UNITS
    await asyncio.gather(*waiting, *patient)
    assert sorted(await texts(base)) == ["a", "b", "c"]


async def test_the_line_has_a_bound_of_bytes(base):
    async with writer_held(base):
        waiting = [base.offer(nothing, size_bytes=database.INBOX_BYTES)]
        with pytest.raises(errors.Unavailable):
            base.offer(nothing, size_bytes=1)
        waiting.append(base.offer(nothing))
    await asyncio.gather(*waiting)
    await base.offer(nothing, size_bytes=database.INBOX_BYTES)


async def test_what_waits_is_committed_before_it_closes_and_nothing_is_taken_after(tmp_path):
    async with database.open_database(tmp_path / "closing.db") as base:
        await base.write(lambda tx: tx.run("CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT)"))
        async with writer_held(base):
            waiting = [base.offer(note(str(number))) for number in range(300)]
            base.finish()
            with pytest.raises(errors.Unavailable):
                base.offer(note("late"))
            with pytest.raises(errors.Unavailable):
                await base.write(note("late"))
        assert await outcomes(waiting) == [str(number) for number in range(300)]
    with contextlib.closing(sqlite3.connect(tmp_path / "closing.db")) as connection:
        assert connection.execute("SELECT COUNT(*) FROM notes").fetchone() == (300,)


# Others who use the same file.


async def test_a_short_lock_of_another_process_is_waited_for(base, other):
    other.execute("BEGIN IMMEDIATE")
    waiting = base.offer(note("a"))
    await live.until(lambda: base.waiting == 0)
    assert not waiting.done()
    assert await texts(base) == []  # reading goes on
    other.execute("ROLLBACK")
    assert await waiting == "a"


async def test_a_long_lock_of_another_process_refuses_everybody_and_the_writer_lives_on(base, other):
    other.execute("BEGIN IMMEDIATE")
    begun = time.monotonic()
    first = base.offer(note("first"))
    await live.until(lambda: base.waiting == 0)
    behind = [base.offer(note(str(number))) for number in range(3)]
    with pytest.raises(errors.Unavailable):
        await first
    assert 4.5 < time.monotonic() - begun < 6
    other.execute("ROLLBACK")
    # Those who came meanwhile are the next batch.
    assert await outcomes(behind) == ["0", "1", "2"]
    assert await texts(base) == ["0", "1", "2"]


async def test_a_read_sees_one_moment(base):
    begun, go_on = threading.Event(), threading.Event()

    async def twice(tx):
        first = await tx.all("SELECT text FROM notes")
        begun.set()
        go_on.wait(10)
        return len(first), len(await tx.all("SELECT text FROM notes"))

    reading = asyncio.create_task(base.read(twice))
    await live.until(begun.is_set)
    await base.write(note("meanwhile"))
    go_on.set()
    assert await reading == (0, 0)
    assert await texts(base) == ["meanwhile"]


async def test_a_read_whose_caller_left_gives_its_connection_back(base):
    let_go = threading.Event()
    started = []

    async def hold(_tx):
        started.append(True)
        let_go.wait(10)

    reading = [asyncio.create_task(base.read(hold)) for _ in range(database.READERS)]
    await live.until(lambda: len(started) == database.READERS)
    for task in reading:
        task.cancel()
    await asyncio.gather(*reading, return_exceptions=True)
    let_go.set()
    assert await asyncio.gather(*(texts(base) for _ in range(10))) == [[]] * 10


async def test_a_file_that_is_no_database_is_told_by_name(tmp_path):
    path = tmp_path / "test.db"
    path.write_bytes(b"no database at all, but long enough to be looked at" * 100)
    before = set(threading.enumerate())
    with pytest.raises(errors.ConfigError, match=r"test\.db"):
        async with database.open_database(path):
            pass
    # The library's thread says goodbye to this event loop, which must still be there.
    await live.until(lambda: set(threading.enumerate()) <= before)


async def test_a_path_may_hold_anything_a_path_may_hold(tmp_path):
    folder = tmp_path / "a folder, 100 % odd ?x=1#y é"
    folder.mkdir()
    async with database.open_database(folder / "test.db") as base:
        await base.write(lambda tx: tx.run("CREATE TABLE t (a)"))
    assert (folder / "test.db").is_file()


async def test_a_commit_is_on_the_disk_and_not_only_in_memory(base):
    async def pragmas(tx):
        return [(await tx.all(f"PRAGMA {name}"))[0][0] for name in ("journal_mode", "synchronous", "foreign_keys")]

    assert await base.write(pragmas) == ["wal", 2, 1]
    assert (await base.read(pragmas))[0] == "wal"


# The log of events.


async def append(tx):
    return await events.append(
        tx, owner_id="me", job_id="job", name="status", is_last=False, payload="{}", now_us=0
    )


async def test_ids_of_events_never_restart(tmp_path):
    path = tmp_path / "nanohook.db"
    migrations.upgrade(path)
    async with database.open_database(path) as base:
        assert await base.read(events.head) == 0
        assert [await base.write(append) for _ in range(3)] == [1, 2, 3]
        await base.write(lambda tx: tx.run("DELETE FROM events"))
        assert await base.read(events.head) == 3
        assert await base.write(append) == 4
        await base.write(lambda tx: tx.run("DELETE FROM events"))
    async with database.open_database(path) as base:
        assert await base.read(events.head) == 4
        assert await base.write(append) == 5


async def test_an_id_is_given_again_only_if_its_unit_was_undone(tmp_path):
    """What was undone was never seen; an id that somebody saw stands for one event for ever."""
    path = tmp_path / "nanohook.db"
    migrations.upgrade(path)

    async def undone(tx):
        await append(tx)
        raise errors.Conflict("no")

    async with database.open_database(path) as base:
        first = await base.write(append)
        with pytest.raises(errors.Conflict):
            await base.write(undone)
        second = await base.write(append)
        assert second > first
        rows = await base.read(lambda tx: events.after(tx, 0))
        assert [row.id for row in rows] == [first, second]
