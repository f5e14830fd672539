"""Errors as answers: RFC 9457 problem JSON. The one place where an error has an HTTP status."""

import logging
import math
from collections.abc import Callable, Mapping
from typing import Any, Final

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from nanohook import errors

logger = logging.getLogger(__name__)

STATUS: Final[dict[type[errors.NanohookError], int]] = {
    errors.Unauthenticated: 401,
    errors.SignatureInvalid: 401,
    errors.TooPoor: 402,
    errors.Forbidden: 403,
    errors.NotFound: 404,
    errors.TooSlow: 408,
    errors.Conflict: 409,
    errors.LeaseLost: 409,
    errors.TooLarge: 413,
    errors.UnknownMediaType: 415,
    errors.Invalid: 422,
    errors.TooMany: 429,
    errors.Rejected: 400,
    errors.UpstreamFailed: 502,
    errors.DiskFull: 507,
    errors.StorageFailed: 503,
    errors.Unavailable: 503,
    errors.ConfigError: 500,
    errors.NanohookError: 500,
}
"""Status by class; a subclass without its own has its nearest ancestor's."""

_TITLES: Final = {
    400: "Bad request",
    401: "Not signed in",
    402: "Not enough credits",
    403: "Forbidden",
    404: "Not found",
    405: "Method not allowed",
    408: "Too slow",
    409: "Conflict",
    413: "Too large",
    415: "Unknown media type",
    416: "No such range",
    422: "Cannot be used",
    429: "Too many requests",
    500: "Internal error",
    502: "Upstream failed",
    503: "Unavailable",
    507: "Disk full",
}
_CODES: Final = {404: "not_found", 405: "method_not_allowed", 413: "too_large", 400: "bad_request"}


def status_of(exc: errors.NanohookError) -> int:
    """Find the HTTP status of an error by its ancestry."""
    return next(STATUS[kind] for kind in type(exc).__mro__ if kind in STATUS)


def problem(
    status: int,
    *,
    code: str,
    detail: str,
    fields: dict[str, str] | None = None,
    codes: Mapping[str, str] | None = None,
    error: str | None = None,
    more: Mapping[str, str] | None = None,
    headers: dict[str, str] | None = None,
) -> Response:
    """Build an answer of problem JSON; nothing in it comes from the request's values."""
    body: dict[str, Any] = {
        "type": "about:blank",
        "title": _TITLES.get(status, "Error"),
        "status": status,
        "detail": detail,
        "code": code,
    }
    if error is not None:
        body["error"] = error
    body.update(more or {})
    if fields:
        known = codes or {}
        body["errors"] = [
            {"field": name, "message": text, **({"code": known[name]} if name in known else {})}
            for name, text in fields.items()
        ]
    return Response(orjson.dumps(body), status, headers=headers, media_type="application/problem+json")


def told(
    exc: errors.NanohookError, *, worded: Callable[[errors.NanohookError, int], str] | None = None
) -> Response:
    """Turn one of our errors into its answer, with a line in the log if it is not the caller's fault."""
    status = status_of(exc)
    if status >= 500:  # noqa: PLR2004
        logger.warning("request.failed", extra={"reason": type(exc).__name__, "detail": str(exc)})
    return answer(exc, error=None if worded is None else worded(exc, status))


def answer(exc: errors.NanohookError, *, error: str | None = None) -> Response:
    """Turn one of our errors into its answer; *error* is the name that some callers know it by."""
    status = status_of(exc)
    headers: dict[str, str] = {}
    if isinstance(exc, (errors.TooMany, errors.Unavailable)):
        headers["Retry-After"] = str(max(1, math.ceil(exc.retry_after_s)))
    elif isinstance(exc, errors.StorageFailed):
        headers["Retry-After"] = "5"
    elif isinstance(exc, errors.Unauthenticated):
        headers["WWW-Authenticate"] = "Bearer"
    fields, codes = (exc.fields, exc.codes) if isinstance(exc, errors.Invalid) else (None, None)
    # Whoever signs is no person who could sign in.
    more = {"title": "Signature refused"} if isinstance(exc, errors.SignatureInvalid) else None
    return problem(
        status, code=exc.code, detail=str(exc), fields=fields, codes=codes, error=error, more=more, headers=headers
    )


async def on_ours(_request: Request, exc: Exception) -> Response:
    """Answer an error that was raised on purpose."""
    if not isinstance(exc, errors.NanohookError):
        raise exc
    return told(exc)


async def on_http(request: Request, exc: Exception) -> Response:
    """Answer what the router refuses: unknown path, wrong method, body over the route's limit."""
    if not isinstance(exc, HTTPException):
        raise exc
    status = exc.status_code
    headers = dict(exc.headers or {})
    if status == 405:  # noqa: PLR2004
        headers["Allow"] = ", ".join(_allowed(request))
    return problem(
        status,
        code=_CODES.get(status, "rejected"),
        detail=_TITLES.get(status, "The request cannot be answered"),
        headers=headers,
    )


def _allowed(request: Request) -> list[str]:
    """List every method of this path: the table has a line for each, the router names only the first."""
    path = request.scope["path"]
    routes = [route for route in request.app.router.routes if isinstance(route, Route)]
    lines = [route for route in routes if route.path_regex.match(path)]
    # A word of ours in the place of an id is no id.
    exact = [route for route in lines if route.path == path]
    return sorted({method for route in exact or lines for method in route.methods or ()})


async def on_bug(_request: Request, _exc: Exception) -> Response:
    """Answer a crash inside the router."""
    return bug()


def bug() -> Response:
    """Answer what nobody expected; the log has the exception, the caller only its request id."""
    return problem(500, code="internal", detail="Something went wrong on our side")
