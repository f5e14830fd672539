"""What strangers may hold of the server, and who goes when there is no room."""

import asyncio
import contextlib

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from nanohook.http1.table import READ_BYTES
from tests import live, raw

GET = b"GET /small HTTP/1.1\r\nHost: example.test\r\n\r\n"
LARGE = b"GET /large HTTP/1.1\r\nHost: example.test\r\n\r\n"
PIECE = b"x" * READ_BYTES
PIECES = 200
LITTLE = 4096
PATIENCE_S = 20


async def small(_request: Request) -> Response:
    return Response("yes")


async def whole(_request: Request) -> Response:
    """Hand all of it to the server at once."""
    return Response(PIECE * 20)


async def large(_request: Request) -> Response:
    async def pieces():
        for _ in range(PIECES):
            yield PIECE

    return StreamingResponse(pieces(), headers={"content-length": str(PIECES * len(PIECE))})


async def stuck(request: Request) -> Response:
    """Look at the body only when the client has gone."""
    while request.app.state.is_stuck:  # noqa: ASYNC110 - a plain flag of the test's
        await asyncio.sleep(0.01)
    return Response(str(len(await request.body())))


def app() -> Starlette:
    routes = [Route(f"/{each.__name__}", each) for each in (small, large, whole)]
    made = Starlette(routes=[*routes, Route("/stuck", stuck, methods=["POST"])])
    made.state.is_stuck = True
    return made


def connections(running):
    return running.server_state.connections


async def asks(stack, base, request, *, receive_bytes=LITTLE):
    connection = await stack.enter_async_context(raw.opened(base, receive_bytes=receive_bytes))
    await connection.send(request)
    return connection


async def deaf(stack, base, running, count, *, request=LARGE):
    """Ask *count* times, read nothing, and wait until that is felt."""
    made = [await asks(stack, base, request) for _ in range(count)]
    await live.until(lambda: sum(each.is_write_paused for each in connections(running)) >= count)
    return made


async def is_served(base):
    """Tell whether a newcomer is answered."""
    try:
        async with raw.opened(base) as connection:
            await connection.send(GET)
            return (await connection.answer(timeout_s=PATIENCE_S)).content == b"yes"
    except (ConnectionError, asyncio.IncompleteReadError):
        return False


async def is_cut(connection):
    with contextlib.suppress(ConnectionError):
        while await connection.some(1_000_000, timeout_s=PATIENCE_S):
            pass
    return True


# Bytes that nobody has looked at.


async def test_while_an_answer_is_not_read_one_read_at_most_is_held_of_what_comes_behind():
    async with raw.serving(app()) as (base, running), raw.opened(base, receive_bytes=LITTLE) as connection:
        await connection.send(LARGE)
        await live.until(lambda: any(each.is_write_paused for each in connections(running)))
        sending = asyncio.create_task(connection.send(GET * 100_000))
        [held] = connections(running)
        await live.until(lambda: held._is_read_paused)
        assert 0 < len(held._unread) <= READ_BYTES
        assert running._table._unread.total == len(held._unread)
        sending.cancel()
        await asyncio.wait([sending])
    await live.until(lambda: not connections(running))
    assert (running._table._unread.total, running._table._unsent.total) == (0, 0)


@pytest.mark.parametrize(
    "culprit",
    [
        LARGE + GET * 2_000,
        b"POST /stuck HTTP/1.1\r\nHost: example.test\r\nContent-Length: 1000000\r\n\r\n" + PIECE,
        b"POST /stuck HTTP/1.1\r\nHost: example.test\r\nTransfer-Encoding: chunked\r\n\r\n10000\r\n" + PIECE,
        b"GET /small HTTP/1.1\r\nHost: example.test\r\nX: " + PIECE[:60_000],
    ],
    ids=["behind an answer", "a body", "a body in chunks", "half a head"],
)
async def test_over_the_bound_of_unread_bytes_those_that_hold_most_go_and_half_a_head_stays(culprit):
    bound = 10 * READ_BYTES
    service = app()
    async with raw.serving(service, unread_bytes=bound) as (base, running), contextlib.AsyncExitStack() as stack:
        innocent = await asks(stack, base, GET[:-2])
        for _ in range(40):
            await asks(stack, base, culprit)
            assert running._table._unread.total <= bound
        await live.until(lambda: len(connections(running)) < 20)
        await innocent.send(GET[-2:])
        assert (await innocent.answer(timeout_s=PATIENCE_S)).content == b"yes"
        service.state.is_stuck = False
    await live.until(lambda: not connections(running))
    assert running._table._unread.total == 0


async def test_a_body_that_nobody_took_yet_is_whole_when_it_is_taken():
    service = app()
    async with raw.serving(service) as (base, running), raw.opened(base) as connection:
        head = b"POST /stuck HTTP/1.1\r\nHost: example.test\r\nContent-Length: %d\r\n\r\n" % (20 * len(PIECE))
        sending = asyncio.create_task(connection.send(head + PIECE * 20))
        await live.until(lambda: any(each._is_read_paused for each in connections(running)))
        assert running._table._unread.total <= 3 * READ_BYTES
        service.state.is_stuck = False
        await sending
        assert (await connection.answer(timeout_s=PATIENCE_S)).content == b"%d" % (20 * len(PIECE))


