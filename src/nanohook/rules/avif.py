"""
AVIF files as a tree of boxes, as far as it takes to know how large a picture they claim to hold.

Source: ISO/IEC 14496-12 (boxes), ISO/IEC 23008-12 (``ispe``), AV1 Image File Format 1.1.
"""

import struct
from collections.abc import Iterator
from typing import Final

from nanohook.rules import containers
from nanohook.rules.formats import Body

MAX_BOXES: Final = 4_096
"""In all; a picture of many tiles has some hundred."""

_INSIDE: Final = {b"meta": 4, b"iprp": 0, b"ipco": 0, b"iinf": 6, b"moov": 0, b"trak": 0}
"""Boxes that are walked into, and how many bytes of theirs come before the first inner one."""
_LARGE, _TO_THE_END = 1, 0
_HEAD_BYTES: Final = 8


def read(body: Body) -> containers.Container:
    """
    Read the largest size that *body* claims: of the picture, its alpha, its tiles and its tracks.

    The picture's own cannot be larger. Which of them it is, the decoder says, and it must not find another.

    Raises:
        ImageRejected: ``truncated``, ``not_an_image``.
    """
    sizes, metadata = [], []
    try:
        for name, start, end in _boxes(body):
            if name == b"infe" and (at := _exif_type_at(body, start)):
                metadata.append(at)
            if name == b"ispe":
                sizes.append(struct.unpack_from(">II", body, start + 4))
            elif name == b"tkhd":
                width, height = struct.unpack_from(">II", body, end - 8)
                sizes.append((width >> 16, height >> 16))
    except (struct.error, IndexError) as exc:
        raise containers.truncated() from exc
    if not sizes:
        raise containers.broken()
    width_px, height_px = map(max, zip(*sizes, strict=True))
    if not (width_px and height_px):
        raise containers.broken()
    return containers.Container(
        kind="avif",
        width_px=width_px,
        height_px=height_px,
        plain=False,
        bare=_without(body, metadata),
    )


def _exif_type_at(body: Body, start: int) -> int:
    """Find where an item's type says that it is EXIF; 0 where it is something else."""
    at = start + {2: 8, 3: 10}.get(body[start], 0)
    return at if at > start and body[at : at + 4] == b"Exif" else 0


def _without(body: Body, metadata: list[int]) -> Body:
    """Make EXIF an item of no known type: what parses it in a library never meets a stranger's bytes."""
    if not metadata:
        return body
    bare = bytearray(body)
    for at in metadata:
        bare[at : at + 4] = b"none"
    return bytes(bare)


def _boxes(body: Body) -> Iterator[tuple[bytes, int, int]]:
    """Name, start of the payload and end of each box."""
    open_ends = [(0, len(body))]
    for _ in range(MAX_BOXES):
        while open_ends and open_ends[-1][0] >= open_ends[-1][1]:
            open_ends.pop()
        if not open_ends:
            return
        at, end_of_outer = open_ends.pop()
        if not open_ends and end_of_outer - at < _HEAD_BYTES:
            return  # some bytes behind the last box
        size, name = struct.unpack_from(">I4s", body, at)
        start = at + _HEAD_BYTES
        if size == _LARGE:
            size, start = struct.unpack_from(">Q", body, start)[0], at + 16
        end = end_of_outer if size == _TO_THE_END else at + size
        if end < start:
            raise containers.broken()
        if end > end_of_outer:
            raise containers.truncated()
        yield name, start, end
        open_ends.append((end, end_of_outer))
        if name in _INSIDE:
            wide = 2 if name == b"iinf" and body[start] else 0  # its later versions count in four bytes
            open_ends.append((start + _INSIDE[name] + wide, end))
    raise containers.broken()
