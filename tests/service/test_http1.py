"""HTTP/1 as strangers speak it: every request by hand, byte for byte, on a real socket."""

import asyncio
import contextlib
import hashlib

import pytest
import pytest_asyncio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from nanohook import http1, server
from tests import raw

pytestmark = pytest.mark.asyncio(loop_scope="module")

HOST = b"Host: example.test\r\n"
LIMITS = http1.Limits()
PATIENCE_S = 20


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
    async with server.serving(echo(), listener, limits=http1.Limits(**limits)):
        yield server.address(listener)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def base():
    async with serving() as address:
        yield address


async def answered(connection):
    return await connection.answer(timeout_s=PATIENCE_S)


async def closed(connection):
    """Wait until the service closes the connection; return what it said before."""
    return await connection.rest(timeout_s=PATIENCE_S)


async def sent(base, *packets, count=1):
    """Send *packets*, each by itself; return the answers, and what else came until the connection was closed."""
    async with raw.opened(base) as connection:
        for packet in packets:
            await connection.send(packet)
            await asyncio.sleep(0.01)
        found = [await answered(connection) for _ in range(count)]
        connection.end()
        return found, await closed(connection)


def post(body=b"", *headers, path=b"/told", length=True):
    lines = [b"POST " + path + b" HTTP/1.1", b"Host: example.test", *headers]
    if length:
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join([*lines, b"", b""]) + body


def same(answer, body):
    assert answer.status_code == 200, answer.text
    told = answer.json()
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
async def test_an_offer_to_upgrade_is_ignored_and_its_body_is_a_body(base, offer, is_apart):
    whole = post(SMUGGLED, *offer)
    head, body = whole[: -len(SMUGGLED)], whole[-len(SMUGGLED) :]
    packets = (head, body) if is_apart else (whole,)
    found, rest = await sent(base, *packets, GET, count=2)
    assert same(found[0], SMUGGLED)["method"] == "POST"
    assert same(found[1], b"")["method"] == "GET"
    assert rest == b""


async def test_an_offer_to_upgrade_with_chunks_is_ignored_too(base):
    head = post(b"", b"Connection: upgrade", b"Upgrade: h2c", b"Transfer-Encoding: chunked", length=False)
    found, rest = await sent(base, head, b"%x\r\n" % len(SMUGGLED) + SMUGGLED + b"\r\n0\r\n\r\n")
    same(found[0], SMUGGLED)
    assert rest == b""


# Requests that could be understood in two ways.


