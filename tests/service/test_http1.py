"""HTTP/1 as strangers speak it: every request by hand, byte for byte, on a real socket."""

import asyncio
import contextlib
import hashlib

import orjson
import pytest
import pytest_asyncio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from nanohook import http1, server
from tests import live

pytestmark = pytest.mark.asyncio(loop_scope="module")

HOST = b"Host: example.test\r\n"
LIMITS = http1.Limits()


async def told(request: Request) -> Response:
    """Tell what came."""
    body = await request.body()
    headers = [[name.decode("latin-1"), value.decode("latin-1")] for name, value in request.headers.raw]
    return JSONResponse(
        {
            "method": request.method,
            "path": request.url.path,
            "headers": headers,
            "bytes": len(body),
            "sha256": hashlib.sha256(body).hexdigest(),
        }
    )


async def unread(_request: Request) -> Response:
    """Answer without a look at the body."""
    return Response("no", 401)


async def streamed(_request: Request) -> Response:
    async def parts():
        for number in range(3):
            yield f"part {number}\n"

    return StreamingResponse(parts(), media_type="text/plain")


async def split(_request: Request) -> Response:
    answer = Response("x")
    answer.raw_headers.append((b"x-said", b"a\r\nSet-Cookie: b=c"))
    return answer


def echo() -> Starlette:
    routes = [
        Route("/told", told, methods=["GET", "POST"]),
        Route("/unread", unread, methods=["GET", "POST"]),
        Route("/streamed", streamed),
        Route("/split", split),
    ]
    return Starlette(routes=routes)


@contextlib.asynccontextmanager
async def serving(**limits: float):
    listener = server.listen("127.0.0.1", 0)
    app, port = echo(), listener.getsockname()[1]
    running = server.Server(app, handle_signals=False, limits=http1.Limits(**limits))
    task = asyncio.create_task(running.serve(sockets=[listener]))
    await live.until(lambda: running.started)
    try:
        yield port
    finally:
        running.stop()
        await task


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def port():
    async with serving() as number:
        yield number


@contextlib.asynccontextmanager
async def connected(number):
    reader, writer = await asyncio.open_connection("127.0.0.1", number)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def answers(reader, count):
    """Read *count* answers; each is a status, its headers and its body."""
    found = []
    async with asyncio.timeout(20):
        for _ in range(count):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            first, *lines = head.strip().split("\r\n")
            headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
            if headers.get("transfer-encoding") == "chunked":
                body = b""
                while size := int(await reader.readline(), 16):
                    body += await reader.readexactly(size)
                    await reader.readexactly(2)
                await reader.readexactly(2)
            elif "content-length" in headers:
                body = await reader.readexactly(int(headers["content-length"]))
            else:
                body = await reader.read()
            found.append((int(first.split()[1]), headers, body))
    return found


async def sent(number, *packets, count=1):
    """Send *packets*, each by itself; return the answers, and what else came until the connection was closed."""
    async with connected(number) as (reader, writer):
        for packet in packets:
            writer.write(packet)
            await writer.drain()
            await asyncio.sleep(0.01)
        found = await answers(reader, count)
        writer.write_eof()
        async with asyncio.timeout(20):
            return found, await reader.read()


def post(body=b"", *headers, path=b"/told", length=True):
    lines = [b"POST " + path + b" HTTP/1.1", b"Host: example.test", *headers]
    if length:
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join([*lines, b"", b""]) + body


def same(answer, body):
    status, _, said = answer
    assert status == 200, said
    told = orjson.loads(said)
    assert (told["bytes"], told["sha256"]) == (len(body), hashlib.sha256(body).hexdigest())
    return told


GET = b"GET /told HTTP/1.1\r\n" + HOST + b"\r\n"
SMUGGLED = b"GET /unread HTTP/1.1\r\n" + HOST + b"\r\n"


# An offer to upgrade.


