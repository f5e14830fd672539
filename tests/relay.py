"""A TCP relay in front of a service, for what real ones do to answers: hold them back, swallow them, cut them."""

import asyncio
import contextlib
import enum
import re
from collections.abc import AsyncIterator, Callable

_REQUEST = re.compile(rb"(?:GET|HEAD|POST|PATCH|DELETE|OPTIONS) [^ ]+ HTTP/1\.1\r\n")
_HEAD_END = b"\r\n\r\n"


class Way(enum.Enum):
    """What becomes of what the service says."""

    PASS = enum.auto()
    HOLD = enum.auto()
    """Nothing of it goes on until the rule says otherwise."""
    HOLD_BODY = enum.auto()
    """Only its head goes on."""
    SWALLOW = enum.auto()
    """It is lost, and the connection stays open without a sign."""
    CUT = enum.auto()
    """The connection is closed in place of it."""
    HALVE = enum.auto()
    """The connection is closed in its middle."""


class Relay:
    """Passes bytes on; *rule* says of each answer, by its request's first line, what becomes of it."""

    def __init__(self, target: str) -> None:
        self._host, _, port = target.removeprefix("http://").partition(":")
        self._port = int(port)
        self._changed = asyncio.Event()
        self._frozen: set[object] = set()
        self._open: set[object] = set()
        self.rule: Callable[[str], Way] = lambda _line: Way.PASS
        self.heads: list[str] = []
        """Every request's head, as it came."""
        self.base = ""

    @property
    def lines(self) -> list[str]:
        return [head.partition(" HTTP/1.1")[0] for head in self.heads]

    def asked(self, text: str) -> int:
        """Count the requests whose first line has *text*."""
        return sum(text in line for line in self.lines)

    def keys(self, text: str) -> list[str]:
        """The idempotency keys of the requests whose first line has *text*."""
        found = [head for head, line in zip(self.heads, self.lines, strict=True) if text in line]
        return [re.search(r"(?i)idempotency-key: (\S+)", head)[1] for head in found]

    def change(self, rule: Callable[[str], Way]) -> None:
        """Go on by another rule, with what is held back as well."""
        self.rule = rule
        self._changed.set()
        self._changed = asyncio.Event()

    def freeze(self) -> None:
        """Let every connection that is open now go dead without a sign; new ones work."""
        self._frozen |= self._open

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = _Connection()
        self._open.add(connection)
        try:
            there, back = await asyncio.open_connection(self._host, self._port)
        except ConnectionRefusedError:
            writer.close()
            return
        ways = [
            asyncio.create_task(self._up(connection, reader, back)),
            asyncio.create_task(self._down(connection, there, writer)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            self._open.discard(connection)
            for each in (writer, back):
                each.close()

    async def _up(self, connection: "_Connection", reader, writer) -> None:
        while chunk := await reader.read(65_536):
            if _REQUEST.match(chunk):
                connection.line = chunk.partition(b" HTTP/1.1")[0].decode()
                self.heads.append(chunk.partition(_HEAD_END)[0].decode())
                connection.is_head = True
            if connection not in self._frozen:
                writer.write(chunk)
                await writer.drain()

    async def _down(self, connection: "_Connection", reader, writer) -> None:
        while chunk := await reader.read(65_536):
            while (way := self._way(connection)) is Way.HOLD or (way is Way.HOLD_BODY and not connection.is_head):
                await self._changed.wait()
            if way in {Way.CUT, Way.HALVE}:
                writer.write(chunk[: len(chunk) // 2] if way is Way.HALVE else b"")
                return
            if way is Way.HOLD_BODY:
                head, end, rest = chunk.partition(_HEAD_END)
                connection.is_head = False
                writer.write(head + end)
                while rest and self._way(connection) is Way.HOLD_BODY:
                    await self._changed.wait()
                chunk = rest
            if self._way(connection) is not Way.SWALLOW:
                writer.write(chunk)
                await writer.drain()
        if connection in self._frozen:
            # Its end is no sign either; the handler ends when the client has closed.
            await asyncio.Event().wait()

    def _way(self, connection: "_Connection") -> Way:
        return Way.SWALLOW if connection in self._frozen else self.rule(connection.line)


class _Connection:
    line = ""
    is_head = True


@contextlib.asynccontextmanager
async def before(target: str) -> AsyncIterator[Relay]:
    """Run a relay in front of *target*, an ``http://`` address."""
    relay = Relay(target)
    server = await asyncio.start_server(relay.handle, "127.0.0.1", 0)
    relay.base = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield relay
    finally:
        server.close()
