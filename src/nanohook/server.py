"""
The server around the service: uvicorn with our sockets and our way out.

uvicorn runs the lifespan's end only after every connection is gone, and an open stream is never gone by
itself. So the drain starts in the signal handler. From there all of it takes ``EXIT_S`` at most:

    0.0 s  not ready; streams are told when to come back; no more claims; requests are still taken
    6.0 s  a submit that is under way is cut; the sockets close, as soon as no submit is left
    6.5 s  a request that is under way is cut: answered 503 if its answer has not begun
    7.5 s  the process ends, whatever hangs by then in a thread: what was answered is on the disk
"""

import asyncio
import contextlib
import functools
import gc
import logging
import os
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from types import FrameType
from typing import Final, NoReturn, cast

import uvicorn
from starlette.applications import Starlette

from nanohook import errors, http1
from nanohook.http1 import sockets

logger = logging.getLogger(__name__)

EXIT_S: Final = 7.5
"""From the signal to the end of the process, whatever hangs: half a second is left of the 8 that are promised."""
GRACE_S: Final = 6.5
"""From the signal on, how long requests under way are given."""
_HURRY_S: Final = 0.2
"""In place of that, where the process cannot go on: nothing can be stored, and most are refused at once."""
_CUT_S: Final = 0.5
"""How long a request that was cut is given to say so."""
_POLL_S: Final = 0.01
SWITCH_INTERVAL_S: Final = 0.0001
"""
How long a thread keeps the interpreter from another that waits for it, the event loop among them.

Each lets go of it at every call of the system and of SQLite, ten times a request, once a row: with Python's 5 ms
a request beside a search took 50 ms. Two threads that count all the time hand it over thousands of times a second.
"""
GC_THRESHOLDS: Final = (50_000, 20, 100)
_BACKLOG: Final = 2048
_OWN_FILES: Final = 600
"""Descriptors for ourselves: 256 results being fetched have a socket and a file each, and the database its own."""


class Server(uvicorn.Server):
    """
    uvicorn, with the service's drain before its own shutdown.

    Args:
        handle_signals: This server owns the process.
        greeting: Printed once it serves.
        limits: How much of a stranger is borne.
    """

    def __init__(
        self,
        app: Starlette,
        *,
        handle_signals: bool = True,
        greeting: str | None = None,
        limits: http1.Limits | None = None,
    ) -> None:
        table = self._table = http1.Table(limits or http1.Limits())
        super().__init__(
            uvicorn.Config(
                app,
                http=cast("type[asyncio.Protocol]", functools.partial(http1.Connection, table=table)),
                ws="none",
                access_log=False,
                log_config=None,
                server_header=False,
                proxy_headers=False,
            )
        )
        self._app = app
        self._handle_signals = handle_signals
        self._greeting = greeting
        self._draining: asyncio.Task[None] | None = None
        self._serving: asyncio.AbstractEventLoop | None = None
        self._told_at: float | None = None
        """When it was told to stop, by the event loop's clock."""
        self.fatal: errors.Fatal | None = None
        """Why the process cannot go on."""
        self.on_fatal: Callable[[], None] = lambda: None
        """For who serves beside other things: told when that is so."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start; then leave what start-up made to itself."""
        if sockets:
            self._app.state.local_url = local_url(sockets[0])
        try:
            await super().startup(sockets)
        except SystemExit:
            # A start that was refused is for our caller to explain, see ``raise_refusal``.
            self.should_exit = True
            return
        if self._greeting:
            print(self._greeting, flush=True)  # noqa: T201 - for the person at the terminal, once it is true
        if self._handle_signals:
            # Modules and tables live as long as the process: searching them for garbage costs 90 ms a time.
            gc.collect()
            gc.freeze()
            gc.set_threshold(*GC_THRESHOLDS)
            # Of the whole process, as the collector is: for whoever has it to himself.
            sys.setswitchinterval(SWITCH_INTERVAL_S)

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until told to stop."""
        self._serving = asyncio.get_running_loop()
        self._app.state.end = self.end
        await super().serve(sockets)
        if self._draining is not None:
            await self._draining
        logger.info("server.ended")

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals only where this server owns the process."""
        if not self._handle_signals:
            yield
            return
        with super().capture_signals():
            yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the sockets, let requests end within their time, cut the rest, and close the service."""
        for server in self.servers:
            server.close()
        for listener in sockets or []:
            listener.close()
        for connection in self._connections:
            connection.shutdown()  # an idle one at once, the others after their answer
        loop = asyncio.get_running_loop()
        told_at = loop.time() if self._told_at is None else self._told_at
        ends_at = loop.time() + _HURRY_S if self.fatal is not None else told_at + GRACE_S
        state = self.server_state
        while (state.connections or state.tasks) and loop.time() < ends_at:  # noqa: ASYNC110 - uvicorn's own sets
            await asyncio.sleep(_POLL_S)
        await self._cut()
        if self.fatal is None or not self._handle_signals:
            await self.lifespan.shutdown()

    @property
    def _connections(self) -> list[http1.Connection]:
        return list(cast("set[http1.Connection]", self.server_state.connections))

    async def _cut(self) -> None:
        """End the requests that are left: refused where nothing was said yet, else as if the caller had gone."""
        state = self.server_state
        if not state.connections and not state.tasks:
            return
        logger.warning("service.requests_cut", extra={"requests": len(state.tasks)})
        for connection in self._connections:
            connection.abort_if_begun()
        await asyncio.sleep(_POLL_S)
        for task in list(state.tasks):
            task.cancel()
        if state.tasks:
            await asyncio.wait(list(state.tasks), timeout=_CUT_S)
            await asyncio.sleep(_POLL_S)  # for the last bytes of their refusals
        for connection in self._connections:
            connection.cut()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Start the way out at the first signal; the second ends the process at once, as kill -9 would."""
        if self._told_at is not None:
            os._exit(128 + sig)
        if self._serving is None:
            super().handle_exit(sig, frame)
            return
        self._told_at = self._serving.time()
        exit_within(EXIT_S)
        self._serving.call_soon_threadsafe(self.stop)
        if sig == signal.SIGINT:
            self._captured_signals.clear()  # the way out is an orderly end, not an interrupt

    def end(self, reason: errors.Fatal) -> None:
        """Stop because the process cannot go on; ``leave`` it then."""
        self.fatal = reason
        if self._handle_signals:
            exit_within(EXIT_S, code=1)
        self.stop()
        self.on_fatal()

    def stop(self) -> None:
        """Drain, then stop serving."""
        loop = asyncio.get_running_loop()
        self._told_at = self._told_at or loop.time()
        self._table.end()
        if self._draining is None:
            self._draining = loop.create_task(self._drain(), name="drain")

    async def _drain(self) -> None:
        try:
            running = getattr(self._app.state, "running", None)
            if running is not None:
                await running.drain()
        finally:
            self.should_exit = True


