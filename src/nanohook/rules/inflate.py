"""
Compressed bodies, inflated by what their bytes are and within a limit.

A label (``Content-Encoding``) is a claim: some hosts compress without one, some name an encoding that they never
applied. gzip and zlib begin with marks that neither JSON nor a picture begins with, so the bytes decide. Flat in
memory: what is held is the output so far, which never passes the limit, and one piece of input.
"""

import zlib
from typing import Final

MAX_LAYERS: Final = 3
"""Compressed once by an application, once by a proxy; more is nobody's mistake."""

_GZIP: Final = b"\x1f\x8b\x08"
_BOTH: Final = 32 + zlib.MAX_WBITS
"""Let zlib read whichever of the two headers is there."""
_DEFLATED: Final = 8
_METHOD: Final = 0x0F
_CHECK: Final = 31
_NO_MEMBER: Final = b"-"
_STEP_BYTES: Final = 64 * 1024
"""Inflated at a time: a bomb is found out before it has grown by more than this."""


class TooMuch(Exception):
    """The output has more bytes than were allowed."""


class Damaged(Exception):
    """It begins as a compressed body and cannot be inflated to its end."""


def is_compressed(start: bytes) -> bool:
    """Tell whether a body that begins with *start* (three bytes are enough) is gzip or zlib."""
    if start[:3] == _GZIP:
        return True
    # RFC 1950: method 8, a window of at most 32 KiB, no dictionary, and both bytes together divisible by 31.
    if len(start) < 2 or start[0] & _METHOD != _DEFLATED or start[0] >> 4 > 7 or start[1] & 0x20:  # noqa: PLR2004
        return False
    return (start[0] << 8 | start[1]) % _CHECK == 0


class Inflater:
    """
    Inflates a body that comes in pieces; one that is not compressed passes through.

    Args:
        max_bytes: Of the output in all.
        layers: So many compressions, one inside the other, are undone.
    """

    def __init__(self, *, max_bytes: int, layers: int = MAX_LAYERS) -> None:
        self._max_bytes = max_bytes
        self._layers = layers
        self._start: bytes | None = b""
        """The first bytes, until there are enough to tell what they begin."""
        self._stream: zlib._Decompress | None = None
        self._inner: Inflater | None = None
        self._given = 0
        self._between = b""
        """What came behind a member, until it shows whether it begins another."""

    def feed(self, piece: bytes) -> bytes:
        """
        Take the next *piece*, return what comes out of it.

        Raises:
            TooMuch: More than ``max_bytes`` in all.
            Damaged: It is broken.
        """
        if self._start is not None:
            self._start += piece
            if len(self._start) < len(_GZIP):
                return b""
            piece, self._start = self._start, None
            if self._layers and is_compressed(piece):
                self._open()
        return self._pass(piece) if self._inner is None else self._inflate(piece, self._inner)

    def finish(self) -> bytes:
        """
        Say that the body has ended, return what is left of it.

        Raises:
            Damaged: It is cut off.
        """
        if self._start:
            start, self._start = self._start, None
            return self._pass(start)
        if self._inner is None:
            return b""
        if self._stream is not None:
            raise Damaged("it ends too early")
        return self._inner.finish()

    def _open(self) -> None:
        self._stream = zlib.decompressobj(_BOTH)
        self._inner = Inflater(max_bytes=self._max_bytes, layers=self._layers - 1)

    def _pass(self, piece: bytes) -> bytes:
        self._given += len(piece)
        if self._given > self._max_bytes:
            raise TooMuch
        return piece

    def _inflate(self, piece: bytes, inner: "Inflater") -> bytes:
        out = bytearray()
        while piece:
            if self._stream is None:
                # gzip may be several members, one after the other; what follows and is none is left out.
                self._between += piece
                if self._between[: len(_GZIP)] != _GZIP:
                    if not _GZIP.startswith(self._between):
                        self._between = _NO_MEMBER
                    break
                self._stream, piece, self._between = zlib.decompressobj(_BOTH), self._between, b""
            try:
                out += inner.feed(self._stream.decompress(piece, _STEP_BYTES))
            except zlib.error as exc:
                raise Damaged(str(exc)) from exc
            piece = self._stream.unconsumed_tail
            if self._stream.eof:
                piece, self._stream = self._stream.unused_data, None
        return bytes(out)


def inflated(body: bytes, *, max_bytes: int) -> bytes:
    """
    Return what *body* holds: itself if it is not compressed, else what comes out of it, layer by layer.

    Raises:
        TooMuch: That would be more than *max_bytes*.
        Damaged: It is cut off or broken.
    """
    if not is_compressed(body):
        return body
    inflater = Inflater(max_bytes=max_bytes)
    return inflater.feed(body) + inflater.finish()


def bare(body: bytes, *, max_bytes: int) -> bytes | None:
    """
    Inflate *body* as a stream without the header that would show it, which some senders take ``deflate`` for.

    Nearly anything may begin such a stream: to be tried last, on what is nothing else.

    Returns:
        ``None`` if it is none, is cut off, or holds more than *max_bytes*.
    """
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        out = stream.decompress(body, max_bytes + 1)
    except zlib.error:
        return None
    return out if stream.eof and len(out) <= max_bytes else None
