"""
TIFF files as far as results need them: what the first directory claims, checked before a decoder sees it.

A directory is a list of claims with offsets into the file, and libtiff and Pillow allocate what it says: strips,
tiles, tables. So everything that decides how much is bounded here. Only what libtiff decodes without help of its
rarer parts is taken.

Source: TIFF 6.0, sections 2, 7, 8 and 15; Technical Notes 1 and 2.
"""

import struct
from typing import Final

from nanohook import errors
from nanohook.rules import containers
from nanohook.rules.formats import Body

MAX_ENTRIES: Final = 512
"""Of the directory; a real one has about 20."""

MAX_TAGS_BYTES: Final = 4 * 1024 * 1024
"""Of all its values together: the longest are a colour profile and the offsets of the strips."""

MAX_PIECES: Final = 65_536
"""Strips or tiles."""

_ORDERS: Final = {b"II*\0": "<", b"MM\0*": ">"}
_TYPE_BYTES: Final = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_SHORT, _LONG = 3, 4
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _ORIENTATION = 256, 257, 258, 259, 274
_STRIP_OFFSETS, _SAMPLES, _ROWS, _PLANES = 273, 277, 278, 284
_TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS = 322, 323, 324
_READ: Final = frozenset({1, 2, 3, 4, 5, 7, 8, 32_773, 32_946})
"""None, CCITT, LZW, JPEG, deflate, PackBits."""
_QUARTER_TURNS: Final = frozenset({5, 6, 7, 8})
_MAX_BITS, _MAX_SAMPLES = 16, 6
_INLINE_BYTES: Final = 4


def read(body: Body) -> containers.Container:
    """
    Read what the first directory of *body* claims.

    Returns:
        The size after orientation, because Pillow turns a TIFF as it loads it; ``bare`` is *body*.

    Raises:
        ImageRejected: ``truncated``, ``not_an_image``.
    """
    try:
        tags = _directory(body)
        width_px, height_px = tags[_WIDTH][0], tags[_HEIGHT][0]
    except struct.error as exc:
        raise containers.truncated() from exc
    except LookupError as exc:
        raise containers.broken() from exc
    samples, bits = tags.get(_SAMPLES, [1])[0], max(tags.get(_BITS, [1]))
    if tags.get(_COMPRESSION, [1])[0] not in _READ or not 0 < bits <= _MAX_BITS or not 0 < samples <= _MAX_SAMPLES:
        raise errors.ImageRejected("the TIFF is of a kind that is not read: save it as JPEG or PNG")
    if not (width_px and height_px):
        raise containers.broken()
    buffer_bytes = _piece_bytes(tags, (width_px, height_px), (samples * bits + 7) // 8)
    is_turned = tags.get(_ORIENTATION, [1])[0] in _QUARTER_TURNS
    return containers.Container(
        kind="tiff",
        width_px=height_px if is_turned else width_px,
        height_px=width_px if is_turned else height_px,
        plain=False,
        bare=body,
        buffer_bytes=buffer_bytes,
    )


def _directory(body: Body) -> dict[int, list[int]]:
    """Read the first values of the tags that count here; all of them are checked for their length."""
    order = _ORDERS.get(body[:4])
    if order is None:
        raise errors.ImageRejected("a BigTIFF is not read: save the picture as JPEG or PNG")
    at = struct.unpack_from(order + "I", body, 4)[0]
    count = struct.unpack_from(order + "H", body, at)[0]
    if count > MAX_ENTRIES:
        raise containers.broken()
    tags: dict[int, list[int]] = {}
    total_bytes = 0
    for number in range(count):
        entry = at + 2 + 12 * number
        tag, kind, length = struct.unpack_from(order + "HHI", body, entry)
        size_bytes = length * _TYPE_BYTES.get(kind, 1)
        total_bytes += size_bytes
        start = entry + 8 if size_bytes <= _INLINE_BYTES else struct.unpack_from(order + "I", body, entry + 8)[0]
        if total_bytes > MAX_TAGS_BYTES:
            raise containers.broken()
        if start + size_bytes > len(body):
            raise containers.truncated()
        if kind in (_SHORT, _LONG) and length:
            letter = "H" if kind == _SHORT else "I"
            # Of a long list its first values, and how long it is.
            tags[tag] = [*struct.unpack_from(f"{order}{min(length, 8)}{letter}", body, start)]
            if tag in (_STRIP_OFFSETS, _TILE_OFFSETS):
                tags[tag] = [length]
    return tags


def _piece_bytes(tags: dict[int, list[int]], size: tuple[int, int], pixel_bytes: int) -> int:
    """Check that there are not too many strips or tiles, and enough; return how many bytes one of them has."""
    width_px, height_px = size
    planes = tags.get(_SAMPLES, [1])[0] if tags.get(_PLANES, [1])[0] == 2 else 1  # noqa: PLR2004 - one each
    if _TILE_OFFSETS in tags:
        piece = tags.get(_TILE_WIDTH, [0])[0], tags.get(_TILE_HEIGHT, [0])[0]
        found = tags[_TILE_OFFSETS][0]
    else:
        piece = width_px, min(tags.get(_ROWS, [height_px])[0], height_px)
        found = tags.get(_STRIP_OFFSETS, [0])[0]
    if 0 in piece:
        raise containers.broken()
    needed = -(-width_px // piece[0]) * -(-height_px // piece[1]) * planes
    if needed > MAX_PIECES or found > MAX_PIECES:
        raise errors.ImageRejected("the TIFF is of a kind that is not read: save it as JPEG or PNG")
    if found < needed:
        raise containers.truncated()
    return piece[0] * piece[1] * pixel_bytes
