"""
Answers on their way out, bounded in bytes for each person and for everybody: readers may be slow.

A short answer is handed to the server whole. A longer one goes piece by piece, each when the reader has taken most
of what is before it (back-pressure); until then all of it counts.
"""

import collections
from typing import Final

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from nanohook import errors

PIECE_BYTES: Final = 64 * 1024
"""What the server keeps for a connection before it makes its writer wait; a shorter answer is not counted."""
MAX_PAGE_BYTES: Final = 1024 * 1024
"""One that would be larger has fewer rows, and a cursor."""
MAX_BYTES_OF_ONE: Final = 8 * 1024 * 1024
"""Eight pages of the greatest size; a browser has six connections."""
MAX_BYTES: Final = 32 * 1024 * 1024
_COME_BACK_S: Final = 2


class Outgoing:
    """Counts the bytes of longer answers that have not been taken yet; on the event loop alone."""

    def __init__(self) -> None:
        self._of: collections.Counter[str] = collections.Counter()

    @property
    def size_bytes(self) -> int:
        """Of everybody together."""
        return self._of.total()

    def answer(self, owner_id: str, body: bytes, *, media_type: str = "application/json") -> Response:
        """
        Build the answer to *owner_id*.

        Raises:
            TooMany: This person has not read enough of the answers before.
            Unavailable: Everybody together has not.
        """
        if len(body) <= PIECE_BYTES:
            return Response(body, media_type=media_type)
        self.check(owner_id, size_bytes=len(body))
        return _Piecewise(self, owner_id, body, media_type=media_type)

    def check(self, owner_id: str, *, size_bytes: int = MAX_PAGE_BYTES) -> None:
        """
        Check that an answer of *size_bytes* to *owner_id* would be taken: before it is read and rendered in vain.

        Raises:
            TooMany: This person has not read enough of the answers before.
            Unavailable: Everybody together has not.
        """
        if self._of[owner_id] + size_bytes > MAX_BYTES_OF_ONE:
            raise errors.TooMany(
                "read the answers that are on their way first", code="too_many_unread", retry_after_s=_COME_BACK_S
            )
        if self.size_bytes + size_bytes > MAX_BYTES:
            raise errors.Unavailable("too many answers are on their way, try again", retry_after_s=_COME_BACK_S)

    def begin(self, owner_id: str, size_bytes: int) -> None:
        """Count an answer."""
        self._of[owner_id] += size_bytes

    def end(self, owner_id: str, size_bytes: int) -> None:
        """Count it no more."""
        self._of[owner_id] -= size_bytes
        if not self._of[owner_id]:
            del self._of[owner_id]


class _Piecewise(Response):
    """An answer that is counted for as long as it takes."""

    def __init__(self, outgoing: Outgoing, owner_id: str, body: bytes, *, media_type: str) -> None:
        super().__init__(body, media_type=media_type)
        self._outgoing = outgoing
        self._owner_id = owner_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - as ASGI has it
        body = memoryview(self.body)
        self._outgoing.begin(self._owner_id, len(body))
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            for start in range(0, len(body), PIECE_BYTES):
                piece = bytes(body[start : start + PIECE_BYTES])
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            # The server waits with it until most of the last piece is taken, too.
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            self._outgoing.end(self._owner_id, len(body))
