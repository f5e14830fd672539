"""Memory in flight is bounded, and nobody's place in line is lost."""

import asyncio
import threading

import pytest

from nanohook import errors
from nanohook.decoding import LONG_MEMORY_BYTES, QUICK_BYTES, QUICK_MEMORY_BYTES, Decoder
from tests import live


@pytest.fixture
def decoder():
    made = Decoder(max_threads=4)
    yield made
    made.close()


async def test_work_that_would_not_fit_waits_for_its_turn(decoder):
    go, started = threading.Event(), []

    def work(name):
        started.append(name)
        go.wait(10)

    half = LONG_MEMORY_BYTES // 2
    running = [asyncio.create_task(decoder.run("ada", half, work, name)) for name in ("a", "b", "c")]
    await live.until(lambda: len(started) == 2)
    assert started == ["a", "b"]
    go.set()
    await asyncio.gather(*running)
    assert started == ["a", "b", "c"]


async def test_one_that_is_larger_than_the_bound_gets_its_turn_alone(decoder):
    assert await decoder.run("ada", LONG_MEMORY_BYTES * 2, lambda: 7) == 7
    assert await decoder.run("ada", LONG_MEMORY_BYTES, lambda: 8) == 8


async def test_whoever_goes_away_while_waiting_blocks_nobody(decoder):
    go = threading.Event()
    first = asyncio.create_task(decoder.run("ada", LONG_MEMORY_BYTES, go.wait, 10))
    await asyncio.sleep(0)
    second = asyncio.create_task(decoder.run("ada", LONG_MEMORY_BYTES, lambda: None))
    third = asyncio.create_task(decoder.run("ada", LONG_MEMORY_BYTES, lambda: 3))
    await asyncio.sleep(0)
    second.cancel()
    go.set()
    assert await asyncio.wait_for(third, 10) == 3
    assert await first is True


async def test_an_error_of_the_work_is_the_callers_and_frees_its_memory(decoder):
    def fail():
        raise ValueError("broken")

    for _ in range(3):
        with pytest.raises(ValueError, match="broken"):
            await decoder.run("ada", LONG_MEMORY_BYTES, fail)
    assert await decoder.run("ada", LONG_MEMORY_BYTES, lambda: 1) == 1


async def test_people_take_turns():
    alone, go, started = Decoder(max_threads=1), threading.Event(), []

    def work(name):
        started.append(name)
        go.wait(10)

    names = ["ada 1", "ada 2", "ada 3", "eve 1"]
    running = []
    for name in names:
        running.append(asyncio.create_task(alone.run(name[:3], 1, work, name)))
        await asyncio.sleep(0)
    await live.until(lambda: started == ["ada 1"])
    go.set()
    await asyncio.gather(*running)
    alone.close()
    assert started == ["ada 1", "ada 2", "eve 1", "ada 3"]


async def test_no_more_are_let_in_than_there_are_threads(decoder):
    go, started = threading.Event(), []

    def work():
        started.append(1)
        go.wait(10)

    running = [asyncio.create_task(decoder.run("ada", 0, work)) for _ in range(9)]
    await live.until(lambda: len(started) == 4)
    assert decoder._quick.pool._work_queue.qsize() == 0
    go.set()
    await asyncio.gather(*running)
    assert len(started) == 9


async def test_a_small_picture_does_not_wait_for_large_ones(decoder):
    go = threading.Event()
    large = [asyncio.create_task(decoder.run("ada", QUICK_BYTES + 1, go.wait, 10)) for _ in range(9)]
    await live.until(lambda: decoder._long.running == 4)
    assert await asyncio.wait_for(decoder.run("ada", QUICK_BYTES, lambda: 1), 10) == 1
    go.set()
    assert await asyncio.gather(*large) == [True] * 9


async def test_a_small_picture_does_not_wait_for_one_that_waits_for_memory(decoder):
    go = threading.Event()
    large = [asyncio.create_task(decoder.run("ada", LONG_MEMORY_BYTES, go.wait, 10)) for _ in range(2)]
    await live.until(lambda: decoder._long.running == 1 and decoder._long.next is not None)
    small = [decoder.run("eve", QUICK_BYTES, lambda: 1) for _ in range(9)]
    assert await asyncio.wait_for(asyncio.gather(*small), 10) == [1] * 9
    go.set()
    assert await asyncio.gather(*large) == [True] * 2


async def test_small_pictures_have_a_bound_of_their_own(decoder):
    go, started = threading.Event(), []

    def work():
        started.append(1)
        go.wait(10)

    running = [asyncio.create_task(decoder.run("ada", QUICK_BYTES, work)) for _ in range(3)]
    await live.until(lambda: decoder._quick.next is not None)
    assert len(started) == QUICK_MEMORY_BYTES // QUICK_BYTES
    go.set()
    await asyncio.gather(*running)
    assert len(started) == 3


@pytest.mark.parametrize("beside", [0, QUICK_BYTES, QUICK_BYTES + 1])
async def test_nothing_runs_beside_what_runs_alone(decoder, beside):
    go, order = threading.Event(), []

    def work(name):
        order.append(f"{name} begins")
        go.wait(10)
        order.append(f"{name} ends")

    before = asyncio.create_task(decoder.run("ada", beside, work, "before"))
    await live.until(lambda: order == ["before begins"])
    tasks = [before]
    for name, memory_bytes in (("suspect", None), ("second", None), ("after", beside)):
        tasks.append(asyncio.create_task(decoder.run(name, memory_bytes, work, name)))
        await asyncio.sleep(0)
    go.set()
    await asyncio.gather(*tasks)
    assert order[:2] == ["before begins", "before ends"]
    for name in ("suspect", "second"):
        assert order.index(f"{name} ends") == order.index(f"{name} begins") + 1
    assert len(order) == 8


async def test_who_wanted_to_run_alone_and_went_away_holds_up_nobody(decoder):
    go = threading.Event()
    running = [asyncio.create_task(decoder.run("ada", QUICK_BYTES + 1, go.wait, 10)) for _ in range(4)]
    await live.until(lambda: decoder._long.running == 4)
    gone = asyncio.create_task(decoder.run("ada", None, lambda: None))
    await asyncio.sleep(0)
    running.append(asyncio.create_task(decoder.run("bob", None, lambda: True)))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    go.set()
    assert await asyncio.wait_for(asyncio.gather(*running), 10) == [True] * 5
    assert await asyncio.wait_for(decoder.run("eve", 0, lambda: 1), 10) == 1


async def test_nothing_is_taken_any_more_after_the_end():
    ended, go = Decoder(max_threads=1), threading.Event()
    running = asyncio.create_task(ended.run("ada", 0, go.wait, 10))
    await live.until(lambda: ended._quick.running == 1)
    waiting = [asyncio.create_task(ended.run("ada", each, lambda: 1)) for each in (0, 0, None, QUICK_BYTES + 1)]
    await asyncio.sleep(0)
    ended.close()
    with pytest.raises(errors.Unavailable, match="going down"):
        await ended.run("ada", 0, lambda: 1)
    go.set()
    assert await running
    assert all(
        isinstance(each, errors.Unavailable) for each in await asyncio.gather(*waiting, return_exceptions=True)
    )
