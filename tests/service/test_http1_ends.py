"""Clients that send no more, readers that leave, a server that goes down, and whether one is there at all."""

import asyncio
import contextlib
import socket

import orjson
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Mount, Route

from nanohook.http1 import sockets
from tests import live, raw, rig

HOST = b"Host: example.test\r\n"
PATIENCE_S = 20


async def slow(request: Request) -> Response:
    """Answer when the test says so."""
    request.app.state.asked += 1
    await request.app.state.may_answer.wait()
    return Response("yes")


async def pieces(request: Request) -> Response:
    async def made():
        yield b"one "
        await request.app.state.may_answer.wait()
        yield b"two"

    return StreamingResponse(made())


async def taken(request: Request) -> Response:
    """Read the body; note how that ended."""
    try:
        body = await request.body()
    except Exception as exc:
        request.app.state.ends.append(type(exc).__name__)
        raise
    return Response(str(len(body)))


class Stream:
    """A stream of events without an end."""

    def __init__(self, state):
        self._state = state

    async def __call__(self, scope, receive, send):
        self._state.open += 1
        headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"retry: 1\n\n", "more_body": scope["method"] != "HEAD"})
        while (await receive())["type"] != "http.disconnect":
            pass
        self._state.open -= 1


def app() -> Starlette:
    made = Starlette(
        routes=[Route("/slow", slow), Route("/pieces", pieces), Route("/taken", taken, methods=["POST"])]
    )
    made.state.may_answer = asyncio.Event()
    made.state.asked = made.state.open = 0
    made.state.ends = []
    made.routes.append(Route("/events", Stream(made.state)))
    return made


def get(path, *headers):
    return b"\r\n".join([b"GET " + path + b" HTTP/1.1", b"Host: example.test", *headers, b"", b""])


def connections(running):
    return running.server_state.connections


async def answered(connection):
    return await connection.answer(timeout_s=PATIENCE_S)


async def closed(connection):
    return await connection.rest(timeout_s=PATIENCE_S)


# A client that sends no more.


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("is_at_once", [True, False])
async def test_whoever_sends_no_more_behind_its_requests_is_answered_and_then_left(count, is_at_once):
    service = app()
    async with raw.serving(service) as (base, running), raw.opened(base) as connection:
        await connection.send(get(b"/slow") * count)
        if not is_at_once:
            await live.until(lambda: service.state.asked)
        connection.end()
        if count == 1:
            # It is seen while the answer is waited for; of several, only once the last is begun.
            await live.until(lambda: any(each._is_half_closed for each in connections(running)))
        await live.until(lambda: service.state.asked)
        service.state.may_answer.set()
        answers = [await answered(connection) for _ in range(count)]
        assert [answer.content for answer in answers] == [b"yes"] * count
        assert count > 1 or answers[-1].headers["connection"] == "close"
        assert await closed(connection) == b""
        await live.until(lambda: not connections(running))


async def test_whoever_sends_no_more_in_the_middle_of_its_answer_gets_all_of_it():
    service = app()
    async with raw.serving(service) as (base, running), raw.opened(base) as connection:
        await connection.send(get(b"/pieces"))
        said = await connection.some(10_000)
        connection.end()
        await live.until(lambda: any(each._is_half_closed for each in connections(running)))
        service.state.may_answer.set()
        said += await closed(connection)
        assert said.endswith(b"4\r\none \r\n3\r\ntwo\r\n0\r\n\r\n")


@pytest.mark.parametrize(
    "half",
    [
        b"",
        b"GET /slow HT",
        b"POST /taken HTTP/1.1\r\nHost: example.test\r\nContent-Length: 10\r\n\r\nabc",
        b"POST /taken HTTP/1.1\r\nHost: example.test\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
    ],
)
async def test_half_a_request_ends_with_its_sender(half):
    service = app()
    async with raw.serving(service) as (base, running), raw.opened(base) as connection:
        await connection.send(half)
        await live.until(lambda: connections(running))
        connection.end()
        assert await closed(connection) == b""
        await live.until(lambda: not connections(running))
        await live.until(lambda: not running.server_state.tasks)
        assert service.state.ends == (["ClientDisconnect"] if half.startswith(b"POST") else [])


async def test_whoever_only_listens_gets_every_answer_of_the_service(tmp_path):
    async with rig.running(tmp_path) as service:
        job = await service.generate()
        key = service.client.headers["authorization"].encode()
        body = orjson.dumps({"status": "generating", "data": {"progress": 65}})
        path = f"/api/webhooks/image-completion/{service.token(job['job_id'])}".encode()
        login = orjson.dumps({"email": "ada@example.org", "password": "wrong" * 5})
        origin = b"Origin: " + service.base.encode()
        host = b"Host: " + service.base.removeprefix("http://").encode()

        def post(path, body, *headers):
            lines = [b"POST " + path + b" HTTP/1.1", host, b"Content-Type: application/json", *headers]
            return b"\r\n".join([*lines, b"Content-Length: %d" % len(body), b"", b""]) + body

        for request, status in (
            (get(b"/healthz"), 200),
            (get(b"/readyz"), 200),
            (get(b"/api/images", b"Authorization: " + key), 200),
            (post(path, body), 200),
            (post(b"/api/auth/login", login, origin), 401),
            (get(b"/static/page.css"), 404),
        ):
            async with raw.opened(service.base) as connection:
                await connection.send(request)
                connection.end()
                assert (await answered(connection)).status_code == status
                assert await closed(connection) == b""


