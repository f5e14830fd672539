"""The pace towards NanoBanana: submits first, and yet every question has its turn."""

import asyncio
import contextlib

import pytest

from nanohook import errors
from nanohook.work import pace
from tests import live


@contextlib.asynccontextmanager
async def submits(line, number):
    """*number* that submit one after the other, without end."""
    sent = []

    async def endless():
        while True:
            await line.submit()
            sent.append("submit")

    running = [asyncio.create_task(endless()) for _ in range(number)]
    try:
        yield sent
    finally:
        for each in running:
            each.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def test_a_question_waits_for_an_endless_line_of_submits_no_longer_than_its_time(monkeypatch):
    assert pace.MOST_BEHIND_S == 10
    monkeypatch.setattr(pace, "MOST_BEHIND_S", 0.2)
    line = pace.Pace("50/second")
    async with submits(line, 3) as sent:
        await live.until(lambda: len(sent) == 50)
        began = asyncio.get_running_loop().time()
        async with asyncio.timeout(10):
            await line.ask()
        assert asyncio.get_running_loop().time() - began >= 0.19


async def test_it_lets_the_submits_that_wait_go_first():
    line = pace.Pace("2/second")
    sent = []

    async def submit():
        await line.submit()
        sent.append("submit")

    async def ask():
        await line.ask()
        sent.append("ask")

    async with asyncio.TaskGroup() as group:
        for each in (submit, submit, submit, ask):
            group.create_task(each())
            await asyncio.sleep(0)
    assert sent == ["submit", "submit", "submit", "ask"]


async def test_nobody_is_let_through_when_it_is_closed():
    line = pace.Pace("1000/second")
    line.close()
    for goes in (line.submit, line.ask):
        with pytest.raises(errors.Unavailable):
            await goes()
