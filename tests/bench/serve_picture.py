"""NanoBanana's file host: every GET gets the same bytes, without a framework around it."""

import asyncio
import pathlib
import signal

import uvloop

from tests.bench import figures


class _Host(asyncio.Protocol):
    def __init__(self, answer: bytes) -> None:
        self._answer = answer
        self._seen = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._seen += data
        while b"\r\n\r\n" in self._seen:
            _, self._seen = self._seen.split(b"\r\n\r\n", 1)
            self._transport.write(self._answer)  # type: ignore[attr-defined]


async def _serve(body: bytes) -> None:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nContent-Length: {len(body)}\r\n\r\n"
    listener = figures.listen()
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    await loop.create_server(lambda: _Host(head.encode() + body), sock=listener)
    figures.tell_port(listener)
    await ended.wait()


def main() -> None:
    """Serve until SIGTERM."""
    body = pathlib.Path(figures.options()["picture"]).read_bytes()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(body))


main()
