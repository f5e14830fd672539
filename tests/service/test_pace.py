"""The pace towards NanoBanana: every question has its turn, whatever the line of submits and the clock do."""

import asyncio
import contextlib
import time

import pytest

from nanohook import errors
from nanohook.work import pace


@contextlib.asynccontextmanager
async def waiting(line, *names):
    """Stand in *line* in this order; yields in which order they were let through."""
    sent = []

    ways = {
        "submit": lambda whose: line.submit(whose or "ada"),
        "ask": lambda _: line.ask(),
        "deadline": lambda _: line.ask(is_for_deadline=True),
        "check": line.check,
    }

    async def go(name):
        kind, _, whose = name.partition(" ")
        await ways[kind](whose)
        sent.append(name)

    running = []
    for name in names:
        running.append(asyncio.create_task(go(name)))
        await asyncio.sleep(0)
    try:
        yield sent, running
    finally:
        for each in running:
            each.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def let_all_through(line, running):
    """Widen the window for all who wait."""
    line._amount = 100
    line._serve()
    await asyncio.gather(*running)


async def test_while_both_wait_every_fourth_place_is_a_question():
    line = pace.Pace("1/minute")
    await line.submit("ada")
    async with waiting(line, *["submit"] * 9, *["ask"] * 3) as (sent, running):
        await let_all_through(line, running)
    # One was sent before: the first question comes after two more.
    assert sent == ["submit"] * 2 + (["ask"] + ["submit"] * 3) * 2 + ["ask", "submit"]


async def test_questions_have_all_places_while_no_submit_waits():
    line = pace.Pace("3/minute")
    async with asyncio.timeout(5):
        for _ in range(3):
            await line.ask()
    async with waiting(line, "ask") as (sent, _):
        assert sent == []


async def test_a_window_moves_on():
    line = pace.Pace("5/second")
    began = asyncio.get_running_loop().time()
    for _ in range(11):
        await line.submit("ada")
    assert asyncio.get_running_loop().time() - began >= 1.99


async def test_a_clock_that_is_set_back_holds_nobody_up(monkeypatch):
    line = pace.Pace("2/second")
    await line.submit("ada")
    await line.submit("ada")
    present = time.time
    monkeypatch.setattr(time, "time", lambda: present() - 3600)
    async with asyncio.timeout(5):
        await line.submit("ada")
        await line.ask()


async def test_whoever_goes_away_holds_nobody_up():
    line = pace.Pace("1/second")
    await line.submit("ada")
    async with waiting(line, "submit", "submit", "ask") as (sent, running):
        running[0].cancel()
        async with asyncio.timeout(5):
            await running[1]
        assert sent == ["submit"]


async def test_when_it_closes_nobody_is_let_through():
    line = pace.Pace("1/minute")
    await line.submit("ada")
    async with waiting(line, "submit", "ask") as (sent, running):
        line.close()
        found = await asyncio.gather(*running, return_exceptions=True)
        assert [type(each) for each in found] == [errors.Unavailable] * 2
        assert sent == []
    with pytest.raises(errors.Unavailable):
        await line.submit("ada")


async def test_of_questions_a_deadlines_come_first_then_the_services_own_then_peoples():
    line = pace.Pace("1/minute")
    await line.submit("ada")
    kinds = ["check ada", "check ada", "ask", "check eve", "ask", "deadline"]
    async with waiting(line, *kinds) as (sent, running):
        await let_all_through(line, running)
    assert sent == ["deadline", "ask", "ask", "check ada", "check eve", "check ada"]


async def test_peoples_questions_have_their_share_of_one_place_in_four_beside_submits():
    line = pace.Pace("1/minute")
    await line.submit("ada")
    async with waiting(line, *["submit"] * 6, "check ada", "check eve") as (sent, running):
        await let_all_through(line, running)
    assert sent == ["submit"] * 2 + ["check ada"] + ["submit"] * 3 + ["check eve", "submit"]


async def test_whoever_asks_for_many_delays_nobody_elses_question():
    line = pace.Pace("1/minute")
    await line.submit("joe")
    many = ["check ada"] * pace.MAX_CHECKS_OF_ONE
    async with waiting(line, *many, "check eve") as (sent, running):
        # One more of hers is not even taken: what is known has to do for an answer.
        assert await line.check("ada") is False
        line._amount = len(line._taken) + 2
        line._serve()
        await running[-1]
        assert sent == ["check ada", "check eve"]


async def test_all_people_together_have_a_bound():
    line = pace.Pace("1/minute")
    await line.submit("ada")
    everybody = [f"check p{number}" for number in range(pace.MAX_CHECKS)]
    async with waiting(line, *everybody) as (sent, running):
        assert await line.check("one more") is False
        # Whoever goes away makes room.
        running[0].cancel()
        await asyncio.gather(running[0], return_exceptions=True)
        one_more = asyncio.create_task(line.check("one more"))
        await asyncio.sleep(0)
        assert not one_more.done()
        one_more.cancel()
        assert sent == []
    line.close()
    with pytest.raises(errors.Unavailable):
        await line.check("ada")


async def test_people_take_turns_at_submits():
    line = pace.Pace("1/minute")
    await line.submit("ada")
    async with waiting(line, *["submit ada"] * 3, "submit eve", "submit joe") as (sent, running):
        await let_all_through(line, running)
    assert sent == ["submit ada", "submit eve", "submit joe", "submit ada", "submit ada"]


async def test_who_is_alone_has_the_whole_window_at_once():
    line = pace.Pace("20/minute")
    async with asyncio.timeout(5):
        for _ in range(20):
            await line.submit("ada")


async def test_while_others_are_here_a_burst_leaves_them_most_of_the_window():
    line = pace.Pace("20/minute")
    await line.submit("eve")
    async with waiting(line, *["submit ada"] * 19) as (sent, _):
        await asyncio.sleep(0)
        assert sent == ["submit ada"] * 5
        # The rest is spread evenly: three seconds from one to the next.
        now = asyncio.get_running_loop().time()
        [until] = line._held_back(now).values()
        assert now < until <= now + 60 / 20
        # Whoever comes next does not wait for the window.
        async with asyncio.timeout(5):
            for _ in range(5):
                await line.submit("joe")
                await line.ask()
        assert sent == ["submit ada"] * 5


async def test_what_is_held_back_goes_out_when_its_time_has_come():
    line = pace.Pace("20/second")
    await line.submit("eve")
    async with asyncio.timeout(20):
        await asyncio.gather(*(line.submit("ada") for _ in range(40)))


async def test_questions_leave_others_most_of_the_window_too():
    line = pace.Pace("20/minute")
    await line.submit("eve")
    async with waiting(line, *["check ada"] * pace.MAX_CHECKS_OF_ONE) as (sent, _):
        await asyncio.sleep(0)
        assert sent == ["check ada"] * 5
        async with asyncio.timeout(5):
            await line.submit("eve")
            await line.ask("joe")
            # Those that are nobody's are never held back.
            for _ in range(8):
                await line.ask()
