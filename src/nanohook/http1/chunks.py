"""A body in chunks, and where it ends."""

from typing import Final

import httptools

from nanohook.http1.head import Refused

_HEAD: Final = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
_END: Final = b"\r\n\r\n"
_FRAMING_BYTES: Final = 64 * 1024
"""What sizes, extensions and trailers may take, and eight times the body beside: chunks of one byte are legal."""


class Chunks:
    """
    Decodes a body.

    Extensions are ignored. Trailers are dropped: they could pretend to be any header.
    """

    __slots__ = ("_body", "_body_bytes", "_framing_bytes", "_parser", "_tail", "is_whole")

    def __init__(self) -> None:
        self.is_whole = False
        self._body = bytearray()
        self._body_bytes = self._framing_bytes = 0
        self._tail = b""
        """The newest bytes, which may be the beginning of an empty line."""
        self._parser = httptools.HttpRequestParser(self)
        self._parser.feed_data(_HEAD)

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """
        Take what came; return the body in it, and what does not belong to the body any more.

        Raises:
            Refused: It is not in chunks, or holds next to nothing but their frames.
        """
        # The parser does not tell where it ended. A body ends at an empty line, and few have another within.
        joined = self._tail + data
        end = joined.find(_END)
        part = data if end < 0 else data[: end + len(_END) - len(self._tail)]
        self._tail = joined[1 - len(_END) :] if end < 0 else b""
        try:
            self._parser.feed_data(part)
        except httptools.HttpParserError:
            raise Refused(400, "bad_request", "the chunks of the body are not those of RFC 9112") from None
        body, self._body = bytes(self._body), bytearray()
        self._body_bytes += len(body)
        self._framing_bytes += len(part) - len(body)
        if self._framing_bytes > _FRAMING_BYTES + 8 * self._body_bytes:
            raise Refused(400, "bad_request", "the chunks of the body hold next to nothing")
        return body, data[len(part) :]

    def on_body(self, body: bytes) -> None:
        """Collect part of the body."""
        self._body += body

    def on_message_complete(self) -> None:
        """Note the end of the body."""
        self.is_whole = True