# Readers of streams that leave.


async def follows(stack, base, behind=b""):
    connection = await stack.enter_async_context(raw.opened(base))
    await connection.send(get(b"/events") + behind)
    head = await connection.some(10_000)
    assert b"connection: close" in head
    return connection


@pytest.mark.parametrize("behind", [b"", b"\r\n", get(b"/slow"), get(b"/slow") * 5_000, b"garbage" * 20_000])
@pytest.mark.parametrize("is_half", [True, False])
async def test_a_reader_that_leaves_a_stream_is_seen_whatever_it_sent_behind_its_request(behind, is_half):
    service = app()
    async with raw.serving(service) as (base, running), contextlib.AsyncExitStack() as stack:
        reader = await follows(stack, base, behind)
        await live.until(lambda: service.state.open == 1)
        [connection] = connections(running)
        assert (connection._unread, running._table._unread.total) == (b"", 0)
        if is_half:
            reader.end()
        else:
            await stack.aclose()
        # No heartbeat is sent here: it is not a write that finds out.
        await live.until(lambda: service.state.open == 0)
        await live.until(lambda: not connections(running))
        assert service.state.asked == 0


async def test_a_reader_that_sends_no_more_from_the_first_has_no_stream():
    service = app()
    async with raw.serving(service) as (base, running), raw.opened(base) as connection:
        await connection.send(get(b"/events"))
        connection.end()
        await closed(connection)
        await live.until(lambda: not connections(running))
        assert service.state.open == 0


async def test_what_is_like_a_stream_and_is_none_keeps_its_connection():
    service = app()
    async with raw.serving(service) as (base, _), raw.opened(base) as connection:
        await connection.send(get(b"/events").replace(b"GET", b"HEAD"))
        head = await connection.went_on(timeout_s=PATIENCE_S)
        assert b"text/event-stream" in head
        assert b"connection: close" not in head


def kernel(running, level, option):
    [connection] = connections(running)
    return connection._transport.get_extra_info("socket").getsockopt(level, option)


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="only Linux has TCP_USER_TIMEOUT")
async def test_a_reader_may_pause_for_minutes_and_that_of_a_stream_for_half_of_one():
    service = app()
    async with raw.serving(service) as (base, running), contextlib.AsyncExitStack() as stack:
        connection = await stack.enter_async_context(raw.opened(base))
        await connection.send(get(b"/slow"))
        await live.until(lambda: service.state.asked)
        assert kernel(running, socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 300_000
        await stack.aclose()
        service.state.may_answer.set()
        await live.until(lambda: not connections(running))
        await follows(stack, base)
        assert kernel(running, socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 30_000
        assert kernel(running, socket.SOL_SOCKET, socket.SO_SNDBUF) == 2 * sockets.STREAM_SEND_BUFFER_BYTES


# A server that goes down.


async def test_answers_on_the_way_down_are_their_connections_last():
    service = app()
    async with raw.serving(service) as (base, running), contextlib.AsyncExitStack() as stack:
        idle, asking, half, silent, leaving = [await stack.enter_async_context(raw.opened(base)) for _ in range(5)]
        await idle.send(get(b"/nowhere"))
        assert "connection" not in (await answered(idle)).headers
        await asking.send(get(b"/slow"))
        await half.send(get(b"/slow")[:20])
        await leaving.send(get(b"/slow")[:20])
        await live.until(
            lambda: service.state.asked and sum(bool(each._unread) for each in connections(running)) == 2
        )
        running.stop()
        # Who has not asked is left at once; who has begun to is answered.
        assert await closed(idle) == await closed(silent) == b""
        await half.send(get(b"/slow")[20:])
        await live.until(lambda: service.state.asked == 2)
        service.state.may_answer.set()
        for connection in (asking, half):
            answer = await answered(connection)
            assert (answer.content, answer.headers["connection"]) == (b"yes", "close")
        # It says nothing more, and holds nobody up.
        assert (await answered(leaving)).status_code == 408


async def test_while_the_service_drains_answers_say_that_they_are_the_last():
    service = app()
    drained = asyncio.Event()

    class Running:
        async def drain(self):
            await drained.wait()

    service.state.running = Running()
    service.state.may_answer.set()
    async with raw.serving(service) as (base, running), raw.opened(base) as kept:
        await kept.send(get(b"/slow"))
        assert "connection" not in (await answered(kept)).headers
        running.stop()
        await kept.send(get(b"/slow"))
        assert (await answered(kept)).headers["connection"] == "close"
        assert await closed(kept) == b""
        async with raw.opened(base) as newcomer:
            await newcomer.send(get(b"/slow"))
            assert (await answered(newcomer)).headers["connection"] == "close"
        drained.set()


async def test_at_the_end_of_its_time_a_request_is_cut_unless_it_can_still_be_refused():
    service = app()
    async with raw.serving(service) as (base, running), contextlib.AsyncExitStack() as stack:
        begun, asking, half = [await stack.enter_async_context(raw.opened(base)) for _ in range(3)]
        await begun.send(get(b"/pieces"))
        await begun.some(10_000)
        await asking.send(get(b"/slow"))
        await half.send(get(b"/slow")[:20])
        await live.until(lambda: service.state.asked and any(each._unread for each in connections(running)))
        for each in list(connections(running)):
            each.abort_if_begun()
        await live.until(lambda: len(connections(running)) == 1)
        service.state.may_answer.set()
        assert (await answered(asking)).content == b"yes"


async def test_whoever_sends_on_behind_its_last_answer_is_heard_until_it_is_silent():
    async with raw.serving(app(), end_s=1.5) as (base, running), raw.opened(base) as connection:
        await connection.send(b"POST /nowhere HTTP/1.1\r\n" + HOST + b"Content-Length: 20000000\r\n\r\n")
        assert (await answered(connection)).status_code == 404
        # For longer than silence is borne: an upload over a slow line, whose answer a reset would take away.
        for _ in range(25):
            await connection.send(b"x" * 1_000)
            await asyncio.sleep(0.1)
            assert connections(running)
        assert await closed(connection) == b""
        await live.until(lambda: not connections(running))


# Whether a server is there.


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"OPTIONS / HTTP/1.0\r\n\r\n", 204),
        (b"OPTIONS * HTTP/1.0\r\n\r\n", 204),
        (b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n", 204),
        (b"OPTIONS / HTTP/1.1\r\n" + HOST + b"\r\n", 204),
        (b"OPTIONS / HTTP/1.1\r\n" + HOST + b"Origin: https://a.test\r\n\r\n", 404),
        (b"OPTIONS /slow HTTP/1.1\r\n" + HOST + b"\r\n", 405),
        (b"OPTIONS * HTTP/1.1\r\n\r\n", 400),
        (b"GET * HTTP/1.1\r\n" + HOST + b"\r\n", 404),
    ],
)
async def test_options_of_the_whole_server_tell_that_it_is_there(request_, status):
    async with raw.serving(app()) as (base, _), raw.opened(base) as connection:
        await connection.send(request_)
        connection.end()
        answer = await answered(connection)
        assert answer.status_code == status
        if status == 204:
            assert answer.headers["x-request-id"]
            assert b"OPTIONS" in answer.headers["allow"].encode()
        assert await closed(connection) == b""


