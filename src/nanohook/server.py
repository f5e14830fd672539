"""
The server around the service: uvicorn with our sockets and our way down.

uvicorn runs the lifespan's end only after every connection is gone, and an open stream is never gone by
itself. So the drain starts in the signal handler.
"""

import asyncio
import contextlib
import functools
import gc
import os
import resource
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from types import FrameType
from typing import Final, NoReturn, cast

import uvicorn
from starlette.applications import Starlette

from nanohook import errors, http1

GRACE_S: Final = 10
"""How long open requests are given after the drain."""
UNSENT_BYTES: Final = 16 * 1024
UNACKED_MS: Final = 30_000
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
        table = http1.Table(limits or http1.Limits())
        super().__init__(
            uvicorn.Config(
                app,
                http=cast("type[asyncio.Protocol]", functools.partial(http1.Connection, table=table)),
                ws="none",
                access_log=False,
                log_config=None,
                server_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=GRACE_S,
            )
        )
        self._app = app
        self._handle_signals = handle_signals
        self._greeting = greeting
        self._draining: asyncio.Task[None] | None = None
        self._serving: asyncio.AbstractEventLoop | None = None

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

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until told to stop."""
        self._serving = asyncio.get_running_loop()
        await super().serve(sockets)
        if self._draining is not None:
            await self._draining

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals only where this server owns the process."""
        if not self._handle_signals:
            yield
            return
        with super().capture_signals():
            yield

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Start the drain at the first signal; the second ends the process at once, as kill -9 would."""
        if self._draining is not None:
            os._exit(128 + sig)
        if self._serving is None:
            super().handle_exit(sig, frame)
            return
        self._serving.call_soon_threadsafe(self.stop)
        if sig == signal.SIGINT:
            self._captured_signals.clear()  # the way down is an orderly end, not an interrupt

    def stop(self) -> None:
        """Drain, then stop serving."""
        if self._draining is None:
            self._draining = asyncio.get_running_loop().create_task(self._drain(), name="drain")

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

    As many as the system allows are asked for first: what a shell sets by itself is made for other programs.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
    if soft == resource.RLIM_INFINITY:
        return http1.MOST_CONNECTIONS
    return max(1, min(http1.MOST_CONNECTIONS, soft - min(soft // 2, _OWN_FILES)))


def listen(host: str, port: int) -> socket.socket:
    """
    Open the listening socket; what is set on it, every accepted connection inherits.

    Raises:
        ConfigError: The address cannot be used.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Not every event loop sets it: without it the second half of an answer waits 40 ms for an ACK.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        # A client that stops reading would swallow megabytes in the kernel, and could never be closed.
        listener.setsockopt(socket.IPPROTO_TCP, getattr(socket, "TCP_NOTSENT_LOWAT", 25), UNSENT_BYTES)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKED_MS)
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
) -> AsyncIterator[None]:
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
        yield
    finally:
        server.stop()
        await task
