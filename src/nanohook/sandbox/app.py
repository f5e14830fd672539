"""
The look-alike's routes: every address of the vendor's that is known, and ``/r/`` for the results.

Refusals are told as the vendor tells them: HTTP 200 with another ``code`` in the body.
"""

import asyncio
import contextlib
import functools
import gzip
import logging
import random
from collections.abc import AsyncIterator

import httpx
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from nanohook.sandbox import options, orders, shapes, tasks, work

log = logging.getLogger(__name__)

MAX_BODY_BYTES = 1_048_576

_ROOT = "/api/v1"
_DRIPS = 10
_TRANSPORT = "nanohook.sandbox.transport"
_FIRST_STATUS: dict[options.Flaw, int] = {"broken": 500, "missing": 404, "forbidden": 403}
# Each use has a limit of its own for all of it.
_NO_TIMEOUT = httpx.Timeout(None)
_LIMITS = httpx.Limits(max_connections=200, max_keepalive_connections=50)


def create_app(settings: options.Options) -> Starlette:
    """
    Build a look-alike that behaves as *settings* say.

    ``app.state.tasks`` is its ``tasks.Table``, for tests to look into. Results are linked from the address
    under which a submit reached it. When its lifespan ends, nothing of it runs any more.
    """
    app = _Sandbox(
        routes=[
            *(
                Route(
                    f"{_ROOT}/nanobanana/{tier}",
                    functools.partial(_submit, tier=tier),
                    methods=["POST"],
                    max_body_size=MAX_BODY_BYTES,
                )
                for tier in orders.TIERS
            ),
            Route(f"{_ROOT}/nanobanana/record-info", _record_info),
            Route(f"{_ROOT}/common/credit", _credit),
            Route("/r/{name}", _picture),
        ],
        exception_handlers={HTTPException: _failed},
        lifespan=_lifespan,
    )
    app.state.settings = settings
    app.state.tasks = tasks.Table(credit=settings.credit)
    app.state.chances = random.Random(settings.seed)  # noqa: S311 - chances of faults, not secrets
    return app


class _Sandbox(Starlette):
    """Keeps uvicorn's connection at hand, which ASGI has no word for, so that it can be cut."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[_TRANSPORT] = getattr(getattr(send, "__self__", None), "transport", None)
        await super().__call__(scope, receive, send)


class _CutResponse(Response):
    """No answer: the connection is cut; under a server other than uvicorn, in the middle of an answer."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        transport = scope.get(_TRANSPORT)
        if transport is None:
            await _HalfResponse(b'{"code":200,"data":')(scope, receive, send)
            return
        transport.abort()
        await _until_gone(receive)


class _HalfResponse(Response):
    """Half of the content that the headers promise, then the end of the connection."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        half = bytes(self.body)[: len(self.body) // 2]
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": half, "more_body": True})
        transport = scope.get(_TRANSPORT)
        if transport is not None:  # any other server ends it by itself, and says that it was too short
            transport.close()
            await _until_gone(receive)


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


@contextlib.asynccontextmanager
async def _lifespan(app: Starlette) -> AsyncIterator[None]:
    async with httpx.AsyncClient(trust_env=False, timeout=_NO_TIMEOUT, limits=_LIMITS, max_redirects=3) as http:
        worker = work.Worker(app.state.settings, app.state.tasks, http)
        app.state.worker = worker
        try:
            yield
        finally:
            await worker.aclose()


async def _submit(request: Request, *, tier: orders.Tier) -> Response:
    state = request.app.state
    refuse = functools.partial(_json_refusal, word=shapes.message_word(tier))
    if not _authorised(request):
        return refuse(401)
    try:
        order = orders.parse(tier, await request.body())
    except orders.OrderError as exc:
        return refuse(exc.code, exc.message)
    behaviour = state.settings.behaviour(order.prompt, chances=state.chances)
    if behaviour.submit_code is not None:
        return refuse(behaviour.submit_code)
    table: tasks.Table = state.tasks
    if not table.pay(order.price):
        return refuse(402)
    task = table.add(order, behaviour, base_url=str(request.base_url).rstrip("/"))
    state.worker.start(task)
    log.info("task.accepted", extra={"task_id": task.task_id, "tier": tier})
    if behaviour.early:
        await task.called.wait()
    return _accepted(task)


def _accepted(task: tasks.Task) -> Response:
    if task.behaviour.accident == "reset":
        return _CutResponse()
    if task.behaviour.accident == "html":
        return HTMLResponse("<html><body><h1>502 Bad Gateway</h1></body></html>", 502)
    return _json(shapes.dressed(shapes.accepted(task), task.behaviour.dress))


async def _record_info(request: Request) -> Response:
    if not _authorised(request):
        return _json_refusal(401)
    task_id = request.query_params.get("taskId")
    if not task_id:
        return _json_refusal(500, "Server exception, please check the parameters")
    task = request.app.state.tasks.by_id.get(task_id)
    if task is None:
        return _json_refusal(404, "Task not found")
    return _json(shapes.dressed(shapes.record(task), task.behaviour.dress))


async def _credit(request: Request) -> Response:
    if not _authorised(request):
        return _json_refusal(401)
    return _json(shapes.envelope(200, "success", request.app.state.tasks.credit))


async def _picture(request: Request) -> Response:
    table: tasks.Table = request.app.state.tasks
    found = table.picture(request.path_params["name"])
    if found is None:
        raise HTTPException(404)
    task, picture = found
    flaw, is_first = task.behaviour.flaw, not task.fetches
    task.fetches += 1
    if is_first and flaw is not None and flaw in _FIRST_STATUS:
        raise HTTPException(_FIRST_STATUS[flaw])
    if is_first and flaw == "half":
        return _HalfResponse(picture.content, media_type=picture.media_type)
    if is_first and flaw == "empty":
        return Response(media_type=picture.media_type)
    if flaw == "packed":
        return Response(gzip.compress(picture.content), media_type=picture.media_type)
    if flaw == "labelled":
        label = {"content-encoding": "aws-chunked"}
        return Response(picture.content, headers=label, media_type=picture.media_type)
    if flaw == "slow":
        length = {"content-length": str(len(picture.content))}
        pieces = _drip(picture, task.behaviour.slow_s)
        return StreamingResponse(pieces, headers=length, media_type=picture.media_type)
    return Response(picture.content, media_type=picture.media_type)


async def _drip(picture: tasks.Picture, slow_s: float) -> AsyncIterator[bytes]:
    size = -(-len(picture.content) // _DRIPS)
    for start in range(0, len(picture.content), size):
        yield picture.content[start : start + size]
        await asyncio.sleep(slow_s / _DRIPS)


async def _failed(_request: Request, exc: Exception) -> Response:
    status = exc.status_code if isinstance(exc, HTTPException) else 500
    return _json(shapes.envelope(status), status)


def _authorised(request: Request) -> bool:
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    return scheme.lower() == "bearer" and bool(key.strip())


def _json_refusal(code: int, message: str | None = None, *, word: str = "msg") -> Response:
    return _json(shapes.envelope(code, message, word=word))


def _json(content: bytes, status: int = 200) -> Response:
    return Response(content, status, media_type="application/json")
