"""A background task that crashes: restarted with pauses, or the end of the process with the reason."""

import asyncio
import logging
import sqlite3

import pytest

from nanohook import errors, supervision
from nanohook.supervision import Fate, Supervisor
from tests import live

ENDLESS, THRICE = Fate(restarts=None, why="a test"), Fate(restarts=3, why="a test")


class OddError(BaseException):
    """Of no kind that anybody catches."""


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(supervision, "FATES", {"endless": ENDLESS, "thrice": THRICE})
    monkeypatch.setattr(supervision, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(supervision, "MAX_PAUSE_S", 0.002)


def crashing(*crashes):
    """Work that crashes with each of *crashes*, then goes on; tells how often it began."""
    left, began = list(crashes), []

    async def work():
        began.append(True)
        if left:
            raise left.pop(0)
        await asyncio.Event().wait()

    return work, began


@pytest.mark.parametrize(
    "crash",
    [
        ValueError("a bug"),
        errors.NotFound("one of ours"),
        MemoryError(),
        RecursionError("too deep"),
        sqlite3.DatabaseError("malformed"),
        sqlite3.IntegrityError("against the rules"),
        ExceptionGroup("several", [ValueError("one")]),
        SystemExit(3),
        asyncio.CancelledError("of something that it waited for"),
        OddError("odd"),
    ],
    ids=lambda crash: type(crash).__name__,
)
async def test_it_begins_again_whatever_ended_it_and_that_is_counted_and_logged(crash, caplog):
    supervisor = Supervisor()
    work, began = crashing(crash, crash)
    async with supervisor.running("endless", work):
        await live.until(lambda: len(began) == 3)
    assert supervisor.restarts == {"endless": 2}
    said = [record for record in caplog.records if record.message == "background_task.crashed"]
    assert [(record.levelno, record.task, record.crashes) for record in said] == [
        (logging.ERROR, "endless", 1),
        (logging.ERROR, "endless", 2),
    ]
    assert all(record.exc_info[0] is type(crash) for record in said)


async def test_canceling_it_is_no_crash():
    supervisor = Supervisor()
    work, began = crashing()
    async with supervisor.running("endless", work):
        await live.until(lambda: began)
    assert (supervisor.restarts, len(began)) == ({}, 1)


async def test_canceling_it_while_it_waits_for_its_restart_ends_it(monkeypatch):
    monkeypatch.setattr(supervision, "FIRST_PAUSE_S", 3600.0)
    monkeypatch.setattr(supervision, "MAX_PAUSE_S", 3600.0)
    supervisor = Supervisor()
    work, began = crashing(ValueError("a bug"))
    async with asyncio.timeout(10), supervisor.running("endless", work):
        await live.until(lambda: began)
    assert len(began) == 1


async def test_one_that_returns_has_ended():
    async def work():
        """Done at once."""

    async with asyncio.timeout(10):
        await Supervisor().run("endless", work)


async def test_one_that_may_not_crash_for_ever_ends_the_process_with_the_reason():
    reasons = []
    supervisor = Supervisor(reasons.append)
    work, began = crashing(*[ValueError("a bug")] * 10)
    async with asyncio.timeout(10):
        await supervisor.run("thrice", work)
    assert len(began) == 4
    [reason] = reasons
    assert isinstance(reason, errors.Fatal)
    assert str(reason) == "the thrice has crashed 4 times in a row: ValueError('a bug')"
    # Only the first reason counts: the process ends once.
    supervisor.end(errors.Fatal("another"))
    assert reasons == [reason]


async def test_one_that_had_recovered_begins_to_count_anew(monkeypatch):
    monkeypatch.setattr(supervision, "HEALTHY_S", 0.0)
    supervisor = Supervisor()
    work, began = crashing(*[ValueError("a bug")] * 10)
    async with supervisor.running("thrice", work):
        await live.until(lambda: len(began) == 11)
    assert supervisor.reason is None


async def test_pauses_grow_up_to_a_minute(monkeypatch, caplog):
    monkeypatch.setattr(supervision, "FIRST_PAUSE_S", 1.0)
    monkeypatch.setattr(supervision, "MAX_PAUSE_S", 60.0)
    monkeypatch.setattr(supervision.random, "random", lambda: 1.0)
    pauses = []

    async def note(pause_s):
        pauses.append(pause_s)

    monkeypatch.setattr(supervision.asyncio, "sleep", note)
    work, began = crashing(*[ValueError("a bug")] * 8)
    task = asyncio.create_task(Supervisor().run("endless", work))
    while len(began) < 9:
        await asyncio.wait([task], timeout=0.001)
    task.cancel()
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]


async def test_a_task_without_a_fate_does_not_start():
    with pytest.raises(KeyError, match="unheard of"):
        await Supervisor().run("unheard of", asyncio.Event().wait)
