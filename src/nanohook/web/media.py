"""Stored bytes by signed address."""

import re
import time
from typing import Final

from starlette.requests import Request
from starlette.responses import FileResponse, Response

from nanohook import errors
from nanohook.web import failures
from nanohook.web.parts import Parts

_RANGE: Final = re.compile(r"bytes=(?:([0-9]{1,18})-([0-9]{0,18})|-([0-9]{1,18}))")
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
    refusal = _check_range(request, size=path.stat().st_size)
    if refusal is not None:
        return refusal
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


def _check_range(request: Request, *, size: int) -> Response | None:
    """
    Let one plain range through; any other wish for a part is passed over, as if nothing but the whole were known.

    Returns:
        The refusal of a range that the file does not have.
    """
    asked = request.headers.get("range")
    if asked is None:
        return None
    found = _RANGE.fullmatch(asked.strip())
    if found is None or (found[2] and int(found[2]) < int(found[1])):
        request.scope["headers"] = [each for each in request.scope["headers"] if each[0] != b"range"]
        return None
    is_there = int(found[3]) > 0 if found[1] is None else int(found[1]) < size
    if is_there:
        return None
    return failures.problem(
        416,
        code="no_such_range",
        detail=f"the picture has {size} bytes",
        headers={"Content-Range": f"bytes */{size}"},
    )
