import asyncio
import time

import pytest

from nanohook import awake


async def test_what_ends_in_time_is_not_disturbed():
    async with awake.Timeout(5):
        await asyncio.sleep(0)
    async with awake.Timeout(0.2):
        pass
    await asyncio.sleep(0.3)


async def test_what_takes_too_long_is_ended():
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        async with awake.Timeout(1.2):
            await asyncio.sleep(30)
    assert 1.1 < time.monotonic() - began < 10
    await asyncio.sleep(0)  # nothing of it is left over


async def test_time_in_which_the_process_stood_still_does_not_count():
    async with awake.Timeout(2):
        time.sleep(3)  # noqa: ASYNC251 - the whole process stands still, as on a laptop that is closed
        await asyncio.sleep(0.3)


async def test_standing_still_again_and_again_costs_one_step_each():
    async with awake.Timeout(1.7):
        for _ in range(3):
            time.sleep(1.5)  # noqa: ASYNC251 - as above
            await asyncio.sleep(0.01)


async def test_an_error_within_is_what_comes_out():
    with pytest.raises(LookupError):
        async with awake.Timeout(1):
            raise LookupError


async def test_who_cancels_the_task_is_obeyed():
    async def wait():
        async with awake.Timeout(30):
            await asyncio.sleep(30)

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
