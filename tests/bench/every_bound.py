"""
Every bound of memory full at the same time: what does the process come to?

    python -m tests.bench.every_bound [--seconds 90]

The service as it is deployed, with its default limits, under the memory of a small machine. Strangers begin
callbacks and heads and do not end them, try passwords, and read nothing of the files they ask for; people read
nothing of their lists, begin batches, and upload pictures of 40 million pixels. Exits 1 when a bound is broken.

Not filled, and added as they are promised: what waits for the writer, and downloads held in memory.
"""

import argparse
import asyncio
import contextlib
import io
import pathlib
import socket
import sys
import tempfile
import time
from dataclasses import dataclass, field

import httpx
from PIL import Image

from nanohook import writer
from nanohook.passwords import THREADS
from nanohook.remote import spool
from nanohook.web import incoming, slots, work_wire
from tests.bench import mixed_scene, processes
from tests.bench.mixed_scene import Account
from tests.bench.report import Run
from tests.process import child

_MOST_MB = 900
_PROMISED_MB = (writer.INBOX_BYTES + spool.MEMORY_BYTES) / 2**20
_SAMPLE_S = 0.2
_NOBODY = "http://127.0.0.1:1"
_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
_SIDE = 6_324
"""Of a square of 40 million pixels, the most that is taken."""
_DEAF_READERS, _DEAF_LISTS, _HALF_HEADS = 2_500, 30, 700
_CALLBACK_BYTES = 2**20
_SENDING_S = 1.0
_AGAIN_S = 4.0
"""A body has five seconds."""


@dataclass(kw_only=True)
class _Crowd:
    """All who ask, and the connections that they leave open."""

    base: str
    people: list[Account]
    sockets: list[socket.socket] = field(default_factory=list)

    async def begin(self, head: str, rest: bytes, *, key: str = "") -> None:
        """Send what is given over a connection of its own, and read nothing."""
        url, loop = httpx.URL(self.base), asyncio.get_running_loop()
        lines = [head, f"Host: {url.host}:{url.port}", *([f"Authorization: Bearer {key}"] if key else [])]
        made = socket.socket()
        self.sockets.append(made)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        made.setblocking(False)
        with contextlib.suppress(OSError):  # refused, or closed for others: as it should be
            async with asyncio.timeout(_SENDING_S):
                await loop.sock_connect(made, (url.host, url.port or 80))
                await loop.sock_sendall(made, "\r\n".join(lines).encode() + rest)


async def _callbacks(crowd: _Crowd) -> None:
    body = b"\r\n\r\n" + b" " * (_CALLBACK_BYTES - 1)
    while True:
        head = f"POST /api/webhooks/image-completion HTTP/1.1\r\nContent-Length: {_CALLBACK_BYTES}"
        number = 4 * incoming.MAX_BYTES // _CALLBACK_BYTES
        await asyncio.gather(*(crowd.begin(head, body) for _ in range(number)))
        await asyncio.sleep(_AGAIN_S)


async def _files(crowd: _Crowd) -> None:
    for _ in range(_DEAF_READERS):
        await crowd.begin("GET /static/nanohook.js HTTP/1.1", b"\r\n\r\n")


async def _heads(crowd: _Crowd) -> None:
    for _ in range(_HALF_HEADS):
        await crowd.begin("GET / HTTP/1.1", b"\r\nX: " + b"a" * 60_000)


async def _lists(crowd: _Crowd) -> None:
    for person in crowd.people:
        for _ in range(_DEAF_LISTS):
            await crowd.begin("GET /api/images?limit=200 HTTP/1.1", b"\r\n\r\n", key=person.api_key)
        await asyncio.sleep(1)


async def _batches(crowd: _Crowd) -> None:
    size_bytes = work_wire.BATCH_BYTES
    for person in crowd.people[: slots.MOST_BATCHES]:
        head = f"POST /api/batches HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: {size_bytes}"
        await crowd.begin(head, b"\r\n\r\n[" + b" " * (size_bytes - 2), key=person.api_key)


async def _passwords(crowd: _Crowd) -> None:
    async def trying(number: int) -> None:
        async with httpx.AsyncClient(base_url=crowd.base, headers={"Origin": crowd.base}, timeout=60) as client:
            while True:
                tried = {"email": f"{number}-{time.monotonic_ns()}@example.org", "password": "wrong password"}
                await client.post("/api/auth/login", json=tried)

    await asyncio.gather(*(trying(number) for number in range(2 * THREADS)))


async def _pictures(crowd: _Crowd) -> None:
    out = io.BytesIO()
    layer = Image.linear_gradient("L").resize((_SIDE, _SIDE))
    Image.merge("RGBA", [layer] * 4).save(out, "PNG", compress_level=1)

    async def uploading(person: Account) -> None:
        headers = {"Authorization": f"Bearer {person.api_key}"}
        async with httpx.AsyncClient(base_url=crowd.base, headers=headers, timeout=120) as client:
            while True:
                await client.post("/api/images", files={"file": ("x.png", out.getvalue())})

    await asyncio.gather(*(uploading(person) for person in crowd.people[-8:]))


_WAYS = (_callbacks, _files, _heads, _lists, _batches, _passwords, _pictures)


async def _measure(run: Run, *, seconds: float) -> None:
    data = run.folder / "data"
    people = await mixed_scene.fill(data, jobs_of_each=200, prompt=mixed_scene.LONG_PROMPT)
    async with (
        child.serving(run.folder, upstream=_NOBODY, NANOHOOK_WEBHOOK_SECRETS=_SECRET) as (service, base, _),
        asyncio.TaskGroup() as tasks,
    ):
        pid, crowd = service.process.pid, _Crowd(base=base, people=people)
        with mixed_scene.limited(run, pid):
            began_mb = processes.memory_mb(pid, "VmRSS")
            asking = [tasks.create_task(way(crowd)) for way in _WAYS]
            ends_at, most_mb = time.monotonic() + seconds, 0.0
            while time.monotonic() < ends_at and service.process.poll() is None:
                most_mb = max(most_mb, processes.memory_mb(pid, "VmRSS"))
                await asyncio.sleep(_SAMPLE_S)
            run.check(service.process.poll() is None, "the service was ended")
            for task in asking:
                task.cancel()
            for each in crowd.sockets:
                each.close()
    run.add(
        "memory of the service, every bound full",
        f"{began_mb:.0f} to {most_mb:.0f} MB",
        yardstick=f"and {_PROMISED_MB:.0f} MB that are promised",
        need=f"<= {_MOST_MB}",
        is_met=most_mb + _PROMISED_MB <= _MOST_MB,
    )


def main() -> int:
    """Measure, print, and tell whether every bound holds."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.every_bound", description=__doc__)
    parser.add_argument("--seconds", type=float, default=90.0)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="nanohook-bounds-") as folder:
        run = Run(folder=pathlib.Path(folder), pairs=1, is_quick=False, minutes=chosen.seconds / 60)
        asyncio.run(_measure(run, seconds=chosen.seconds))
    run.print_table()
    return 1 if run.wrong or any(row.is_met is False for row in run.rows) else 0


if __name__ == "__main__":
    sys.exit(main())