# Answers that nobody reads.


async def test_answers_that_are_not_read_have_a_bound_together_and_the_longest_paused_go():
    bound = 10 * READ_BYTES
    async with raw.serving(app(), unsent_bytes=bound) as (base, running), contextlib.AsyncExitStack() as stack:
        first, *_ = [await asks(stack, base, LARGE) for _ in range(40)]
        assert await is_cut(first)
        assert running._table._unsent.total <= bound
        assert await is_served(base)
        # Who reads is never among them, however much it is sent.
        reader = await asks(stack, base, LARGE, receive_bytes=2**16)
        assert len((await reader.answer(timeout_s=PATIENCE_S)).content) == PIECES * len(PIECE)


@pytest.mark.parametrize(
    "request_", [LARGE, LARGE.replace(b"large", b"whole"), LARGE.replace(b"Host", b"Connection: close\r\nHost")]
)
async def test_a_piece_of_an_answer_is_not_waited_for_for_ever(request_):
    async with raw.serving(app(), read_s=0.5) as (base, running), contextlib.AsyncExitStack() as stack:
        await deaf(stack, base, running, 3, request=request_)
        await live.until(lambda: not connections(running))


async def test_a_reader_that_pauses_goes_on_while_there_is_room():
    async with raw.serving(app(), behind_s=0.2) as (base, running), contextlib.AsyncExitStack() as stack:
        [reader] = await deaf(stack, base, running, 1)
        await behind(running, 1, 0.2)
        assert len((await reader.answer(timeout_s=PATIENCE_S)).content) == PIECES * len(PIECE)


# Room for a newcomer.


async def behind(running, count, limit_s):
    """Wait until *count* readers are so far behind."""
    loop = asyncio.get_running_loop()
    await live.until(lambda: sum(each.behind_s(loop.time()) > limit_s for each in connections(running)) >= count)


@pytest.mark.parametrize(
    "request_",
    [
        LARGE,
        LARGE.replace(b"large", b"whole"),
        LARGE.replace(b"Host", b"Connection: close\r\nHost"),
        LARGE.replace(b"large", b"whole").replace(b"Host", b"Connection: close\r\nHost"),
    ],
    ids=["in pieces", "at once", "in pieces, closed", "at once, closed"],
)
async def test_readers_that_do_not_read_make_room_for_newcomers(request_):
    limits = {"connections": 10, "behind_s": 0.2}
    async with raw.serving(app(), **limits) as (base, running), contextlib.AsyncExitStack() as stack:
        await deaf(stack, base, running, 10, request=request_)
        await behind(running, 10, 0.2)
        assert [await is_served(base) for _ in range(20)] == [True] * 20


async def test_readers_that_read_a_little_now_and_then_make_room_too():
    limits = {"connections": 10, "behind_s": 0.2}
    async with raw.serving(app(), **limits) as (base, running), contextlib.AsyncExitStack() as stack:
        slow = await deaf(stack, base, running, 10)

        async def trickle():
            while True:
                for each in slow:
                    with contextlib.suppress(ConnectionError):
                        await each.some(200)
                await asyncio.sleep(0.1)

        trickling = asyncio.create_task(trickle())
        await behind(running, 10, 0.2)
        assert [await is_served(base) for _ in range(20)] == [True] * 20
        trickling.cancel()
        await asyncio.wait([trickling])


async def test_a_reader_that_keeps_the_pace_is_not_closed_for_a_newcomer():
    limits = {"connections": 4, "behind_s": 5.0}
    async with raw.serving(app(), **limits) as (base, running), contextlib.AsyncExitStack() as stack:
        await deaf(stack, base, running, 4)
        assert not await is_served(base)


async def test_newcomers_whose_request_is_on_its_way_do_not_close_each_other_while_slow_readers_stay():
    limits = {"connections": 10, "behind_s": 0.2}
    async with raw.serving(app(), **limits) as (base, running), contextlib.AsyncExitStack() as stack:
        await deaf(stack, base, running, 10)
        await behind(running, 10, 0.2)
        newcomers = [await asks(stack, base, GET[:number]) for number in (0, 5, 10, 0, 20)]
        await live.until(lambda: sum(not each.is_write_paused for each in connections(running)) == 5)
        for newcomer, number in zip(newcomers, (0, 5, 10, 0, 20), strict=True):
            await newcomer.send(GET[number:])
            assert (await newcomer.answer(timeout_s=PATIENCE_S)).content == b"yes"


@pytest.mark.parametrize("half", [b"", GET[:5], GET, b"garbage\r\n\r\n"])
async def test_whoever_makes_room_makes_it_at_once(half):
    most = 0
    async with raw.serving(app(), connections=10) as (base, running), contextlib.AsyncExitStack() as stack:
        for _ in range(60):
            await asks(stack, base, half)
            await asyncio.sleep(0)
            most = max(most, len(connections(running)))
        assert await is_served(base)
    # One of each has been told to go and is not gone before the loop comes round.
    assert most <= 12
