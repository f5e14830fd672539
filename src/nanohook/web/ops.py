"""For machines that watch: health, readiness, figures."""

import contextlib
import hmac

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from nanohook import errors
from nanohook.database import Lane
from nanohook.stores import delivery_log
from nanohook.web import guard
from nanohook.web.answers import json_answer
from nanohook.web.parts import Parts


async def ready(_request: Request, parts: Parts) -> Response:
    """Answer 200 while this process can take callbacks; 503 with the reason otherwise."""
    await parts.readiness.check()
    jump_s = parts.readiness.clock_jump_s
    told = {} if jump_s is None else {"clock_jumped_s": round(jump_s, 1)}
    return json_answer({"status": "ready", **told})


async def health(_request: Request, _parts: Parts) -> Response:
    """Answer as long as the process does."""
    return json_answer({"status": "ok"})


async def metrics(request: Request, parts: Parts) -> Response:
    """Give the figures to who holds the token, or to an admin."""
    token = parts.settings.metrics_token
    given = request.headers.get("authorization", "").encode()
    if token is None or not hmac.compare_digest(given, b"Bearer " + token.get_secret_value().encode()):
        await guard.require(request, parts, guard.Who.ADMIN)
    parts.metrics.streams.set(len(parts.hub))
    parts.metrics.inbox.set(parts.database.waiting)
    parts.metrics.rate_checks = parts.rates.counts
    with contextlib.suppress(errors.Unavailable):  # the rest is told all the same
        parts.metrics.deliveries_waiting = await parts.database.read(delivery_log.waiting, lane=Lane.HOUSEKEEPING)
    return PlainTextResponse(
        parts.metrics.text(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
    )
