"""
Compressed bodies, inflated by what their bytes are and within a limit.

A label (``Content-Encoding``) is a claim: some hosts compress without one, some name an encoding that they never
applied. gzip and zlib begin with marks that neither JSON nor a picture begins with, so the bytes decide. Flat in
memory: output comes in pieces, and what a layer of compression holds meanwhile is one piece, however much there is
inside of it.
"""

import itertools
import zlib
from collections.abc import Iterator
from typing import Final

MAX_LAYERS: Final = 3
"""Compressed once by an application, once by a proxy; more is nobody's mistake."""

MAX_MEMBERS: Final = 64
"""Of one layer. Tools that pack in pieces make a few; each costs a stream, and an empty one has twenty bytes."""

_GZIP: Final = b"\x1f\x8b\x08"
_BOTH: Final = 32 + zlib.MAX_WBITS
"""Let zlib read whichever of the two headers is there."""
_DEFLATED: Final = 8
_METHOD: Final = 0x0F
_CHECK: Final = 31
_NO_MEMBER: Final = b"-"
MAX_PIECE_BYTES: Final = 64 * 1024
"""Given at a time: a bomb is found out before it has grown by more than this."""
_STEP_BYTES: Final = 1024
"""Of the input at a time: what is left behind a member is copied, and members may have twenty bytes."""


class TooMuch(Exception):
    """It has more bytes than are allowed, packed or unpacked."""


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
    Inflates a body that comes in pieces, layer by layer; one that is not compressed passes through.

    What its methods return has to be read to the end before the next call.

    Args:
        max_bytes: Of the output in all; and of what goes into each layer, because a stream may go on for ever
            without making a byte.
    """

    def __init__(self, *, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._layers = [_Layer() for _ in range(MAX_LAYERS)]
        self._passed = [0] * (MAX_LAYERS + 1)
        """Bytes that went into each layer, and at the end those that came out of the last."""

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """
        Take the next *piece*, yield what comes out of it, at most ``MAX_PIECE_BYTES`` at a time.

        Raises:
            TooMuch: More than ``max_bytes`` in all.
            Damaged: It is broken.
        """
        return self._through(piece, 0)

    def finish(self) -> Iterator[bytes]:
        """
        Say that the body has ended, yield what is left of it.

        Raises:
            TooMuch: More than ``max_bytes`` in all.
            Damaged: It is cut off.
        """
        for depth, layer in enumerate(self._layers, start=1):
            yield from self._through(layer.finish(), depth)

    def _through(self, piece: bytes, depth: int) -> Iterator[bytes]:
        self._passed[depth] += len(piece)
        if self._passed[depth] > self._max_bytes:
            raise TooMuch
        if depth < MAX_LAYERS:
            for out in self._layers[depth].feed(piece):
                yield from self._through(out, depth + 1)
        elif piece:
            yield piece


class _Layer:
    """One compression that is undone, if there is one."""

    def __init__(self) -> None:
        self._start: bytes | None = b""
        """The first bytes, until there are enough to tell what they begin."""
        self._stream: zlib._Decompress | None = None
        self._is_plain = False
        self._members = 1
        self._between = b""
        """What came behind a member, until it shows whether it begins another."""

    def feed(self, piece: bytes) -> Iterator[bytes]:
        if self._start is not None:
            self._start += piece
            if len(self._start) < len(_GZIP):
                return
            piece, self._start = self._start, None
            self._is_plain = not is_compressed(piece)
            self._stream = None if self._is_plain else zlib.decompressobj(_BOTH)
        size_bytes = MAX_PIECE_BYTES if self._is_plain else _STEP_BYTES
        for at in range(0, len(piece), size_bytes):
            step = piece[at : at + size_bytes]
            if self._is_plain:
                yield step
            else:
                yield from self._inflate(step)

    def finish(self) -> bytes:
        if self._stream is not None:
            raise Damaged("it ends too early")
        return self._start or b""

    def _inflate(self, piece: bytes) -> Iterator[bytes]:
        while piece:
            if self._stream is None:
                # gzip may be several members, one after the other; what follows and is none is left out.
                self._between += piece
                if self._between[: len(_GZIP)] != _GZIP:
                    if not _GZIP.startswith(self._between):
                        self._between = _NO_MEMBER
                    return
                self._members += 1
                if self._members > MAX_MEMBERS:
                    raise Damaged("it has too many members")
                self._stream, piece, self._between = zlib.decompressobj(_BOTH), self._between, b""
            try:
                out = self._stream.decompress(piece, MAX_PIECE_BYTES)
            except zlib.error as exc:
                raise Damaged(str(exc)) from exc
            piece = self._stream.unconsumed_tail
            if self._stream.eof:
                piece, self._stream = self._stream.unused_data, None
            yield out


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
    out = bytearray()
    for piece in itertools.chain(inflater.feed(body), inflater.finish()):
        out += piece
    return bytes(out)


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