async def test_many_requests_in_one_packet_keep_nobody_else_waiting():
    async def answer(_: Request) -> Response:
        return Response("ok")

    number = 200
    async with (
        raw.serving(Starlette(routes=[Route("/", answer)])) as (base, _),
        raw.opened(base) as many,
        raw.opened(base) as one,
    ):
        await many.send((b"GET / HTTP/1.1\r\n" + HOST + b"\r\n") * number)
        for _ in range(20):
            await one.begin("GET", "/", {})
            assert (await one.answer(timeout_s=PATIENCE_S)).status_code == 200
        # Each waits for the one before it, and a little longer than whoever asks for one at a time.
        before = (await many.some(2**20)).count(b"200 OK")
        assert before < number / 2
        seen = before
        while seen < number:
            seen += (await many.some(2**20, timeout_s=PATIENCE_S)).count(b"200 OK")
        assert seen == number


async def test_a_line_too_many_behind_a_request_keeps_no_connection_for_ever():
    async def answer(_: Request) -> Response:
        return Response("ok")

    async with (
        raw.serving(Starlette(routes=[Route("/", answer)]), keep_alive_s=0.2) as (base, _),
        raw.opened(base) as one,
        raw.opened(base) as other,
    ):
        for connection, end in ((one, b"\r\n"), (other, b"")):
            await connection.send(b"GET / HTTP/1.1\r\n" + HOST + b"\r\n" + end)
            assert (await connection.answer(timeout_s=PATIENCE_S)).status_code == 200
        # Idle, both of them, and closed for that.
        assert await one.rest(timeout_s=PATIENCE_S) == b""
        assert await other.rest(timeout_s=PATIENCE_S) == b""


@pytest.mark.parametrize("pieces_sent", [0, 1])
async def test_what_crashes_before_its_first_byte_is_answered_and_behind_it_is_cut(pieces_sent):
    async def crashes(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
        for _ in range(pieces_sent):
            await send({"type": "http.response.body", "body": b"ab", "more_body": True})
        raise RuntimeError("on purpose")

    made = Starlette(routes=[])
    made.routes.append(Mount("/", crashes))
    async with raw.serving(made) as (base, _), raw.opened(base) as connection:
        await connection.begin("GET", "/", {})
        came = await connection.rest(timeout_s=PATIENCE_S)
        if pieces_sent:
            assert came.startswith(b"HTTP/1.1 200")
            assert came.endswith(b"\r\n\r\nab")
        else:
            assert came.startswith(b"HTTP/1.1 500")
            assert b"connection: close" in came
