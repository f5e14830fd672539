"""
An unfriendly person with a valid account, and the strangers who come along: everything at once, until stdin ends.

    python -m tests.bench.unfriendly JSON

It runs in a process of its own, so that what it costs to be unfriendly delays no one who is measured. In the end
it deletes what it made, so that the next time begins where this one did, and prints how it was answered.
"""

import asyncio
import collections
import contextlib
import io
import itertools
import json
import os
import random
import secrets
import socket
import sys
from collections.abc import Callable, Coroutine
from typing import Any
from urllib.parse import urlsplit

import orjson
from PIL import Image

from tests.bench import asking, figures, load
from tests.bench.asking import Answer, Connection

HANGING = "on a host that never answers"
"""In the prompts of jobs whose result is on such a host."""
SEARCHES = 20
SLOW_READERS = 150
_SLOW_BYTES, _SLOW_S = 2_048, 4.0
_UPLOADS = 6
_UPLOAD_PX = (2_400, 2_000)
_GENERATES = 4
_IMAGES = 4
_BATCH_EVERY_S, _BATCH = 30.0, 100
_STATUSES = 4
_CHECKS = 4
_STREAMS = 60
_STRANGERS = 10
_SILENT = 200
_GARBAGE = 5
_PIPELINED = 100
_REFUSED_S = 0.25
"""Pause after a refusal: shorter than any ``Retry-After``, but long enough that not the asking itself, on the same
few cores, is what others feel."""
_MANY = 200
_JSON = {"Content-Type": "application/json"}
_GIVEN_UP = (OSError, EOFError, TimeoutError)


class Person:
    """Who does all this, and what came of it."""

    def __init__(self, base: str, api_key: str, job_ids: list[str]) -> None:
        self.base = base
        self.headers = asking.bearer(api_key)
        self.job_ids = job_ids
        self.made: collections.deque[str] = collections.deque()
        """What is to be deleted in the end."""
        self.hanging: collections.deque[str] = collections.deque(maxlen=50)
        self.answers: collections.defaultdict[str, collections.Counter[str]] = collections.defaultdict(
            collections.Counter
        )

    async def asks(self, kind: str, make: Callable[[], tuple[str, str, dict[str, str], bytes]]) -> None:
        """Ask for what *make* says, over and over, by a connection that is opened again when it is cut."""
        while True:
            try:
                connection = await Connection.to(self.base)
            except OSError:
                self.answers[kind]["not connected"] += 1
                await asyncio.sleep(_REFUSED_S)
                continue
            try:
                while connection.is_open:
                    method, path, headers, body = make()
                    answer = await connection.ask(method, path, headers=headers, body=body)
                    self.note(kind, answer)
                    await asyncio.sleep(_REFUSED_S if answer.status >= 400 else 0)
            except _GIVEN_UP as exc:
                self.answers[kind][type(exc).__name__] += 1
                await asyncio.sleep(_REFUSED_S)
            finally:
                connection.close()

    def note(self, kind: str, answer: Answer) -> None:
        """Count an answer; remember what it made."""
        self.answers[kind][str(answer.status)] += 1
        if answer.status in {201, 202}:
            told = answer.json()
            self.made.extend(told.get("job_ids") or [told["job_id"]])
            if kind == "generate":
                self.hanging.append(told["job_id"])

    async def deletes(self) -> None:
        """Delete everything that was made."""
        connection = await Connection.to(self.base)
        while self.made:
            named = [self.made.popleft() for _ in range(min(_MANY, len(self.made)))]
            body = orjson.dumps({"job_ids": named})
            answer = await connection.ask(
                "POST", "/api/images/delete", headers={**self.headers, **_JSON}, body=body
            )
            if answer.status != 200:
                self.made.extend(named)
                await asyncio.sleep(1)
            if not connection.is_open:
                connection = await Connection.to(self.base)
        connection.close()


def _work(person: Person, *, cookie: str) -> dict[str, list[Coroutine[Any, Any, None]]]:
    """Everything that is done at once, by its kind."""
    numbers = itertools.count()
    upload_headers, upload = asking.form(_noise())
    headers = person.headers
    hanging = {"prompt": f"a kite {HANGING}", "numImages": _IMAGES}

    def search() -> tuple[str, str, dict[str, str], bytes]:
        return "GET", f"/api/images?q=no+such+thing+{next(numbers)}", headers, b""

    def upload_one() -> tuple[str, str, dict[str, str], bytes]:
        return "POST", "/api/images", {**headers, **upload_headers}, upload

    def generate() -> tuple[str, str, dict[str, str], bytes]:
        return "POST", "/api/generate-image", {**headers, **_JSON}, orjson.dumps(hanging)

    def status() -> tuple[str, str, dict[str, str], bytes]:
        return "GET", f"/api/images/{_one(person)}/status", headers, b""

    def check() -> tuple[str, str, dict[str, str], bytes]:
        body = orjson.dumps({"imageId": _one(person)})
        return "POST", "/api/check-generation-status", {**headers, **_JSON}, body

    def stranger() -> tuple[str, str, dict[str, str], bytes]:
        shown = random.choice(
            [
                {"Authorization": f"Bearer nh_{secrets.token_urlsafe(32)}"},
                {"Authorization": f"Bearer {secrets.token_urlsafe(300)}"},
                {"Authorization": "Basic " + "A" * 4_000},
                {"Cookie": "; ".join(f"{cookie}={secrets.token_urlsafe(60)}" for _ in range(20))},
                {"Cookie": f"{cookie}=" + "." * 8_000},
            ]
        )
        return "GET", random.choice(["/api/images", "/api/auth/me", "/media/results/x?token=y"]), shown, b""

    return {
        "search": [person.asks("search", search) for _ in range(SEARCHES)],
        "list": [_reads_slowly(person) for _ in range(SLOW_READERS)],
        "upload": [person.asks("upload", upload_one) for _ in range(_UPLOADS)],
        "generate": [person.asks("generate", generate) for _ in range(_GENERATES)],
        "batch": [_batches(person, hanging)],
        "status": [person.asks("status", status) for _ in range(_STATUSES)],
        "check": [person.asks("check", check) for _ in range(_CHECKS)],
        "stream": [_opens_and_leaves(person) for _ in range(_STREAMS)],
        "stranger": [person.asks("stranger", stranger) for _ in range(_STRANGERS)],
        "silent": [_is_silent(person) for _ in range(_SILENT)],
        "garbage": [_sends_garbage(person) for _ in range(_GARBAGE)],
    }


