"""
The look-alike's routes: every address of the vendor's that is known, and ``/r/`` for the results.

Refusals are told as the vendor tells them: HTTP 200 with another ``code`` in the body.
"""

import contextlib
import functools
import logging
import random
from collections.abc import AsyncIterator

import httpx
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from nanohook.sandbox import options, orders, shapes, tasks, work

log = logging.getLogger(__name__)

MAX_BODY_BYTES = 1_048_576

_ROOT = "/api/v1"
_TRANSPORT = "nanohook.sandbox.transport"
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
            headers = [(b"content-length", b"1000")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": b'{"code":', "more_body": True})
            return
        transport.abort()
        while (await receive())["type"] != "http.disconnect":
            pass


@contextlib.asynccontextmanager
async def _lifespan(app: Starlette) -> AsyncIterator[None]:
    async with httpx.AsyncClient(trust_env=False, limits=_LIMITS, max_redirects=3) as http:
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
    return _json(shapes.accepted(task))


async def _record_info(request: Request) -> Response:
    if not _authorised(request):
        return _json_refusal(401)
    task_id = request.query_params.get("taskId")
    if not task_id:
        return _json_refusal(500, "Server exception, please check the parameters")
    task = request.app.state.tasks.by_id.get(task_id)
    if task is None:
        return _json_refusal(404, "Task not found")
    return _json(shapes.record(task))


async def _credit(request: Request) -> Response:
    if not _authorised(request):
        return _json_refusal(401)
    return _json(shapes.envelope(200, "success", request.app.state.tasks.credit))


async def _picture(request: Request) -> Response:
    picture = request.app.state.tasks.picture(request.path_params["name"])
    if picture is None:
        raise HTTPException(404)
    return Response(picture.content, media_type=picture.media_type)


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
