"""Requests written by hand: for bodies that never come, come slowly, or break off."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx
import orjson
from starlette.applications import Starlette

from nanohook import http1, server
from tests import live

_PATIENCE_S = 15.0


@dataclass
class Answer:
    """What came back."""

    status_code: int
    headers: httpx.Headers
    content: bytes

    @property
    def text(self) -> str:
        return self.content.decode()

    def json(self) -> Any:
        return orjson.loads(self.content)


class Connection:
    """One connection to a service; what is sent is the test's own affair."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str) -> None:
        self._reader = reader
        self._writer = writer
        self._host = host

    async def begin(self, method: str, path: str, headers: Mapping[str, str]) -> None:
        """Send the head of a request."""
        lines = [f"{method} {path} HTTP/1.1", f"Host: {self._host}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        await self.send("\r\n".join([*lines, "", ""]).encode())

    async def send(self, body: bytes) -> None:
        """Send some of the body."""
        self._writer.write(body)
        await self._writer.drain()

    async def answer(self, *, timeout_s: float = _PATIENCE_S) -> Answer:
        """Read an answer, whatever is left of the request."""
        async with asyncio.timeout(timeout_s):
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            first, *lines = head.split("\r\n")
            headers = httpx.Headers([tuple(line.split(": ", 1)) for line in lines if line])
            content = await self._content(headers)
        return Answer(int(first.split()[1]), headers, content)

    async def rest(self, *, timeout_s: float = _PATIENCE_S) -> bytes:
        """Read what comes until the service closes."""
        async with asyncio.timeout(timeout_s):
            return await self._reader.read()

    async def went_on(self, *, timeout_s: float = _PATIENCE_S) -> bytes:
        """Read what the service says to a client that expects to be told before it sends its body."""
        async with asyncio.timeout(timeout_s):
            return await self._reader.readuntil(b"\r\n\r\n")

    async def some(self, most_bytes: int, *, timeout_s: float = _PATIENCE_S) -> bytes:
        """Read a little of what came; empty: the service has closed."""
        async with asyncio.timeout(timeout_s):
            return await self._reader.read(most_bytes)

    def end(self) -> None:
        """Say that nothing more will be sent."""
        self._writer.write_eof()

    async def _content(self, headers: httpx.Headers) -> bytes:
        if headers.get("transfer-encoding") == "chunked":
            content = b""
            while size := int(await self._reader.readline(), 16):
                content += await self._reader.readexactly(size)
                await self._reader.readexactly(2)
            await self._reader.readexactly(2)
            return content
        if "content-length" in headers or headers.get("connection") != "close":
            return await self._reader.readexactly(int(headers.get("content-length", 0)))
        return await self._reader.read()


@contextlib.asynccontextmanager
async def opened(base: str, *, receive_bytes: int = 2**16) -> AsyncIterator[Connection]:
    """
    Connect to the service at *base*; the connection is cut in the end.

    Args:
        receive_bytes: What its reader takes before the test reads; the kernel takes as much, at least.
    """
    url = httpx.URL(base)
    made = socket.socket()
    if receive_bytes < 2**16:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    made.setblocking(False)
    await asyncio.get_running_loop().sock_connect(made, (url.host, url.port))
    reader, writer = await asyncio.open_connection(sock=made, limit=receive_bytes)
    try:
        yield Connection(reader, writer, url.netloc.decode())
    finally:
        writer.transport.abort()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


@contextlib.asynccontextmanager
async def serving(app: Starlette, **limits: float) -> AsyncIterator[tuple[str, server.Server]]:
    """Serve *app* alone; yields its address, and the server for a look inside."""
    listener = server.listen("127.0.0.1", 0)
    running = server.Server(app, handle_signals=False, limits=http1.Limits(**limits))  # type: ignore[arg-type]
    task = asyncio.create_task(running.serve(sockets=[listener]))
    await live.until(lambda: running.started)
    try:
        yield server.address(listener), running
    finally:
        running.stop()
        await task


async def without_body(
    base: str, method: str, path: str, headers: Mapping[str, str], *, size_bytes: int = 20_000_000
) -> Answer:
    """Promise a body and send none of it: whoever answers has not waited for it."""
    async with opened(base) as connection:
        await connection.begin(method, path, {"Content-Length": str(size_bytes), **headers})
        return await connection.answer()
