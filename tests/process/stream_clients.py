"""Stream clients in Python, each used as its own documentation shows: until they stop, or have seen the end."""

import asyncio
import contextlib
import dataclasses
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx

from nanohook import client
from tests import needs

FINAL = {"COMPLETED", "FAILED", "CANCELED"}
PAUSE_S = 0.3


@dataclasses.dataclass(frozen=True)
class Target:
    """A job to follow."""

    base: str
    key: str
    job_id: str
    url: str
    """Its stream, with a token: for those who send no header."""


@dataclasses.dataclass
class Record:
    """What a client said that it was told."""

    told: list[tuple[str, str, str | None]] = dataclasses.field(default_factory=list)
    """Name, data and id of each event."""
    has_stopped: bool = False
    is_abandoned: bool = False
    """Nobody waits for it any more: for those in a thread, which cannot be canceled."""
    error: str | None = None

    def tell(self, name: str | None, data: str | None, cursor: str | None) -> bool:
        """Note an event; whether it is final."""
        self.told.append((name or "message", data or "", str(cursor) if cursor else None))
        return json.loads(data or "").get("status") in FINAL

    @property
    def cursor(self) -> dict[str, str]:
        ids = [cursor for _, _, cursor in self.told if cursor]
        return {"Last-Event-ID": ids[-1]} if ids else {}


async def own(target: Target, record: Record) -> None:
    async with client.Client(target.base, target.key) as service:
        async for event in service.follow(target.job_id):
            record.tell("status", json.dumps({"status": event.status.value, "progress": event.progress}), None)


async def httpx_sse(target: Target, record: Record) -> None:
    library = needs.module("httpx_sse")
    async with httpx.AsyncClient(trust_env=False, timeout=20) as session:

        async def connect(headers: dict[str, str]) -> AsyncIterator[Any]:
            async with library.aconnect_sse(session, "GET", target.url, headers=headers) as source:
                async for event in source.aiter_sse():
                    yield event

        await _again(connect, record, lambda event: (event.event, event.data, event.id), httpx.TransportError)


async def aiosseclient(target: Target, record: Record) -> None:
    library, aiohttp = needs.module("aiosseclient"), needs.module("aiohttp")

    def connect(headers: dict[str, str]) -> AsyncIterator[Any]:
        return library.aiosseclient(target.url, last_id=headers.get("Last-Event-ID"))

    await _again(connect, record, lambda event: (event.event, event.data, event.id), aiohttp.ClientError)


async def aiohttp_sse_client(target: Target, record: Record) -> None:
    library, aiohttp = needs.module("aiohttp_sse_client.client"), needs.module("aiohttp")

    async def connect(headers: dict[str, str]) -> AsyncIterator[Any]:
        # It comes back by itself when a stream ends, and gives up when there is nobody.
        async with library.EventSource(target.url, headers=headers) as source:
            async for event in source:
                yield event

    await _again(connect, record, lambda event: (event.type, event.data, event.last_event_id), aiohttp.ClientError)


async def sseclient(target: Target, record: Record) -> None:
    library, requests = needs.module("sseclient"), needs.module("requests")

    def follow() -> None:
        with requests.Session() as session:
            session.trust_env = False
            is_over = False
            while not (is_over or record.is_abandoned):
                with contextlib.suppress(requests.RequestException):
                    answer = session.get(target.url, headers=record.cursor, stream=True, timeout=20)
                    for event in library.SSEClient(answer).events():
                        is_over = record.tell(event.event, event.data, event.id)
                time.sleep(PAUSE_S)

    await asyncio.to_thread(follow)


async def requests_sse(target: Target, record: Record) -> None:
    library, requests = needs.module("requests_sse"), needs.module("requests")

    def follow() -> None:
        with requests.Session() as session:
            session.trust_env = False
            with (
                contextlib.suppress(library.InvalidStatusCodeError),  # 204: it may stop
                library.EventSource(target.url, session=session, timeout=20) as source,
            ):
                for event in source:
                    record.tell(event.type, event.data, event.last_event_id)

    await asyncio.to_thread(follow)


async def _again(
    connect: Callable[[dict[str, str]], AsyncIterator[Any]],
    record: Record,
    fields: Callable[[Any], tuple[str | None, str | None, str | None]],
    lost: type[Exception],
) -> None:
    """Connect until the end has come: what is around a library that leaves this to its user."""
    while True:
        with contextlib.suppress(lost):
            async with contextlib.aclosing(connect(record.cursor)) as events:
                async for event in events:
                    if record.tell(*fields(event)):
                        return
        await asyncio.sleep(PAUSE_S)


CLIENTS = {
    "nanohook": own,
    "httpx_sse": httpx_sse,
    "aiosseclient": aiosseclient,
    "aiohttp_sse_client": aiohttp_sse_client,
    "sseclient": sseclient,
    "requests_sse": requests_sse,
}