@pytest.mark.parametrize(
    "offer",
    [
        (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAARAAAAA"),
        (b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="),
        (b"UPGRADE: TLS/1.0", b"CONNECTION: keep-alive, uPgRaDe"),
    ],
)
@pytest.mark.parametrize("is_apart", [False, True])
async def test_an_offer_to_upgrade_is_ignored_and_its_body_is_a_body(port, offer, is_apart):
    whole = post(SMUGGLED, *offer)
    head, body = whole[: -len(SMUGGLED)], whole[-len(SMUGGLED) :]
    packets = (head, body) if is_apart else (whole,)
    found, rest = await sent(port, *packets, GET, count=2)
    assert same(found[0], SMUGGLED)["method"] == "POST"
    assert same(found[1], b"")["method"] == "GET"
    assert rest == b""


async def test_an_offer_to_upgrade_with_chunks_is_ignored_too(port):
    head = post(b"", b"Connection: upgrade", b"Upgrade: h2c", b"Transfer-Encoding: chunked", length=False)
    found, rest = await sent(port, head, b"%x\r\n" % len(SMUGGLED) + SMUGGLED + b"\r\n0\r\n\r\n")
    same(found[0], SMUGGLED)
    assert rest == b""


# Requests that could be understood in two ways.


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (post(b"abc", b"Content-Length: 3"), 400),
        (post(b"abc", b"Content-Length: 4"), 400),
        (post(b"0\r\n\r\n", b"Transfer-Encoding: chunked"), 400),
        (post(b"", b"Transfer-Encoding: chunked, identity", length=False) + b"0\r\n\r\n", 400),
        (post(b"", b"Transfer-Encoding: gzip, chunked", length=False) + b"0\r\n\r\n", 501),
        (post(b"", b"Transfer-Encoding: xchunked", length=False) + b"0\r\n\r\n", 400),
        (post(b"", b"Transfer-Encoding : chunked", length=False) + b"0\r\n\r\n", 400),
        (b"POST /told HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 501),
        (post(b"abc", b"Content-Length: +3", length=False), 400),
        (post(b"abc", b"Content-Length: 3, 3", length=False), 400),
        (post(b"abc", b"Content-Length: 99999999999999999999999", length=False), 400),
        (post(b"", b"X-Folded: a", b" b"), 400),
        (b"GET /told HTTP/1.1\n" + HOST + b"\r\n", 400),
        (b"GET /told HTTP/1.1\nHost: example.test\n\n", 400),
        (b"GET /told HTTP/1.1\r\nHost: example.test\nX: y\r\n\r\n", 400),
        (b"GET /told HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400),
        (b"GET /told HTTP/1.1\r\nHost: a\r\nHOST: b\r\n\r\n", 400),
        (b"GET /told HTTP/1.1\r\n\r\n", 400),
        (b"GET http://other.test/told HTTP/1.1\r\n" + HOST + b"\r\n", 400),
        (b"GET /told HTTP/1.1\r\n" + HOST + b"X: a\0b\r\n\r\n", 400),
        (b"GET /told HTTP/2.0\r\n" + HOST + b"\r\n", 505),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        (b"CONNECT example.test:443 HTTP/1.1\r\n" + HOST + b"\r\n", 405),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    ],
)
async def test_what_could_be_understood_in_two_ways_is_refused_and_nothing_behind_it_is_read(port, raw, status):
    found, rest = await sent(port, raw + SMUGGLED)
    [(code, headers, body)] = found
    assert code == status, body
    assert headers["content-type"] == "application/problem+json"
    assert headers["connection"] == "close"
    assert orjson.loads(body)["status"] == status
    assert rest == b""


@pytest.mark.parametrize(
    "chunks",
    [
        b"3\nabc\r\n0\r\n\r\n",
        b"3\r\nabcX\r\n0\r\n\r\n",
        b"0x3\r\nabc\r\n0\r\n\r\n",
        b"-3\r\nabc\r\n0\r\n\r\n",
        b"3;a\nb\r\nabc\r\n0\r\n\r\n",
        b"ffffffffffffffffffff\r\nabc",
    ],
)
async def test_chunks_that_could_be_understood_in_two_ways_end_the_connection(port, chunks):
    head = post(b"", b"Transfer-Encoding: chunked", length=False)
    found, rest = await sent(port, head + chunks + SMUGGLED)
    assert [status for status, _, _ in found] == [400]
    assert rest == b""


async def test_chunks_and_their_extensions_are_read_wherever_packets_end(port):
    body = b"one\r\n\r\ntwo" * 50
    raw = b"".join(
        (
            post(b"", b"Transfer-Encoding: chunked", length=False),
            b'a;name=value;other="quoted"\r\n' + body[:10] + b"\r\n",
            b"%X\r\n" % len(body[10:]) + body[10:] + b"\r\n",
            b"0\r\n\r\n",
        )
    )
    for size in (1, 7, len(raw)):
        packets = [raw[at : at + size] for at in range(0, len(raw), size)]
        async with connected(port) as (reader, writer):
            for packet in packets:
                writer.write(packet)
                await asyncio.sleep(0)
            writer.write(GET)
            first, second = await answers(reader, 2)
        same(first, body)
        same(second, b"")


async def test_chunks_that_hold_next_to_nothing_are_refused(port):
    head = post(b"", b"Transfer-Encoding: chunked", length=False)
    found, _ = await sent(port, head + b"1;" + b"x" * 100_000 + b"\r\na\r\n0\r\n\r\n")
    assert found[0][0] == 400


@pytest.mark.parametrize(
    "trailer", [b"Authorization: Bearer stolen", b"X-Forwarded-For: 10.0.0.1", b"Host: other"]
)
async def test_trailers_are_no_headers(port, trailer):
    head = post(b"", b"Transfer-Encoding: chunked", b"Trailer: x", length=False)
    found, _ = await sent(port, head, b"3\r\nabc\r\n0\r\n" + trailer + b"\r\n\r\n" + GET, count=2)
    told = same(found[0], b"abc")
    name = trailer.split(b":")[0].decode().lower()
    assert [value for key, value in told["headers"] if key.lower() == name] == (
        ["example.test"] if name == "host" else []
    )
    same(found[1], b"")


# One connection, many requests.


async def test_requests_sent_at_once_are_answered_in_their_order(port):
    bodies = [b"x" * number for number in (0, 1, 300, 70_000)]
    found, rest = await sent(port, b"".join(map(post, bodies)) + b"\r\n" + GET, count=5)
    for answer, body in zip(found, [*bodies, b""], strict=True):
        same(answer, body)
    assert rest == b""


async def test_a_small_body_that_nobody_reads_costs_no_connection(port):
    head = post(b"abc", path=b"/unread")[:-3]
    async with connected(port) as (reader, writer):
        writer.write(head)
        [(status, headers, _)] = await answers(reader, 1)
        assert (status, headers.get("connection")) == (401, None)
        writer.write(b"abc" + GET)
        same((await answers(reader, 1))[0], b"")


async def test_a_large_body_that_nobody_reads_is_answered_and_then_not_awaited(port):
    async with connected(port) as (reader, writer):
        writer.write(b"POST /unread HTTP/1.1\r\n" + HOST + b"Content-Length: 20000000\r\n\r\n" + b"x" * 100_000)
        [(status, headers, body)] = await answers(reader, 1)
        assert (status, headers["connection"], body) == (401, "close", b"no")
        # What it sends further is thrown away for a while: a reset would take the answer with it.
        writer.write(b"x" * 300_000 + SMUGGLED)
        async with asyncio.timeout(20):
            assert await reader.read() == b""


async def test_whoever_waits_to_be_told_to_go_on_is_told(port):
    async with connected(port) as (reader, writer):
        writer.write(post(b"abc", b"Expect: 100-continue")[:-3])
        async with asyncio.timeout(20):
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"abc")
        same((await answers(reader, 1))[0], b"abc")
        writer.write(post(b"abc", b"Expect: 100-continue", path=b"/unread")[:-3])
        [(status, headers, _)] = await answers(reader, 1)
        assert (status, headers["connection"]) == (401, "close")


# HTTP/1.0.


async def test_a_client_of_http_1_0_gets_no_chunks(port):
    found, rest = await sent(port, b"GET /streamed HTTP/1.0\r\n\r\n")
    [(status, headers, body)] = found
    assert (status, body, rest) == (200, b"part 0\npart 1\npart 2\n", b"")
    assert "transfer-encoding" not in headers
    assert headers["connection"] == "close"
    found, _ = await sent(port, b"GET /streamed HTTP/1.1\r\n" + HOST + b"\r\n")
    assert found[0][1]["transfer-encoding"] == "chunked"
    assert found[0][2] == body


async def test_a_line_end_in_a_header_of_an_answer_never_leaves(port):
    found, _ = await sent(port, b"GET /split HTTP/1.1\r\n" + HOST + b"\r\n")
    [(status, headers, _)] = found
    assert status == 500
    assert "set-cookie" not in headers


# Bounds.


async def test_a_head_has_a_bound(port):
    def padded(size):
        head = b"GET /told HTTP/1.1\r\n" + HOST + b"X: "
        return head + b"x" * (size - len(head) - 4) + b"\r\n\r\n"

    found, _ = await sent(port, padded(LIMITS.head_bytes))
    assert found[0][0] == 200
    for raw in (padded(LIMITS.head_bytes + 1), padded(LIMITS.head_bytes + 200_000)[:-4]):
        found, _ = await sent(port, raw)
        assert found[0][0] == 431
        assert orjson.loads(found[0][2])["code"] == "head_too_large"


async def test_a_request_has_at_most_a_hundred_headers(port):
    def many(count):
        return b"GET /told HTTP/1.1\r\n" + HOST + b"X: y\r\n" * (count - 1) + b"\r\n"

    assert (await sent(port, many(LIMITS.headers)))[0][0][0] == 200
    assert (await sent(port, many(LIMITS.headers + 1)))[0][0][0] == 431


async def test_a_head_that_never_ends_is_given_up():
    async with serving(head_s=0.5) as impatient, connected(impatient) as (reader, writer):
        writer.write(b"GET /told HTTP/1.1\r\n")
        [(status, _, body)] = await answers(reader, 1)
        assert (status, orjson.loads(body)["code"]) == (408, "too_slow")


async def test_silence_is_given_up_at_the_beginning_and_after_an_answer():
    async with serving(first_byte_s=0.5, keep_alive_s=0.5) as impatient:
        async with connected(impatient) as (reader, _), asyncio.timeout(20):
            assert await reader.read() == b""
        async with connected(impatient) as (reader, writer):
            writer.write(GET)
            same((await answers(reader, 1))[0], b"")
            async with asyncio.timeout(20):
                assert await reader.read() == b""


async def test_an_idle_connection_outlives_the_pools_of_proxies():
    assert LIMITS.keep_alive_s >= 95
    async with serving(first_byte_s=0.5, head_s=0.5) as number, connected(number) as (reader, writer):
        writer.write(GET)
        same((await answers(reader, 1))[0], b"")
        await asyncio.sleep(2.5)  # longer than silence is borne elsewhere, and than two looks take
        writer.write(GET)
        same((await answers(reader, 1))[0], b"")


async def test_who_has_been_silent_for_longest_makes_room():
    async with serving(connections=10) as number, contextlib.AsyncExitStack() as stack:
        kept_reader, kept_writer = await stack.enter_async_context(connected(number))
        kept_writer.write(GET)
        same((await answers(kept_reader, 1))[0], b"")
        silent = [await stack.enter_async_context(connected(number)) for _ in range(30)]
        reader, writer = await stack.enter_async_context(connected(number))
        writer.write(GET)
        same((await answers(reader, 1))[0], b"")
        async with asyncio.timeout(20):
            assert await silent[0][0].read() == b""
        # Whoever was answered before is closed last.
        kept_writer.write(GET)
        same((await answers(kept_reader, 1))[0], b"")