@pytest.mark.parametrize(
    ("request_", "status"),
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
async def test_what_could_be_understood_in_two_ways_is_refused_and_nothing_behind_it_is_read(
    base, request_, status
):
    found, rest = await sent(base, request_ + SMUGGLED)
    [answer] = found
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["connection"] == "close"
    assert answer.json()["status"] == status
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
async def test_chunks_that_could_be_understood_in_two_ways_end_the_connection(base, chunks):
    head = post(b"", b"Transfer-Encoding: chunked", length=False)
    found, rest = await sent(base, head + chunks + SMUGGLED)
    assert [answer.status_code for answer in found] == [400]
    assert rest == b""


async def test_chunks_and_their_extensions_are_read_wherever_packets_end(base):
    body = b"one\r\n\r\ntwo" * 50
    whole = b"".join(
        (
            post(b"", b"Transfer-Encoding: chunked", length=False),
            b'a;name=value;other="quoted"\r\n' + body[:10] + b"\r\n",
            b"%X\r\n" % len(body[10:]) + body[10:] + b"\r\n",
            b"0\r\n\r\n",
        )
    )
    for size in (1, 7, len(whole)):
        packets = [whole[at : at + size] for at in range(0, len(whole), size)]
        async with raw.opened(base) as connection:
            for packet in packets:
                await connection.send(packet)
                await asyncio.sleep(0)
            await connection.send(GET)
            first, second = await answered(connection), await answered(connection)
        same(first, body)
        same(second, b"")


async def test_chunks_that_hold_next_to_nothing_are_refused(base):
    head = post(b"", b"Transfer-Encoding: chunked", length=False)
    found, _ = await sent(base, head + b"1;" + b"x" * 100_000 + b"\r\na\r\n0\r\n\r\n")
    assert found[0].status_code == 400


@pytest.mark.parametrize(
    "trailer", [b"Authorization: Bearer stolen", b"X-Forwarded-For: 10.0.0.1", b"Host: other"]
)
async def test_trailers_are_no_headers(base, trailer):
    head = post(b"", b"Transfer-Encoding: chunked", b"Trailer: x", length=False)
    found, _ = await sent(base, head, b"3\r\nabc\r\n0\r\n" + trailer + b"\r\n\r\n" + GET, count=2)
    told = same(found[0], b"abc")
    name = trailer.split(b":")[0].decode().lower()
    assert [value for key, value in told["headers"] if key.lower() == name] == (
        ["example.test"] if name == "host" else []
    )
    same(found[1], b"")


# One connection, many requests.


async def test_requests_sent_at_once_are_answered_in_their_order(base):
    bodies = [b"x" * number for number in (0, 1, 300, 70_000)]
    found, rest = await sent(base, b"".join(map(post, bodies)) + b"\r\n" + GET, count=5)
    for answer, body in zip(found, [*bodies, b""], strict=True):
        same(answer, body)
    assert rest == b""


async def test_a_small_body_that_nobody_reads_costs_no_connection(base):
    head = post(b"abc", path=b"/unread")[:-3]
    async with raw.opened(base) as connection:
        await connection.send(head)
        answer = await answered(connection)
        assert (answer.status_code, answer.headers.get("connection")) == (401, None)
        await connection.send(b"abc" + GET)
        same(await answered(connection), b"")


async def test_a_large_body_that_nobody_reads_is_answered_and_then_not_awaited(base):
    async with raw.opened(base) as connection:
        await connection.send(
            b"POST /unread HTTP/1.1\r\n" + HOST + b"Content-Length: 20000000\r\n\r\n" + b"x" * 100_000
        )
        answer = await answered(connection)
        assert (answer.status_code, answer.headers["connection"], answer.content) == (401, "close", b"no")
        # What it sends further is thrown away for a while: a reset would take the answer with it.
        await connection.send(b"x" * 300_000 + SMUGGLED)
        assert await closed(connection) == b""


async def test_whoever_waits_to_be_told_to_go_on_is_told(base):
    async with raw.opened(base) as connection:
        await connection.send(post(b"abc", b"Expect: 100-continue")[:-3])
        assert await connection.went_on(timeout_s=PATIENCE_S) == b"HTTP/1.1 100 Continue\r\n\r\n"
        await connection.send(b"abc")
        same(await answered(connection), b"abc")
        await connection.send(post(b"abc", b"Expect: 100-continue", path=b"/unread")[:-3])
        answer = await answered(connection)
        assert (answer.status_code, answer.headers["connection"]) == (401, "close")


# HTTP/1.0.


async def test_a_client_of_http_1_0_gets_no_chunks(base):
    found, rest = await sent(base, b"GET /streamed HTTP/1.0\r\n\r\n")
    [answer] = found
    assert (answer.status_code, answer.content, rest) == (200, b"part 0\npart 1\npart 2\n", b"")
    assert "transfer-encoding" not in answer.headers
    assert answer.headers["connection"] == "close"
    found, _ = await sent(base, b"GET /streamed HTTP/1.1\r\n" + HOST + b"\r\n")
    assert found[0].headers["transfer-encoding"] == "chunked"
    assert found[0].content == answer.content


async def test_a_line_end_in_a_header_of_an_answer_never_leaves(base):
    found, _ = await sent(base, b"GET /split HTTP/1.1\r\n" + HOST + b"\r\n")
    [answer] = found
    assert answer.status_code == 500
    assert "set-cookie" not in answer.headers


# Bounds.


async def test_a_head_has_a_bound(base):
    def padded(size):
        head = b"GET /told HTTP/1.1\r\n" + HOST + b"X: "
        return head + b"x" * (size - len(head) - 4) + b"\r\n\r\n"

    found, _ = await sent(base, padded(LIMITS.head_bytes))
    assert found[0].status_code == 200
    for request_ in (padded(LIMITS.head_bytes + 1), padded(LIMITS.head_bytes + 200_000)[:-4]):
        found, _ = await sent(base, request_)
        assert found[0].status_code == 431
        assert found[0].json()["code"] == "head_too_large"


async def test_a_request_has_at_most_a_hundred_headers(base):
    def many(count):
        return b"GET /told HTTP/1.1\r\n" + HOST + b"X: y\r\n" * (count - 1) + b"\r\n"

    assert (await sent(base, many(LIMITS.headers)))[0][0].status_code == 200
    assert (await sent(base, many(LIMITS.headers + 1)))[0][0].status_code == 431


async def test_a_head_that_never_ends_is_given_up():
    async with serving(head_s=0.5) as impatient, raw.opened(impatient) as connection:
        await connection.send(b"GET /told HTTP/1.1\r\n")
        answer = await answered(connection)
        assert (answer.status_code, answer.json()["code"]) == (408, "too_slow")


async def test_silence_is_given_up_at_the_beginning_and_after_an_answer():
    async with serving(first_byte_s=0.5, keep_alive_s=0.5) as impatient:
        async with raw.opened(impatient) as connection:
            assert await closed(connection) == b""
        async with raw.opened(impatient) as connection:
            await connection.send(GET)
            same(await answered(connection), b"")
            assert await closed(connection) == b""


async def test_an_idle_connection_outlives_the_pools_of_proxies():
    assert LIMITS.keep_alive_s >= 95
    async with serving(first_byte_s=0.5, head_s=0.5) as address, raw.opened(address) as connection:
        await connection.send(GET)
        same(await answered(connection), b"")
        await asyncio.sleep(2.5)  # longer than silence is borne elsewhere, and than two looks take
        await connection.send(GET)
        same(await answered(connection), b"")


async def test_who_has_been_silent_for_longest_makes_room():
    async with serving(connections=10) as address, contextlib.AsyncExitStack() as stack:
        kept = await stack.enter_async_context(raw.opened(address))
        await kept.send(GET)
        same(await answered(kept), b"")
        silent = [await stack.enter_async_context(raw.opened(address)) for _ in range(30)]
        connection = await stack.enter_async_context(raw.opened(address))
        await connection.send(GET)
        same(await answered(connection), b"")
        assert await closed(silent[0]) == b""
        # Whoever was answered before is closed last.
        await kept.send(GET)
        same(await answered(kept), b"")