def bearable_connections() -> int:
    """
    Tell how many connections there are descriptors for, beside our own files and the downloads.

    Two for each: a file that is sent holds one for as long as its reader takes, beside the socket. As many as the
    system allows are asked for first: what a shell sets by itself is made for other programs.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
    if soft == resource.RLIM_INFINITY:
        return http1.MOST_CONNECTIONS
    return max(1, min(http1.MOST_CONNECTIONS, (soft - min(soft // 2, _OWN_FILES)) // 2))


def exit_within(limit_s: float, *, code: int = 0) -> None:
    """
    End this process in *limit_s* seconds if it has not ended by then.

    Neither the event loop nor the interpreter ends before their threads, and a thread that waits for something, or
    decodes a large picture, cannot be stopped.
    """

    def watch() -> None:
        time.sleep(limit_s)
        alive = sorted(thread.name for thread in threading.enumerate() if not thread.daemon)
        logger.warning("service.cut_off", extra={"threads": alive})
        os._exit(code)

    threading.Thread(target=watch, name="exit-within", daemon=True).start()


def leave(reason: errors.Fatal) -> NoReturn:
    """
    End this process at once, with *reason* on standard error and exit code 1.

    The database is not closed: SQLite would put its log back into a file that is damaged, or remove the log of
    another file that stands in its place by now.
    """
    print(f"nanohook: {reason}", file=sys.stderr, flush=True)  # noqa: T201 - for whoever started it
    os._exit(1)


def listen(host: str, port: int) -> socket.socket:
    """
    Open the listening socket; what is set on it, every accepted connection inherits.

    Raises:
        ConfigError: The address cannot be used.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sockets.set_for_all(listener)
    try:
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except OSError as exc:
        listener.close()
        raise errors.ConfigError(f"cannot listen on {host} port {port}: {exc.strerror}") from exc
    listener.setblocking(False)
    return listener


def address(listener: socket.socket) -> str:
    """Tell the http address that a listening socket can be reached at."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def local_url(listener: socket.socket) -> str:
    """Tell where this machine itself reaches a listening socket."""
    host, port = listener.getsockname()[:2]
    everywhere = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104 - it is recognised, not bound
    return f"http://{everywhere[host]}:{port}" if host in everywhere else address(listener)


def raise_refusal(app: Starlette) -> NoReturn:
    """
    Say why *app* did not start.

    Raises:
        ConfigError: Always; with the reason, if it refused its settings or surroundings.
    """
    refusal = getattr(app.state, "refusal", None)
    raise refusal if isinstance(refusal, errors.ConfigError) else errors.ConfigError("the service did not start")


@contextlib.asynccontextmanager
async def serving(
    app: Starlette, listener: socket.socket, *, limits: http1.Limits | None = None
) -> AsyncIterator[Server]:
    """
    Serve *app* beside other things in this event loop, from its start-up to its drained end.

    Raises:
        ConfigError: It did not start; the log says why.
    """
    server = Server(app, handle_signals=False, limits=limits)
    task = asyncio.create_task(server.serve(sockets=[listener]), name="server")
    try:
        while not server.started:
            if task.done():
                await task
                raise_refusal(app)
            await asyncio.sleep(0.005)
        yield server
    finally:
        server.stop()
        await task
