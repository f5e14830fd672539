"""Real servers on loopback, for tests."""

import asyncio
import collections
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import uvicorn

_STOP_TIMEOUT_S = 5
_POLL_S = 0.005

_PORTS = iter(range(100_000))
_MARKS: collections.deque[socket.socket] = collections.deque()
_MARK_APART = 20_000
"""Whoever listens at a port may take datagrams there too, as for HTTP/3."""
_MOST_MARKS = 100
"""Tests that began before so many others have long ended."""

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class _Server(uvicorn.Server):
    """Leaves the signals to pytest, and looks more often whether it should stop."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def main_loop(self) -> None:
        ticks = 0
        while not await self.on_tick(ticks):
            ticks += 1
            await asyncio.sleep(_POLL_S)


@contextlib.asynccontextmanager
async def serve(app: Any) -> AsyncIterator[str]:
    """
    Run *app*, lifespan included, on a free loopback port; yields its address without a final slash.

    It has stopped when the block is left; streams that are still open then are cut after 5 seconds.
    """
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", 0))
        server = _Server(
            uvicorn.Config(
                app,
                port=0,
                lifespan="on",
                ws="none",
                log_level="warning",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                timeout_graceful_shutdown=_STOP_TIMEOUT_S,
            )
        )
        running = asyncio.create_task(_run(server, listener))
        try:
            await until(lambda: server.started or running.done())
            if running.done():
                await running
                raise RuntimeError("the app stopped at once")
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            await running


@contextlib.asynccontextmanager
async def serve_raw(handler: Handler) -> AsyncIterator[str]:
    """Run a bare TCP server for answers that no framework would give; yields an ``http://`` address."""
    server = await asyncio.start_server(handler, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def until(condition: Callable[[], object], *, timeout_s: float = 30) -> None:
    """
    Wait until *condition* is true.

    Raises:
        TimeoutError: It did not become true in time.
    """
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - the condition is anybody's, nobody sets an event for it
            await asyncio.sleep(_POLL_S)


def closed_port() -> int:
    """
    Find a loopback port where nobody listens, and give it to nobody else.

    Below those that the system gives away by itself, and apart for each worker of a run: between this and the
    moment when somebody listens there, the system would give the same one again. A datagram socket whose number
    belongs to it tells another run on this machine that it is taken.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    for number in _PORTS:
        port = 20_000 + worker % 6 * 2_000 + (os.getpid() + number) % 2_000
        mark = socket.socket(type=socket.SOCK_DGRAM)
        try:
            mark.bind(("127.0.0.1", port + _MARK_APART))
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", port))
        except OSError:
            mark.close()
            continue
        _MARKS.append(mark)
        if len(_MARKS) > _MOST_MARKS:
            _MARKS.popleft().close()
        return port
    raise AssertionError("every port is taken")


async def _run(server: uvicorn.Server, listener: socket.socket) -> None:
    try:
        await server.serve(sockets=[listener])
    except SystemExit as exc:
        # Raised in a task it would end the whole test run.
        raise RuntimeError("the app did not start") from exc
