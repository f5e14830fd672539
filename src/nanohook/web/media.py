"""Stored bytes by signed address."""

import asyncio
import os
import pathlib
import re
import time
from typing import Final

from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.types import Receive, Scope, Send

from nanohook import errors
from nanohook.rules import signing
from nanohook.stores import media as stored
from nanohook.web import failures, guard
from nanohook.web.outgoing import PIECE_BYTES
from nanohook.web.parts import Parts

_RANGE: Final = re.compile(r"bytes=(?:([0-9]{1,18})-([0-9]{0,18})|-([0-9]{1,18}))")
_NO_PICTURE: Final = "no such picture"
_TYPES: Final = {"jpg": "image/jpeg", "png": "image/png", "webp": "image/webp"}


async def media(request: Request, parts: Parts) -> Response:
    """
    Serve one file to whoever holds its address; a range of it if asked.

    A picture is there as long as a job or project shows it: not while that is deleted, nor while its owner is
    disabled. What NanoBanana was sent to fetch, it may fetch.
    """
    key, token = str(request.path_params["key"]), request.query_params.get("token", "")
    expires_at_s = parts.tokens.read_media(token, key=key, now_s=time.time())
    # Only verified pictures are ever stored, and their keys are ours: the ending tells the type.
    content_type = _TYPES.get(key.rpartition(".")[2])
    path = parts.storage.path(key)
    if content_type is None or path is None:
        raise errors.NotFound(_NO_PICTURE)
    if not signing.is_for_upstream(token):
        await _check_shown(request, parts, key)
    try:
        stat = path.stat()
    except FileNotFoundError:  # removed meanwhile
        raise errors.NotFound(_NO_PICTURE) from None
    refusal = _check_range(request, size=stat.st_size)
    if refusal is not None:
        return refusal
    is_whole = request.method == "GET" and "range" not in request.headers
    kind = _SmallFile if is_whole and stat.st_size <= PIECE_BYTES else FileResponse
    answer = kind(path, media_type=content_type, stat_result=stat)
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


class _SmallFile(FileResponse):
    """A whole file of one piece, read when it is its turn to be sent: no other waiting answer holds its bytes."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - as ASGI has it
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        path, size = pathlib.Path(self.path), int(self.headers["content-length"])
        body = _cached(path, size=size)
        if body is None:
            body = await asyncio.to_thread(path.read_bytes)
        await send({"type": "http.response.body", "body": body, "more_body": False})


def _cached(path: pathlib.Path, *, size: int) -> bytes | None:
    """
    Read a file of *size* bytes from the system's cache, without waiting for a disk or a thread.

    Returns:
        ``None`` where it is not in the cache, or where a system does not tell.
    """
    if not hasattr(os, "RWF_NOWAIT"):
        return None
    body = bytearray(size)
    try:
        with path.open("rb", buffering=0) as file:
            read = os.preadv(file.fileno(), [body], 0, os.RWF_NOWAIT)
    except OSError:  # not cached, not known to the file system, or removed meanwhile
        return None
    return bytes(body) if read == size else None


async def _check_shown(request: Request, parts: Parts, key: str) -> None:
    """
    Refuse a picture that nothing shows any more.

    Raises:
        NotFound: It is deleted; or its owner is disabled, and it is no admin who looks.
    """
    is_disabled = await parts.database.read(lambda tx: stored.is_owner_disabled(tx, key))
    if is_disabled is None:
        raise errors.NotFound(_NO_PICTURE)
    if is_disabled:
        try:
            await guard.require(request, parts, guard.Who.ADMIN)
        except errors.Rejected:
            raise errors.NotFound(_NO_PICTURE) from None


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
