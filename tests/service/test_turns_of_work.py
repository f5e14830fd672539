"""The places for steps of work are shared: however much one person has due, others find a place."""

import asyncio
import collections
import contextlib
import shutil
import sqlite3

import pytest

from nanohook import clock, database
from nanohook.rules.job import Step
from nanohook.work.loop import Loop, Trade
from nanohook.work.places import Places
from tests import live


def put_due(path, numbers, *, step):
    """Let so many tasks of each person be due, the earlier ones of who is named first."""
    now = clock.now_us()
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        for place, (owner_id, number) in enumerate(numbers.items()):
            connection.executemany(
                "INSERT INTO tasks "
                "(job_id, attempt, idx, owner_id, stage, progress, step, due_at, turn, queued_at) "
                "VALUES (?, 1, 0, ?, 'generating', 60, ?, ?, ?, ?)",
                [
                    (f"{owner_id}-{each}", owner_id, step, now - 10_000 + place * 1_000 + each, each, now)
                    for each in range(number)
                ],
            )


@contextlib.asynccontextmanager
async def working(path, trade):
    async with database.open_database(path) as opened:
        loop = Loop(opened, [trade], furthest_us=10**12)
        running = asyncio.create_task(loop.run())
        try:
            yield loop
        finally:
            await loop.stop()
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


class Hanging:
    """Steps that hang until each is let go."""

    def __init__(self):
        self.of = collections.Counter()
        self.go_on = asyncio.Event()

    async def __call__(self, task):
        self.of[task.owner_id] += 1
        await self.go_on.wait()


@pytest.mark.parametrize("step", [Step.FINISH, Step.ASK, Step.SUBMIT])
async def test_one_persons_steps_leave_places_for_others(empty, tmp_path, step):
    path = shutil.copy(empty, tmp_path / "work.db")
    put_due(path, {"ada": 500, "eve": 1, "joe": 3}, step=step)
    hanging = Hanging()
    async with working(path, Trade(step=step, most=16, do=hanging)):
        # Seven eighths at most, hers being due first.
        await live.until(lambda: hanging.of.total() == 16)
        assert hanging.of["ada"] <= 14
        assert hanging.of["eve"] + hanging.of["joe"] >= 2


async def test_who_comes_later_finds_a_place_beside_steps_that_hang(empty, tmp_path):
    path = shutil.copy(empty, tmp_path / "work.db")
    put_due(path, {"ada": 500}, step=Step.FINISH)
    hanging = Hanging()
    async with working(path, Trade(step=Step.FINISH, most=16, do=hanging, share_of_one=1 / 2)) as loop:
        put_due(path, {"eve": 1}, step=Step.FINISH)
        loop.wake()
        await live.until(lambda: hanging.of["eve"] == 1 and hanging.of["ada"] >= 8)
        put_due(path, {"joe": 2}, step=Step.FINISH)
        loop.wake()
        await live.until(lambda: hanging.of["joe"] == 2)
        assert loop._places[loop._trades[0]].held == hanging.of


async def test_a_single_place_is_anybodys(empty, tmp_path):
    path = shutil.copy(empty, tmp_path / "work.db")
    put_due(path, {"ada": 3}, step=Step.FINISH)
    seen = []

    async def do(task):
        seen.append(task.job_id)

    async with working(path, Trade(step=Step.FINISH, most=1, do=do)) as loop:
        await live.until(lambda: len(seen) >= 3)
        await live.until(lambda: not loop._running)
        assert not loop._places[loop._trades[0]].held


async def test_who_is_alone_has_every_place(empty, tmp_path):
    path = shutil.copy(empty, tmp_path / "work.db")
    put_due(path, {"ada": 50}, step=Step.FINISH)
    hanging = Hanging()
    async with working(path, Trade(step=Step.FINISH, most=16, do=hanging, share_of_one=1 / 2)):
        await live.until(lambda: hanging.of["ada"] == 16)


@pytest.mark.parametrize(("most", "most_of_one"), [(1, 1), (2, 1), (4, 3), (8, 7), (256, 224)])
def test_one_place_at_least_is_left_to_others(most, most_of_one):
    assert Places(most=most, share_of_one=7 / 8).most_of_one == most_of_one
