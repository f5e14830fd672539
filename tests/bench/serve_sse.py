"""The yardstick of streams: sse-starlette with a queue for each client, as its documentation has it."""

import asyncio
from collections.abc import AsyncIterator

import uvicorn
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from tests.bench import figures

_PING_S = 15
_last_id = 0
_queues: set[asyncio.Queue[ServerSentEvent]] = set()


async def _stream(request: Request) -> EventSourceResponse:
    queue: asyncio.Queue[ServerSentEvent] = asyncio.Queue()

    async def events() -> AsyncIterator[ServerSentEvent]:
        _queues.add(queue)
        try:
            yield ServerSentEvent(data="{}", event="status")
            while True:
                yield await queue.get()
        finally:
            _queues.discard(queue)

    return EventSourceResponse(events(), ping=_PING_S)


async def _burst(request: Request) -> JSONResponse:
    """Give every client the same events: the text is made once, framing is the library's."""
    global _last_id
    data, count = (await request.body()).decode(), int(request.query_params["n"])
    first, _last_id = _last_id + 1, _last_id + count
    for number in range(first, _last_id + 1):
        event = ServerSentEvent(data=data, event="status", id=str(number))
        for queue in list(_queues):
            queue.put_nowait(event)
    return JSONResponse({"ids": list(range(first, _last_id + 1))})


async def _figures(request: Request) -> JSONResponse:
    return JSONResponse({**figures.memory(), "streams": len(_queues)})


def main() -> None:
    """Serve until SIGTERM."""
    figures.options()
    app = Starlette(
        routes=[
            Route("/api/images/{job_id}/events", _stream),
            Route("/bench/burst", _burst, methods=["POST"]),
            Route("/bench/figures", _figures),
        ]
    )
    listener = figures.listen()
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="warning",
        timeout_graceful_shutdown=1,
    )
    figures.tell_port(listener)
    uvicorn.Server(config).run(sockets=[listener])


main()
