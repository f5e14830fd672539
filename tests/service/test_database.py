"""The one writer and its readers, on a real file."""

import asyncio
import contextlib
import shutil
import sqlite3
import threading
import time

import pytest
import pytest_asyncio

from nanohook import database, database_file, errors, faults, migrations, page_check, supervision, writer
from nanohook.database import Topic
from nanohook.stores import events
from nanohook.supervision import Supervisor
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

    The writer, which would give up after five seconds, waits for as long as a busy machine may need.
    """
    [[_, _, path]] = await base.read(lambda tx: tx.all("PRAGMA database_list"))
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as lock:
        lock.execute("BEGIN IMMEDIATE")
        passed = set()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(writer, "BUSY_MS", 60_000)
            patch.setattr(faults, "at", passed.add)
            held = base.offer(nothing)
            await live.until(lambda: "database.locked" in passed)
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
    assert 4.5 < time.monotonic() - begun < 20
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

    reading = asyncio.create_task(base.read(twice, lane=database.Lane.PAGE))
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

    lane = database.Lane.PAGE
    reading = [asyncio.create_task(base.read(hold, lane=lane)) for _ in range(database.READERS)]
    await live.until(lambda: len(started) == database.READERS)
    for task in reading:
        task.cancel()
    await asyncio.gather(*reading, return_exceptions=True)
    let_go.set()
    reads = (base.read(lambda tx: tx.all("SELECT text FROM notes"), lane=lane) for _ in range(10))
    assert await asyncio.gather(*reads) == [[]] * 10


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


# A writer that crashes.


class OddError(BaseException):
    """Of no kind that anybody catches."""


@pytest.mark.parametrize("crash", [OddError("odd"), SystemExit(3), asyncio.CancelledError("of something else")])
async def test_if_the_writer_crashes_all_who_wait_are_refused_and_it_works_again(base, crash, monkeypatch):
    monkeypatch.setattr(supervision, "FIRST_PAUSE_S", 0.01)

    async def crashes(tx):
        await note("half")(tx)
        raise crash

    async with writer_held(base):
        batch = [base.offer(unit) for unit in (note("a"), crashes, note("b"))]
        behind = [base.offer(note(str(number))) for number in range(database.BATCH_UNITS)]
    async with asyncio.timeout(10):
        assert set(await outcomes([*batch, *behind])) == {errors.Unavailable}
        while True:
            try:
                await base.write(note("after"))
            except errors.Unavailable:
                await asyncio.sleep(0.01)
            else:
                break
    assert await texts(base) == ["after"]


async def test_a_writer_that_crashes_again_and_again_ends_the_process_and_nobody_waits_for_it(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(supervision, "FIRST_PAUSE_S", 0.001)
    reasons = []

    async def crashes(_tx):
        raise OddError("odd")

    supervisor = Supervisor(reasons.append)
    async with database.open_database(tmp_path / "test.db", supervisor=supervisor) as base:
        async with asyncio.timeout(30):
            while not reasons:
                with pytest.raises(errors.Unavailable):
                    await base.write(crashes)
                await asyncio.sleep(0.001)
            with pytest.raises(errors.Unavailable):
                await base.write(nothing)
    assert supervisor.restarts["database-writer"] == supervision.FATES["database-writer"].restarts
    assert "database-writer has crashed" in str(reasons[0])


async def test_a_listener_that_raises_refuses_nobody(base, caplog):
    def fail():
        raise KeyError("a bug")

    async def loud(tx):
        tx.wake(Topic.EVENTS)
        tx.after_commit.append(fail)
        return await note("a")(tx)

    base.listen(Topic.EVENTS, fail)
    assert await base.write(loud) == "a"
    assert await base.write(note("b")) == "b"
    assert caplog.messages.count("database.listener_failed") == 2


# A file that is not there any more, or damaged.


def gone(path):
    path.unlink()


def moved(path):
    path.rename(path.with_suffix(".moved"))


def replaced(path):
    copy = path.with_suffix(".copy")
    shutil.copyfile(path, copy)
    copy.replace(path)


@pytest.mark.parametrize("act", [gone, moved, replaced])
@pytest.mark.parametrize("ending", ["", "-wal", "-shm"])
async def test_nothing_is_acknowledged_once_a_file_is_lost_and_the_process_ends(tmp_path, act, ending):
    reasons, path = [], tmp_path / "test.db"
    async with database.open_database(path, supervisor=Supervisor(reasons.append)) as base:
        await base.write(lambda tx: tx.run("CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT NOT NULL)"))
        assert await base.write(note("kept")) == "kept"
        act(tmp_path / f"test.db{ending}")
        with pytest.raises(errors.Unavailable):
            await base.write(note("lost"))
        with pytest.raises(errors.Unavailable):
            await base.read(lambda tx: tx.all("SELECT * FROM notes"))
        with pytest.raises(errors.Unavailable):
            base.offer(nothing)
    [reason] = reasons
    assert f"test.db{ending} was" in str(reason)
    assert "nanohook backup" in str(reason)


async def test_a_folder_that_was_replaced_as_a_whole_is_noticed(tmp_path):
    reasons, folder = [], tmp_path / "data"
    folder.mkdir()
    async with database.open_database(folder / "test.db", supervisor=Supervisor(reasons.append)) as base:
        await base.write(nothing)
        shutil.copytree(folder, tmp_path / "copy")
        folder.rename(tmp_path / "former")
        (tmp_path / "copy").rename(folder)
        with pytest.raises(errors.Unavailable):
            await base.write(nothing)
    assert "was replaced" in str(reasons[0])


async def test_a_loss_is_noticed_though_nobody_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(database_file, "WATCH_S", 0.01)
    reasons, path = [], tmp_path / "test.db"
    supervisor = Supervisor(reasons.append)
    async with database.open_database(path, supervisor=supervisor) as base:
        await base.write(nothing)
        async with supervisor.running("database-watch", base.file.run_watch):
            path.unlink()
            await live.until(lambda: reasons)


async def test_a_read_after_a_gap_is_not_believed_of_a_file_that_is_gone(tmp_path, monkeypatch):
    reasons, path = [], tmp_path / "test.db"
    async with database.open_database(path, supervisor=Supervisor(reasons.append)) as base:
        await base.write(nothing)
        path.unlink()
        monkeypatch.setattr(database_file, "WATCH_S", -1.0)  # as if the gap were over
        with pytest.raises(errors.Unavailable):
            await base.read(lambda tx: tx.one("SELECT 1"))
    assert len(reasons) == 1


async def filled(path):
    """Make a database of some hundred pages."""
    async with database.open_database(path) as base:
        await base.write(lambda tx: tx.run("CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT NOT NULL)"))
        await base.write(
            lambda tx: tx.run(
                "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000) "
                "INSERT INTO notes SELECT i, hex(randomblob(400)) FROM n"
            )
        )


def damage(path, *, page, pages=10):
    """Overwrite pages in the middle of the file with what is none."""
    with path.open("r+b") as file:
        file.seek(page * 4096)
        file.write(b"\xa5" * 4096 * pages)


@pytest.mark.parametrize("way", ["read", "write"])
async def test_a_damaged_page_ends_the_process_and_names_the_backup(tmp_path, way):
    reasons, path = [], tmp_path / "test.db"
    await filled(path)
    damage(path, page=100)
    unit = {
        "read": lambda tx: tx.all("SELECT text FROM notes"),
        "write": lambda tx: tx.run("UPDATE notes SET text = text || 'x'"),
    }[way]
    async with database.open_database(path, supervisor=Supervisor(reasons.append)) as base:
        with pytest.raises(errors.Unavailable):
            await getattr(base, way)(unit)
        with pytest.raises(errors.Unavailable):
            await base.write(note("on damaged ground"))
    assert "malformed" in str(reasons[0])
    assert "put back the newest of your backups (nanohook backup)" in str(reasons[0])


async def test_the_start_finds_damaged_pages(tmp_path):
    path = tmp_path / "test.db"
    await filled(path)
    page_check.at_start(path, limit_s=60)
    damage(path, page=100)
    with pytest.raises(errors.ConfigError, match=r"is damaged .*nanohook backup"):
        page_check.at_start(path, limit_s=60)


@pytest.mark.parametrize("content", [b"no database at all" * 500, b"SQLite format 3\0" + bytes(8000)])
def test_the_start_finds_what_is_no_database(tmp_path, content):
    (tmp_path / "test.db").write_bytes(content)
    with pytest.raises(errors.ConfigError, match="is damaged"):
        page_check.at_start(tmp_path / "test.db")


def test_a_start_without_a_file_or_with_an_empty_one_has_nothing_to_find(tmp_path):
    page_check.at_start(tmp_path / "test.db")
    (tmp_path / "empty.db").touch()
    page_check.at_start(tmp_path / "empty.db")


async def test_the_start_does_not_wait_for_the_end_of_the_check(tmp_path, monkeypatch):
    monkeypatch.setattr(page_check, "_OPCODES", 1)
    path = tmp_path / "test.db"
    await filled(path)
    damage(path, page=100)
    page_check.at_start(path, limit_s=0.0)


async def test_values_against_a_rule_are_no_damage(tmp_path, caplog):
    path = tmp_path / "test.db"
    with contextlib.closing(sqlite3.connect(path)) as made:
        made.execute("CREATE TABLE notes (number INTEGER CHECK (number >= 0))")
        made.execute("PRAGMA ignore_check_constraints = ON")
        made.execute("INSERT INTO notes VALUES (-1)")
        made.commit()
    page_check.at_start(path, limit_s=60)
    assert "database.value_against_rule" in caplog.messages


async def test_the_check_in_the_background_finds_damage_beside_those_who_work(tmp_path):
    reasons, path = [], tmp_path / "test.db"
    await filled(path)
    damage(path, page=300)
    supervisor = Supervisor(reasons.append)
    async with database.open_database(path, supervisor=supervisor) as base:
        async with supervisor.running("page-check", page_check.PageCheck(path, base.file).run):
            await live.until(lambda: reasons)
        with pytest.raises(errors.Unavailable):
            await base.read(lambda tx: tx.one("SELECT 1"))
    assert "is damaged" in str(reasons[0])


async def test_the_check_in_the_background_ends_when_it_is_told_to(tmp_path, monkeypatch):
    path = tmp_path / "test.db"
    await filled(path)
    monkeypatch.setattr(page_check, "_SLICE_S", -1.0)
    monkeypatch.setattr(page_check, "_REST_S", 3600.0)
    monkeypatch.setattr(page_check, "_OPCODES", 10)

    def threads():
        return [thread for thread in threading.enumerate() if thread.name == "page-check"]

    supervisor = Supervisor()
    async with database.open_database(path, supervisor=supervisor) as base:
        async with supervisor.running("page-check", page_check.PageCheck(path, base.file).run):
            await live.until(threads)
        await live.until(lambda: not threads())
        assert await base.read(lambda tx: tx.one("SELECT 1")) is not None
