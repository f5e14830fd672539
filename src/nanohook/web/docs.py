"""The API's document, and Swagger UI to read it with; nothing of it comes from another host."""

import functools
import hashlib
import os
from typing import Final

import orjson
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from nanohook.web import credentials, guard, openapi, operations
from nanohook.web.parts import Parts, parts_of

ASSETS: Final = "/static/swagger-ui"
_PACKAGE: Final = ("swagger_ui_bundle", "vendor/swagger-ui-5.31.0")
_NAMES: Final = frozenset({"swagger-ui.css", "swagger-ui-bundle.js"})
_PAGE: Final = f"""<!doctype html>
<html lang="en">
<head>
  <meta charset="utf-8">
  <meta name="viewport" content="width=device-width, initial-scale=1">
  <title>API · nanohook</title>
  <link rel="icon" href="/static/icon.svg" type="image/svg+xml">
  <link rel="stylesheet" href="{ASSETS}/swagger-ui.css">
</head>
<body>
  <div id="docs" data-document="/api/openapi.json"></div>
  <noscript>This page needs JavaScript; the document itself is <a href="/api/openapi.json">here</a>.</noscript>
  <script src="{ASSETS}/swagger-ui-bundle.js"></script>
  <script src="/static/docs.js"></script>
</body>
</html>
"""
_PAGE_HEADERS: Final = {
    # Swagger UI writes styles into its markup; its scripts are files.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
        "connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


async def document(request: Request, parts: Parts) -> Response:
    """Give the OpenAPI document; 304 to who has it already."""
    body, tag = written(credentials.session_cookie(parts))
    headers = {"ETag": tag, "Cache-Control": "no-cache"}
    known = {each.strip().removeprefix("W/") for each in request.headers.get("if-none-match", "").split(",")}
    if known & {"*", tag}:
        return Response(status_code=304, headers=headers)
    return Response(body, headers=headers, media_type="application/json")


async def page(_request: Request, _parts: Parts) -> Response:
    """Show the document to people, who may try it with their own key or session."""
    return HTMLResponse(_PAGE, headers=_PAGE_HEADERS)


@functools.lru_cache(maxsize=1)
def written(session_cookie: str = credentials.FORMER_COOKIE) -> tuple[bytes, str]:
    """Write the document, once a process; with its ``ETag``."""
    built = openapi.build(
        operations.ALL,
        info=operations.INFO,
        tags=operations.TAGS,
        webhooks=operations.WEBHOOKS,
        session_cookie=session_cookie,
    )
    body = orjson.dumps(built)
    return body, f'"{hashlib.sha256(body).hexdigest()[:32]}"'


class Assets(StaticFiles):
    """The two files of Swagger UI that the page needs, from the package that carries them."""

    def __init__(self) -> None:
        super().__init__(packages=[_PACKAGE])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        guard.check_host(Request(scope), parts_of(scope))
        await super().__call__(scope, receive, send)

    def lookup_path(self, path: str) -> tuple[str, os.stat_result | None]:
        # The package has more: pages of its own, which would run here without our policy, and maps of megabytes.
        return super().lookup_path(path) if path in _NAMES else ("", None)
