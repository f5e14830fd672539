"""
The load: raw protocols on uvloop in one process, with requests made beforehand.

It must cost less than what it measures, so an answer is looked at only as far as is needed to know that it is
complete and good.
"""

import asyncio
import collections
import itertools
import resource
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import orjson
import uvloop

from tests.bench.processes import Address

T = TypeVar("T")

_HEAD_END = b"\r\n\r\n"
_LENGTH = b"content-length: "
_CUT = b"HTTP/1.1 cut"
_ANSWER_S = 120.0
_OPENING_AT_ONCE = 100
_PORTS_A_SOURCE = 5_000

_CHROME = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) "
    "Chrome/142.0.0.0 Safari/537.36"
)

_sources = itertools.cycle(f"127.0.0.{number}" for number in range(2, 252))


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run *work* in a loop of its own."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


def post(address: Address, path: str, body: bytes) -> bytes:
    """Write a callback as an HTTP client of the vendor's would."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {address.netloc}\r\nUser-Agent: okhttp/4.12.0\r\n"
        f"Accept: application/json, */*\r\nAccept-Encoding: gzip\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


@dataclass(slots=True)
class Result:
    """What came of a load."""

    sent: list[float] = field(default_factory=list)
    """When each request was sent, s; in the order of the answers."""
    took: list[float] = field(default_factory=list)
    """How long each answer took, s."""
    statuses: Counter[bytes] = field(default_factory=Counter)

    def after(self, skipped: int) -> tuple[float, list[float]]:
        """Answers per second and their times, without the first *skipped*."""
        took = self.took[skipped:]
        ends = [sent + one for sent, one in zip(self.sent[skipped:], took, strict=True)]
        return (len(ends) - 1) / (max(ends) - min(ends)), took

    @property
    def bad(self) -> dict[str, int]:
        """Answers other than 200, by status."""
        return {status.decode(): count for status, count in self.statuses.items() if status != b"200"}


class Caller(asyncio.Protocol):
    """One keep-alive connection, one request at a time."""

    def __init__(self, answered: "Callable[[Caller, bytes], None]") -> None:
        self._answered = answered
        self._seen = b""
        self._needed = 0
        self.sent = 0.0
        self.tag: object = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def send(self, request: bytes) -> None:
        """Send a request; ``answered`` is called with the whole answer."""
        self.sent = time.perf_counter()
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        seen = self._seen = self._seen + data if self._seen else data
        if not self._needed:
            end = seen.find(_HEAD_END)
            if end < 0:
                return
            at = seen.find(_LENGTH, 0, end) + len(_LENGTH)
            self._needed = end + 4 + int(seen[at : seen.index(b"\r\n", at)])
        if len(seen) >= self._needed:
            self._needed = 0
            self._seen = b""
            self._answered(self, seen)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.sent:
            self._answered(self, _CUT)


async def call_all(address: Address, requests: Iterable[bytes], *, connections: int) -> Result:
    """Send *requests* over some connections, each as soon as the one before it is answered."""
    result, waiting, ended = Result(), iter(requests), asyncio.Event()
    open_calls = 0

    def answered(caller: Caller, answer: bytes) -> None:
        nonlocal open_calls
        result.took.append(time.perf_counter() - caller.sent)
        result.sent.append(caller.sent)
        result.statuses[answer[9:12]] += 1
        caller.sent = 0.0
        request = None if answer is _CUT else next(waiting, None)
        if request is None:
            open_calls -= 1
            if not open_calls:
                ended.set()
        else:
            caller.send(request)

    callers = await _callers(address, connections, answered)
    for caller, request in zip(callers, waiting, strict=False):
        open_calls += 1
        caller.send(request)
    async with asyncio.timeout(_ANSWER_S):
        await ended.wait()
    for caller in callers:
        caller.transport.abort()
    return result


async def call_paced(
    address: Address, requests: Sequence[bytes], *, per_second: float, connections: int = 8
) -> tuple[list[float], Result]:
    """Send *requests* at even intervals; also returns when each was sent."""
    result, ended = Result(), asyncio.Event()
    idle: collections.deque[Caller] = collections.deque()

    def answered(caller: Caller, answer: bytes) -> None:
        result.took.append(time.perf_counter() - caller.sent)
        result.sent.append(caller.sent)
        result.statuses[answer[9:12]] += 1
        caller.sent = 0.0
        if answer is not _CUT:
            idle.append(caller)
        if len(result.took) == len(requests):
            ended.set()

    idle += await _callers(address, connections, answered)
    sent: list[float] = []
    began = time.perf_counter()
    for number, request in enumerate(requests):
        await asyncio.sleep(began + number / per_second - time.perf_counter())
        while idle and idle[0].transport.is_closing():
            idle.popleft()
        if not idle:  # every connection waits for an answer: one more, as a pool would
            idle += await _callers(address, 1, answered)
        sent.append(time.perf_counter())
        idle.popleft().send(request)  # the longest idle: none is left to be closed for silence
    async with asyncio.timeout(_ANSWER_S):
        await ended.wait()
    for caller in idle:
        caller.transport.abort()
    return sent, result


async def call_in_turn(calls: Sequence[tuple[Address, bytes]], *, rounds: int) -> list[Result]:
    """Send each of *calls* once a round, one after the other, over a connection of its own; a result for each."""
    results = [Result() for _ in calls]
    answers: asyncio.Queue[bytes] = asyncio.Queue()
    callers = []
    for address, _ in calls:
        callers += await _callers(address, 1, lambda _, answer: answers.put_nowait(answer))
    for _ in range(rounds):
        for caller, (_, request), result in zip(callers, calls, results, strict=True):
            caller.send(request)
            async with asyncio.timeout(_ANSWER_S):
                answer = await answers.get()
            result.took.append(time.perf_counter() - caller.sent)
            result.statuses[answer[9:12]] += 1
    for caller in callers:
        caller.sent = 0.0
        caller.transport.abort()
    return results


async def ask(address: Address, request: bytes) -> Any:
    """Send one request and return the JSON of its answer."""
    told: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def answered(caller: Caller, answer: bytes) -> None:
        caller.sent = 0.0
        if not told.done():
            told.set_result(answer)

    (caller,) = await _callers(address, 1, answered)
    caller.send(request)
    async with asyncio.timeout(_ANSWER_S):
        answer = await told
    caller.transport.abort()
    if answer[9:12] != b"200":
        raise RuntimeError(f"the server answered {answer[:400]!r}")
    return orjson.loads(answer.split(_HEAD_END, 1)[1])


async def figures(address: Address) -> dict[str, int]:
    """Ask a server for its memory and tasks."""
    request = f"GET /bench/figures HTTP/1.1\r\nHost: {address.netloc}\r\n\r\n"
    found: dict[str, int] = await ask(address, request.encode())
    return found


class Reader(asyncio.Protocol):
    """
    One open stream.

    Args:
        mark: Bytes that every event has once; how often they came is ``seen``.
        came: Called with this reader after data came.
    """

    __slots__ = ("_came", "_mark", "_tail", "is_closed", "is_done", "pieces", "seen", "transport")

    def __init__(self, mark: bytes, came: "Callable[[Reader, bytes], None] | None" = None) -> None:
        self._mark = mark
        self._came = came
        self._tail = b""
        self.seen = 0
        self.pieces: list[bytes] = []
        self.is_closed = False
        self.is_done = False

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.pieces.append(data)
        joined = self._tail + data
        self.seen += joined.count(self._mark)
        self._tail = joined[1 - len(self._mark) :]
        if self._came is not None:
            self._came(self, data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_closed = True
        if self._came is not None:
            self._came(self, b"")

    def text(self) -> bytes:
        """Everything that came, without HTTP's framing, its lines ended one way."""
        return _unchunked(b"".join(self.pieces)).replace(b"\r\n", b"\n")


