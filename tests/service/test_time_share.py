"""The event loop's time is shared: whoever takes more than a share waits, while others are here and no longer."""

import asyncio
import time

import pytest

from nanohook import errors
from nanohook.web import time_share
from nanohook.web.time_share import LEAD_S, MAX_WAIT_S, MAX_WAITING_OF_ONE, REFUSED_FOR, SHARE_OF_ONE, TimeShare
from tests import rig

WAIT_S = 0.5


@pytest.fixture
def shared():
    return TimeShare()


async def nothing():
    return "done"


async def run(shared, whose, work):
    """Ask for something as a route does."""
    try:
        await shared.wait(whose)
        return await shared.measure(whose, work)
    finally:
        work.close()


async def held_up(shared, whose):
    """Ask for *whose*; tell how long it took."""
    began = time.monotonic()
    assert await run(shared, whose, nothing()) == "done"
    return time.monotonic() - began


def overdraw(shared, whose, *, wait_s=WAIT_S):
    shared.charge(whose, (LEAD_S + wait_s) * SHARE_OF_ONE)


async def test_who_is_alone_waits_for_nothing(shared):
    overdraw(shared, "ada", wait_s=MAX_WAIT_S)
    async with asyncio.timeout(5):
        for _ in range(200):
            await run(shared, "ada", nothing())


async def test_while_others_are_here_whoever_took_too_much_waits_and_they_do_not(shared):
    overdraw(shared, "ada")
    await run(shared, "eve", nothing())
    waits = asyncio.create_task(held_up(shared, "ada"))
    async with asyncio.timeout(5):
        for _ in range(50):
            await run(shared, "eve", nothing())
        assert not waits.done()
        assert await waits >= WAIT_S * 0.9
    await run(shared, "eve", nothing())
    # It is even then, and there is a lead again with time.
    assert shared._even_at["ada"] <= time.monotonic() + LEAD_S + 0.1


async def test_nobody_waits_longer_than_a_page_does(shared):
    shared.charge("ada", 1_000.0)
    assert shared._even_at["ada"] <= time.monotonic() + LEAD_S + MAX_WAIT_S


async def test_what_the_steps_of_a_request_take_counts_and_what_they_wait_for_does_not(shared):
    async def work():
        for _ in range(3):
            until = time.perf_counter() + 0.02
            while time.perf_counter() < until:
                pass
            await asyncio.sleep(0.1)

    await run(shared, "ada", work())
    took_s = (shared._even_at["ada"] - time.monotonic()) * SHARE_OF_ONE
    # As much as was worked, less what has become even meanwhile; waiting alone was 0.3 s.
    assert 0.03 <= took_s < 0.2


async def test_what_a_thread_does_counts_and_what_it_waits_for_does_not(shared):
    meter = shared.thread_meter("ada")

    def work():
        with meter():
            time.sleep(0.2)
            until = time.thread_time() + 0.1
            while time.thread_time() < until:
                pass

    await asyncio.to_thread(work)
    await asyncio.sleep(0)
    took_s = (shared._even_at["ada"] - time.monotonic()) * SHARE_OF_ONE
    assert 0.08 <= took_s < 0.2


async def test_more_requests_than_may_wait_are_refused_and_that_takes_longer_than_an_answer(shared):
    overdraw(shared, "ada")
    await run(shared, "eve", nothing())
    began, refused_s = time.monotonic(), []

    async def ask():
        try:
            await run(shared, "ada", nothing())
        except errors.TooMany:
            refused_s.append(time.monotonic() - began)
        else:
            assert time.monotonic() - began >= WAIT_S * 0.9

    await asyncio.gather(*(ask() for _ in range(MAX_WAITING_OF_ONE + 20)))
    assert len(refused_s) == 20
    assert min(refused_s) >= WAIT_S * REFUSED_FOR * 0.9
    assert not shared._waiting


async def test_errors_results_and_cancellation_are_the_works_own(shared):
    async def fails():
        await asyncio.sleep(0)
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        await run(shared, "ada", fails())
    seen = []

    async def waits():
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            seen.append("cancelled")
            await asyncio.sleep(0)
            raise

    running = asyncio.create_task(run(shared, "ada", waits()))
    await asyncio.sleep(0.01)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert seen == ["cancelled"]

    async def in_time():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await asyncio.sleep(60)
        return "went on"

    assert await run(shared, "ada", in_time()) == "went on"


async def test_of_many_people_those_who_are_even_are_forgotten(shared):
    for number in range(3 * time_share._SWEPT_AT):
        shared.charge(f"p{number}", 0.0)
    assert len(shared._even_at) <= time_share._SWEPT_AT


async def test_a_persons_requests_and_refusals_wait_and_anothers_do_not(tmp_path):
    async with rig.running(tmp_path, rate_status="1/minute") as service:
        one, other = await rig.person(service), await rig.person(service)
        async with one.client, other.client:
            path = f"/api/images/{(await service.generate('x'))['job_id']}/status"
            assert (await one.client.get(path)).status_code == 404
            whose = (await one.client.get("/api/auth/me")).json()["id"]
            overdraw(service.parts.shares.loop_time, whose)
            await other.client.get("/api/auth/me")
            began = time.monotonic()
            refused = asyncio.create_task(one.client.get(path))
            assert (await other.client.get("/api/auth/me")).status_code == 200
            assert not refused.done()
            assert (await refused).status_code in {404, 429}
            assert time.monotonic() - began >= WAIT_S / 2


async def test_uploads_and_searches_beyond_a_share_wait_and_the_page_does_not(tmp_path):
    async with rig.running(tmp_path) as service:
        one, other = await rig.person(service), await rig.person(service)
        async with one.client, other.client:
            whose = (await one.client.get("/api/auth/me")).json()["id"]
            took_s = (time_share.THREADS_LEAD_S + WAIT_S) * time_share.THREADS_SHARE_OF_ONE
            service.parts.shares.thread_time.charge(whose, took_s)
            await other.client.get("/api/auth/me")
            began = time.monotonic()
            picture = {"file": ("x.jpg", rig.picture(32, 24, kind="JPEG"), "image/jpeg")}
            waits = asyncio.create_task(one.client.post("/api/images", files=picture))
            for _ in range(10):
                assert (await one.client.get("/api/images")).status_code == 200
            assert (await other.client.get("/api/images?q=x")).status_code == 200
            assert not waits.done()
            assert (await waits).status_code == 201
            assert time.monotonic() - began >= WAIT_S / 2
