"""Readiness is asked for by anybody, as often as they like: it costs one write at a time, whatever a disk does."""

import asyncio
import contextlib
import sqlite3

import pytest
import pytest_asyncio

from nanohook import database, errors, migrations
from nanohook.web import readiness
from tests import live

MANY = 500


class Counted:
    """The database, with a count of the writes that were offered to it."""

    def __init__(self, opened: database.Database) -> None:
        self._opened = opened
        self.offered = 0

    def offer(self, unit, **how):
        self.offered += 1
        return self._opened.offer(unit, **how)

    @property
    def file(self):
        return self._opened.file

    @property
    def waiting(self) -> int:
        return self._opened.waiting


@pytest_asyncio.fixture
async def base(tmp_path):
    path = tmp_path / "nanohook.db"
    await asyncio.to_thread(migrations.upgrade, path)
    async with database.open_database(path) as opened:
        yield Counted(opened)


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    """A busy machine is not what is tested here."""
    monkeypatch.setattr(readiness, "PROOF_S", 30.0)
    monkeypatch.setattr(readiness, "PROOF_EVERY_S", 60.0)


@pytest.fixture
def other(tmp_path, base):
    """Another process' connection to the same file."""
    with contextlib.closing(sqlite3.connect(tmp_path / "nanohook.db", isolation_level=None)) as connection:
        yield connection


async def asked(ready: readiness.Readiness, times: int = MANY) -> list[asyncio.Task]:
    tasks = [asyncio.create_task(ready.check()) for _ in range(times)]
    await asyncio.sleep(0)
    return tasks


async def codes(tasks: list[asyncio.Task]) -> set[str]:
    """What each was told; empty where it is ready."""
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(each is None or isinstance(each, errors.Unavailable) for each in found)
    return {"" if each is None else each.code for each in found}


async def test_all_who_ask_meanwhile_share_one_proof(base):
    ready = readiness.Readiness(base)
    assert await codes(await asked(ready)) == {""}
    assert await codes(await asked(ready)) == {""}
    assert base.offered == 1


async def test_on_a_disk_that_stands_still_one_write_waits_however_many_ask(base, other, monkeypatch):
    monkeypatch.setattr(readiness, "PROOF_S", 0.2)
    ready = readiness.Readiness(base)
    other.execute("BEGIN IMMEDIATE")
    assert await codes(await asked(ready)) == {"database_slow"}
    # The one that was offered still waits, and who comes later hears that at once.
    assert await codes(await asked(ready)) == {"database_slow"}
    assert base.offered == 1
    other.execute("ROLLBACK")
    while await codes(await asked(ready)) != {""}:  # noqa: ASYNC110 - it is asked, nobody tells
        await asyncio.sleep(0.01)
    assert base.offered == 1


async def test_who_hangs_up_takes_the_answer_from_nobody(base, other):
    ready = readiness.Readiness(base)
    other.execute("BEGIN IMMEDIATE")
    first, *rest = await asked(ready, 10)
    first.cancel()
    await asyncio.sleep(0)
    other.execute("ROLLBACK")
    assert await codes(rest) == {""}


async def test_a_write_that_failed_is_told_for_a_moment_and_then_tried_again(base, other, monkeypatch):
    ready = readiness.Readiness(base)
    other.execute("CREATE TRIGGER full BEFORE INSERT ON facts BEGIN SELECT RAISE(FAIL, 'disk I/O error'); END")
    monkeypatch.setattr(readiness, "FAILED_FOR_S", 60.0)
    for _ in range(3):
        found = await asyncio.gather(*await asked(ready), return_exceptions=True)
        assert all(isinstance(each, Exception) for each in found)
    assert base.offered == 1
    other.execute("DROP TRIGGER full")
    monkeypatch.setattr(readiness, "FAILED_FOR_S", 0.0)
    assert await codes(await asked(ready)) == {""}
    assert base.offered == 2


async def test_a_line_that_is_full_is_told_at_once_and_forgotten_at_once(base, other):
    ready = readiness.Readiness(base)

    async def nothing(_tx):
        """Do nothing."""

    other.execute("BEGIN IMMEDIATE")
    waiting = [base.offer(nothing)]
    await live.until(lambda: base.waiting == 0)
    waiting += [base.offer(nothing) for _ in range(database.INBOX_UNITS)]
    assert await codes(await asked(ready)) == {"unavailable"}
    other.execute("ROLLBACK")
    await asyncio.gather(*waiting)
    assert await codes(await asked(ready)) == {""}