def _one(person: Person) -> str:
    return random.choice(person.hanging or person.job_ids)


async def _batches(person: Person, wish: dict[str, Any]) -> None:
    """Ask for hundreds of hanging jobs in one request, now and then."""
    body = orjson.dumps({"jobs": [wish] * _BATCH})
    while True:
        with contextlib.suppress(*_GIVEN_UP):
            connection = await Connection.to(person.base)
            headers = {**person.headers, **_JSON}
            person.note("batch", await connection.ask("POST", "/api/batches", headers=headers, body=body))
            connection.close()
        await asyncio.sleep(_BATCH_EVERY_S)


async def _reads_slowly(person: Person) -> None:
    """Ask for the longest page of a list, and take it a little at a time."""
    where = urlsplit(person.base)
    loop = asyncio.get_running_loop()
    while True:
        # The least that a system keeps for a reader: what is not read stays where it is.
        with contextlib.suppress(OSError), socket.socket() as plain:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SLOW_BYTES)
            plain.setblocking(False)
            await loop.sock_connect(plain, (where.hostname, where.port))
            lines = [f"{name}: {value}" for name, value in person.headers.items()]
            head = "\r\n".join(["GET /api/images?limit=200 HTTP/1.1", f"Host: {where.netloc}", *lines, "", ""])
            await loop.sock_sendall(plain, head.encode())
            first = await loop.sock_recv(plain, _SLOW_BYTES)
            person.answers["slow list"][first[9:12].decode() or "closed"] += 1
            more = first.startswith(b"HTTP/1.1 200")
            while more:
                await asyncio.sleep(_SLOW_S)
                more = bool(await loop.sock_recv(plain, _SLOW_BYTES))
        await asyncio.sleep(_SLOW_S)


async def _opens_and_leaves(person: Person) -> None:
    """Open a stream of everything, look at its first bytes, and leave without a word."""
    while True:
        with contextlib.suppress(OSError):
            connection = await Connection.to(person.base)
            await connection.send("GET", "/api/events", headers=person.headers)
            first = await connection.read(4_096)
            person.answers["stream"][first[9:12].decode() or "closed"] += 1
            await asyncio.sleep(1 + random.random())
            connection.close()
        await asyncio.sleep(0.1)


async def _is_silent(person: Person) -> None:
    """Connect and say nothing, until one is shown the door."""
    while True:
        with contextlib.suppress(OSError):
            connection = await Connection.to(person.base)
            person.answers["silent"]["opened"] += 1
            while await connection.read(4_096):
                pass
            person.answers["silent"]["closed"] += 1
        await asyncio.sleep(_REFUSED_S)


async def _sends_garbage(person: Person) -> None:
    """Pipeline many requests, then noise."""
    one = b"GET /api/images/no-such HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer nh_garbage\r\n\r\n"
    while True:
        with contextlib.suppress(*_GIVEN_UP):
            connection = await Connection.to(person.base)
            connection.writer.write(one * random.randint(0, _PIPELINED) + os.urandom(2_000))
            async with asyncio.timeout(10):
                while await connection.read(65_536):
                    pass
            person.answers["garbage"]["closed"] += 1
            connection.close()
        await asyncio.sleep(_REFUSED_S)


def _noise() -> bytes:
    """A picture that takes as many bytes and as much work as its size allows."""
    held = io.BytesIO()
    Image.effect_noise(_UPLOAD_PX, 64).convert("RGB").save(held, "JPEG", quality=95)
    return held.getvalue()


async def _main() -> None:
    asked = figures.options()
    person = Person(asked["base"], asked["api_key"], asked["job_ids"])
    loop = asyncio.get_running_loop()
    work = _work(person, cookie=asked["cookie"])
    doing = [asyncio.ensure_future(each) for kind in asked["ways"] for each in work.pop(kind)]
    for left in itertools.chain.from_iterable(work.values()):
        left.close()
    print("begun", flush=True)
    told = loop.run_in_executor(None, sys.stdin.read)
    ended, _ = await asyncio.wait([*doing, told], return_when=asyncio.FIRST_COMPLETED)
    for each in doing:
        each.cancel()
    await asyncio.gather(*doing, return_exceptions=True)
    for each in ended - {told}:
        await each  # it ended by itself: its error is ours
    await person.deletes()
    print(json.dumps(person.answers), flush=True)


if __name__ == "__main__":
    load.run(_main())
