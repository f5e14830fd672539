"""Stored bytes by signed address."""

import time
from typing import Final

from starlette.requests import Request
from starlette.responses import FileResponse, Response

from nanohook import errors
from nanohook.web.parts import Parts

_TYPES: Final = {"jpg": "image/jpeg", "png": "image/png", "webp": "image/webp"}


async def media(request: Request, parts: Parts) -> Response:
    """Serve one file to whoever holds its address; a range of it if asked."""
    key = str(request.path_params["key"])
    expires_at_s = parts.tokens.read_media(request.query_params.get("token", ""), key=key, now_s=time.time())
    # Only verified pictures are ever stored, and their keys are ours: the ending tells the type.
    content_type = _TYPES.get(key.rpartition(".")[2])
    path = parts.storage.path(key)
    if content_type is None or path is None or not path.is_file():
        raise errors.NotFound("no such picture")
    answer = FileResponse(path, media_type=content_type, stat_result=path.stat())
    left_s = max(0, expires_at_s - int(time.time()))
    answer.headers.update(
        {
            "Cache-Control": f"private, max-age={left_s}",
            "X-Content-Type-Options": "nosniff",
            "Content-Security-Policy": "sandbox; default-src 'none'",
            "Referrer-Policy": "no-referrer",
        }
    )
    known = {tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")}
    if known & {"*", answer.headers["etag"]}:
        kept = ("etag", "cache-control", "last-modified")
        return Response(status_code=304, headers={name: answer.headers[name] for name in kept})
    return answer