async def open_streams(
    address: Address,
    requests: Sequence[bytes],
    *,
    mark: bytes,
    came: Callable[[Reader, bytes], None] | None = None,
) -> list[Reader]:
    """Open a stream for each of *requests*; all have begun when this returns."""
    loop = asyncio.get_running_loop()
    readers: list[Reader] = []
    gate = asyncio.Semaphore(_OPENING_AT_ONCE)

    async def opened(request: bytes, source: str) -> None:
        async with gate:
            _, reader = await loop.create_connection(
                lambda: Reader(mark, came), address.host, address.port, local_addr=(source, 0)
            )
            readers.append(reader)
            reader.transport.write(request)
            deadline = loop.time() + _ANSWER_S
            while b"retry: " not in b"".join(reader.pieces) and b"data: " not in b"".join(reader.pieces):
                if reader.is_closed or loop.time() > deadline:
                    raise RuntimeError(f"a stream did not begin: {b''.join(reader.pieces)[:300]!r}")
                await asyncio.sleep(0.002)

    async with asyncio.TaskGroup() as group:
        source = next(_sources)
        for number, request in enumerate(requests, start=1):
            if number % _PORTS_A_SOURCE == 0:
                source = next(_sources)
            group.create_task(opened(request, source))
    return readers


def close_streams(readers: Iterable[Reader]) -> None:
    """Cut every stream."""
    for reader in readers:
        reader.transport.abort()


def browser_get(address: Address, path: str, api_key: str) -> bytes:
    """Write an ``EventSource`` request with what a browser sends along: some 900 bytes."""
    lines = [
        f"GET {path} HTTP/1.1",
        f"Host: {address.netloc}",
        "Connection: keep-alive",
        f"Authorization: Bearer {api_key}",
        'sec-ch-ua: "Chromium";v="142", "Google Chrome";v="142", "Not_A Brand";v="99"',
        "sec-ch-ua-mobile: ?0",
        'sec-ch-ua-platform: "Windows"',
        f"User-Agent: {_CHROME}",
        "Accept: text/event-stream",
        "Cache-Control: no-cache",
        "DNT: 1",
        "Sec-Fetch-Site: same-origin",
        "Sec-Fetch-Mode: cors",
        "Sec-Fetch-Dest: empty",
        f"Referer: http://{address.netloc}/generate-images",
        "Accept-Encoding: gzip, deflate, br, zstd",
        "Accept-Language: en-GB,en;q=0.9,fr-FR;q=0.8,fr;q=0.7",
        "Cookie: theme=dark; locale=en; _ga=GA1.1.1234567890.1234567890; session_hint=" + "x" * 120,
        "Priority: u=1, i",
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def blocks(text: bytes) -> Iterator[dict[str, str]]:
    """Split a stream's text into its blocks of fields."""
    for block in text.decode().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n") if ": " in line)
        if fields:
            yield fields


async def _callers(address: Address, count: int, answered: Callable[[Caller, bytes], None]) -> list[Caller]:
    loop = asyncio.get_running_loop()
    pairs = [
        await loop.create_connection(lambda: Caller(answered), address.host, address.port) for _ in range(count)
    ]
    return [caller for _, caller in pairs]


def _unchunked(answer: bytes) -> bytes:
    at = answer.find(_HEAD_END) + len(_HEAD_END)
    parts = []
    while at < len(answer):
        end = answer.find(b"\r\n", at)
        size = int(answer[at:end], 16) if end >= 0 else 0
        if not size:
            break
        parts.append(answer[end + 2 : end + 2 + size])
        at = end + 2 + size + 2
    return b"".join(parts)
