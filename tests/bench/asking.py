"""An HTTP client that costs little and hides nothing: one request at a time, any form of answer, a stream too."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import urlsplit

import orjson

_MAX_LINE_BYTES = 1024 * 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What came back."""

    status: int
    body: bytes
    began: float
    """When its first bytes of content came, or its head if it has none; on the clock of ``time.perf_counter``."""
    ended: float

    def json(self) -> Any:
        """Read the body."""
        return orjson.loads(self.body)


class Connection:
    """One connection that is kept alive for as long as the service keeps it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str) -> None:
        self._reader = reader
        self.writer = writer
        self._host = host
        self.is_open = True

    @classmethod
    async def to(cls, base: str, *, limit: int = _MAX_LINE_BYTES) -> Self:
        """Connect to the service at *base*; what waits to be read here is at most some *limit* bytes."""
        parts = urlsplit(base)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port, limit=limit)
        return cls(reader, writer, parts.netloc)

    async def ask(
        self, method: str, path: str, *, headers: Mapping[str, str], body: bytes = b"", timeout_s: float = 60.0
    ) -> Answer:
        """
        Send a request and read the whole of its answer, an event stream to its end.

        Raises:
            OSError: The connection was cut.
            EOFError: Likewise, within the answer.
            TimeoutError: It took too long.
        """
        self.is_open = False  # until the answer has been read
        async with asyncio.timeout(timeout_s):
            await self.send(method, path, headers=headers, body=body)
            return await self._read()

    async def send(self, method: str, path: str, *, headers: Mapping[str, str], body: bytes = b"") -> None:
        """Send a request; whoever reads its answer is somebody else."""
        lines = [f"{method} {path} HTTP/1.1", f"Host: {self._host}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        lines += [f"Content-Length: {len(body)}"] if body else []
        self.writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        await self.writer.drain()

    async def read(self, size_bytes: int) -> bytes:
        """Read at most so much of whatever comes; nothing when the service has closed."""
        return await self._reader.read(size_bytes)

    def close(self) -> None:
        """Cut the connection."""
        self.is_open = False
        self.writer.transport.abort()

    async def _read(self) -> Answer:
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
        status, began = int(head.split(None, 2)[1]), time.perf_counter()
        closes = fields.get("connection") == "close"
        if fields.get("transfer-encoding") == "chunked":
            pieces = []
            while size := int(await self._reader.readline(), 16):
                if not pieces:
                    began = time.perf_counter()
                pieces.append(await self._reader.readexactly(size))
                await self._reader.readexactly(2)
            await self._reader.readexactly(2)
            body = b"".join(pieces)
        elif "content-length" in fields:
            body = await self._reader.readexactly(int(fields["content-length"]))
        else:
            body = await self._reader.read() if closes else b""
        self.is_open = not closes
        return Answer(status=status, body=body, began=began, ended=time.perf_counter())


def form(picture: bytes) -> tuple[dict[str, str], bytes]:
    """Write headers and body of an upload."""
    mark = "a-line-between-parts"
    head = (
        f'--{mark}\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n'
        "Content-Type: image/jpeg\r\n\r\n"
    )
    body = head.encode() + picture + f"\r\n--{mark}--\r\n".encode()
    return {"Content-Type": f"multipart/form-data; boundary={mark}"}, body


def bearer(api_key: str) -> dict[str, str]:
    """Write the header of a person."""
    return {"Authorization": f"Bearer {api_key}"}
