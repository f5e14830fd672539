"""
JPEG, PNG, WebP and GIF files as a row of blocks, read without decoding a pixel.

Three things come out of one walk: what the file claims to be (so that a bomb is refused before a decoder
sees it), which way is up, and the same file without the blocks that say something about the person who
took the picture. Decoders are only ever given that bare file: what parses EXIF, comments, embedded previews
and later frames in a library never meets a stranger's bytes.
"""

import dataclasses
import itertools
import re
import struct
from collections.abc import Iterator, Sequence
from typing import Literal

from nanohook import errors
from nanohook.rules import formats, jpeg_scans
from nanohook.rules.formats import Body

Kind = Literal["jpg", "png", "webp", "gif", "avif", "tiff"]

MOST_SCANS = 64
"""Progressive JPEGs have about ten; each scan costs the decoder a pass over all pixels."""

MOST_BLOCKS = 65_536
"""A file can be made of millions of empty blocks, each of which costs a step in Python. A PNG of 50 MiB with
the customary 8 KiB a block has 6,400."""

MOST_GIF_BLOCKS = 262_144
"""The same for GIF, whose blocks hold at most 255 bytes: 64 MiB when they are full."""

MOST_EXIF_ENTRIES = 512
"""Cameras write about 60 into the directory that holds the orientation."""

_SIGNATURES: tuple[tuple[Kind, re.Pattern[bytes]], ...] = (
    ("jpg", re.compile(rb"\xff\xd8\xff")),
    ("png", re.compile(rb"\x89PNG\r\n\x1a\n")),
    ("webp", re.compile(rb"RIFF....WEBP", re.DOTALL)),
    ("gif", re.compile(rb"GIF8[79]a")),
)

_LONGEST_END_BYTES = 64

_PIXELS = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
# The next marker in entropy-coded data: FF 00 is a stuffed byte, FF D0 to FF D7 are restarts, FF FF is fill.
_SOS, _EOI, _APP0, _APP1, _APP2, _APP14, _COM = 0xDA, 0xD9, 0xE0, 0xE1, 0xE2, 0xEE, 0xFE
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
_LONE = frozenset({0x01, *range(0xD0, 0xD9)})
_ICC, _EXIF = b"ICC_PROFILE\x00", b"Exif\x00\x00"
_PLAIN_JFIF_BYTES = 18  # more means that a preview is inside
_LENGTH_BYTES = 2  # a segment's length counts itself

_PNG_KEPT = frozenset(b"IHDR PLTE tRNS IDAT IEND iCCP sRGB gAMA cHRM cICP sBIT pHYs".split())
_PNG_PLAIN = frozenset({(8, 0), (8, 2), (8, 6)})  # bits a sample with grey, RGB, RGBA
_WEBP_KEPT = frozenset((b"VP8X", b"ICCP", b"ALPH", b"VP8 ", b"VP8L", b"ANIM"))
_WEBP_EXIF_XMP = 0x0C  # flags in VP8X
_GIF_EXTENSION, _GIF_CONTROL, _GIF_FRAME, _GIF_END = 0x21, 0xF9, 0x2C, 0x3B

_ORIENTATION, _SHORT, _ORIENTATIONS = 0x0112, 3, range(1, 9)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Container:
    """What a file says about its picture, and the file without metadata."""

    kind: Kind
    """By content, never by name."""
    width_px: int
    """As stored, before orientation."""
    height_px: int
    """As stored, before orientation."""
    orientation: int = 1
    """EXIF's 1 to 8; 5 to 8 swap width and height. 1 where EXIF is absent or broken."""
    animated: bool = False
    """More than one frame, or something behind the picture; ``bare`` has the first alone."""
    plain: bool
    """Colours that every reader of the format shows alike: 8 bit, no palette, no CMYK."""
    buffer_bytes: int = 0
    """What its decoder holds at a time beside the pixels."""
    bare: Body
    """The same pixels and ICC profile, nothing else; the very object that came in if nothing had to go."""


def read(body: Body) -> Container:
    """
    Walk *body* once, from its first byte to the end of its first frame.

    Raises:
        ImageRejected: ``empty``, ``truncated``, ``too_many_scans``, or ``not_an_image`` for a broken file.
        UnknownMediaType: None of the four types.
    """
    if not body:
        raise errors.ImageRejected("the picture has no bytes", code="empty")
    kind = next((kind for kind, signature in _SIGNATURES if signature.match(body)), None)
    if kind is None:
        raise unknown(body)
    try:
        found = {"jpg": _jpeg, "png": _png, "webp": _webp, "gif": _gif}[kind](body)
    except (struct.error, IndexError) as exc:
        raise truncated() from exc
    if not (found.width_px and found.height_px):
        raise broken()
    return found


def without_labels(jpeg: Body) -> bytes:
    """Leave out of a JPEG what names its colours and versions: only for a look at its data."""
    view = memoryview(jpeg)
    kept = [view[start:end] for marker, start, _, end in _segments(jpeg) if not _APP0 <= marker < _APP0 + 16]
    return b"".join([view[:2], *kept])


def unknown(body: Body) -> errors.UnknownMediaType:
    """What to raise for a file of none of the types that are read; it names the type if anybody knows it."""
    name = formats.name_of(body)
    what = "this is no picture of a known type" if name is None else f"{name} files are not read"
    return errors.UnknownMediaType(f"{what}: use JPEG, PNG, WebP or GIF")


def is_ended(body: Body) -> bool:
    """
    Tell whether *body* has the mark at its end that its format asks for; not whether all before it is there.

    WebP says its length at its beginning instead. Formats that are not read have no end.
    """
    kind = next((kind for kind, signature in _SIGNATURES if signature.match(body)), None)
    end = body[-_LONGEST_END_BYTES:].rstrip(b"\0")
    if kind == "webp":
        size_bytes: int = struct.unpack_from("<I", body, 4)[0]
        return len(body) >= 8 + size_bytes
    return kind is not None and end.endswith({"jpg": b"\xff\xd9", "png": b"IEND\xaeB`\x82", "gif": b";"}[kind])


def broken() -> errors.ImageRejected:
    """What to raise for a file that cannot be understood."""
    return errors.ImageRejected("the picture cannot be read: its file is broken")


def truncated() -> errors.ImageRejected:
    """What to raise for a file that ends before its picture does."""
    return errors.ImageRejected("the picture ends too early: send the whole file", code="truncated")


def _joined(body: Body, pieces: Sequence[bytes | memoryview]) -> Body:
    """Pieces are only left out or kept, so an equal length means an equal file."""
    return body if sum(map(len, pieces)) == len(body) else b"".join(pieces)


def _segments(body: Body) -> Iterator[tuple[int, int, int, int]]:
    """
    Marker, start, start of the payload and end of each JPEG segment, entropy-coded data included, up to EOI.

    A preview inside APPn is payload here, as it is to libjpeg, so its scans do not count. No EOI ends the
    row without an error: whether pixels are missing is for the decoder to say.
    """
    at = 2
    for _ in range(MOST_BLOCKS):
        found = _PIXELS.search(body, at)
        if found is None:
            return
        start, marker = found.start(), body[found.end() - 1]
        at = start + 2
        if marker == _EOI:
            yield marker, start, at, at
            return
        if marker not in _LONE:
            length = struct.unpack_from(">H", body, at)[0]
            if length < _LENGTH_BYTES:
                raise broken()
            at += length
            if at > len(body):
                raise truncated()
        end = at
        if marker == _SOS:
            after = _PIXELS.search(body, at)
            end = at = after.start() if after else len(body)
        yield marker, start, start + 4, end
    raise broken()


def _kept_in_jpeg(marker: int, payload: bytes, length: int) -> bool:
    if marker == _APP0:
        return payload.startswith(b"JFIF") and length == _PLAIN_JFIF_BYTES
    if marker == _APP2:
        return payload.startswith(_ICC)
    return marker == _APP14 or (marker != _COM and not _APP0 <= marker < _APP0 + 16)


def _jpeg(body: Body) -> Container:
    view = memoryview(body)
    pieces, frame, orientation, scans, marker, end = [view[:2]], b"", None, 0, 0, 0
    coverage = jpeg_scans.Coverage()
    for marker, start, inside, end in _segments(body):
        payload = body[inside : inside + 12]
        if marker == _SOS:
            scans += 1
            coverage.add(payload)
            if scans > MOST_SCANS:
                raise errors.ImageRejected(
                    f"the JPEG has more than {MOST_SCANS} scans: save it again as a plain one",
                    code="too_many_scans",
                )
        elif marker in _FRAMES:
            if frame:
                raise broken()
            frame, is_progressive = payload, marker in _PROGRESSIVE
            coverage.begin(body[inside + 6 : inside + 6 + 3 * payload[5]], is_progressive=is_progressive)
        elif marker == _APP1 and orientation is None and payload.startswith(_EXIF):
            orientation = exif_orientation(body[inside + len(_EXIF) : end])
        if _kept_in_jpeg(marker, payload, end - start):
            pieces.append(view[start:end])
    if not coverage.is_whole:
        raise truncated()
    height_px, width_px, components = struct.unpack_from(">xHHB", frame) if frame else (0, 0, 0)
    return Container(
        kind="jpg",
        width_px=width_px,
        height_px=height_px,
        orientation=orientation or 1,
        animated=marker == _EOI and bool(body[end:].strip(b"\0")),
        plain=components in (1, 3),
        bare=_joined(body, pieces),
    )


def _png(body: Body) -> Container:
    view, seen = memoryview(body), set[bytes]()
    pieces, orientation, at = [view[:8]], 1, 8
    width_px, height_px, depth, colour = struct.unpack_from(">IIBB", body, 16)
    for number in itertools.count():
        length, name = struct.unpack_from(">I4s", body, at)
        end = at + 12 + length
        if (number == 0 and name != b"IHDR") or number > MOST_BLOCKS:
            raise broken()
        if end > len(body):
            raise truncated()
        # A block that may come once is kept once: a decoder would inflate each of a thousand profiles.
        if name == b"IDAT" or (name in _PNG_KEPT and name not in seen):
            pieces.append(view[at:end])
        elif name == b"eXIf":
            orientation = exif_orientation(body[at + 8 : end - 4])
        seen.add(name)
        at = end
        if name == b"IEND":
            break
    return Container(
        kind="png",
        width_px=width_px,
        height_px=height_px,
        orientation=orientation,
        animated=b"acTL" in seen,
        plain=(depth, colour) in _PNG_PLAIN and b"tRNS" not in seen,
        bare=_joined(body, pieces),
    )


def _webp(body: Body) -> Container:
    end_of_file = 8 + struct.unpack_from("<I", body, 4)[0]
    if end_of_file > len(body):
        raise truncated()
    view, pieces = memoryview(body), list[bytes | memoryview]()
    first, size, orientation, frames, at = b"", (0, 0), 1, 0, 12
    for number in itertools.count():
        if at + 8 > end_of_file:
            break
        name, length = struct.unpack_from("<4sI", body, at)
        end = at + 8 + length + length % 2
        if number > MOST_BLOCKS:
            raise broken()
        if at + 8 + length > end_of_file:
            raise truncated()
        payload = body[at + 8 : at + 8 + length] if name == b"EXIF" else body[at + 8 : at + 18]
        if not first:
            first, size = name, _webp_size(name, payload)
        frames += name == b"ANMF"
        if name == b"EXIF":
            orientation = exif_orientation(payload.removeprefix(_EXIF))
        elif name == b"VP8X" and payload[0] & _WEBP_EXIF_XMP:
            pieces.append(body[at : at + 8] + bytes([payload[0] & ~_WEBP_EXIF_XMP]) + body[at + 9 : end])
        elif name in _WEBP_KEPT or (name == b"ANMF" and frames == 1):
            pieces.append(view[at:end])
        at = end
    length = 4 + sum(map(len, pieces))
    clean = 8 + length == len(body)
    return Container(
        kind="webp",
        width_px=size[0],
        height_px=size[1],
        orientation=orientation,
        animated=frames > 0,
        plain=frames == 0,
        bare=body if clean else b"RIFF" + struct.pack("<I", length) + b"WEBP" + b"".join(pieces),
    )


def _webp_size(name: bytes, payload: bytes) -> tuple[int, int]:
    """The canvas: what libwebp allocates as soon as a decoder is made. (0, 0) for anything unknown."""
    if name == b"VP8X":
        width, height = (int.from_bytes(payload[at : at + 3], "little") + 1 for at in (4, 7))
        return width, height
    if name == b"VP8 " and payload[3:6] == b"\x9d\x01\x2a":
        width, height = struct.unpack_from("<HH", payload, 6)
        return width & 0x3FFF, height & 0x3FFF
    if name == b"VP8L" and payload[:1] == b"\x2f":
        bits = struct.unpack_from("<I", payload, 1)[0]
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return 0, 0


def _gif(body: Body) -> Container:
    width_px, height_px, flags = struct.unpack_from("<HHB", body, 6)
    at = 13 + _gif_table_bytes(flags)
    view = memoryview(body)
    pieces, control, blocks = list[bytes | memoryview]([view[:at]]), b"", 0
    while body[at] == _GIF_EXTENSION:
        end, blocks = _gif_end_of_data(body, at + 2, blocks)
        if body[at + 1] == _GIF_CONTROL:
            control = body[at:end]  # which colour is transparent; the last one belongs to the frame
        at = end
    if body[at] != _GIF_FRAME:
        raise broken()
    left, top, width, height, flags = struct.unpack_from("<HHHHB", body, at + 1)
    end, _ = _gif_end_of_data(body, at + 11 + _gif_table_bytes(flags), 0)
    pieces += [control, view[at:end], bytes([_GIF_END])]
    return Container(
        kind="gif",
        width_px=max(width_px, left + width),  # a frame may be larger than the screen: decoders grow it
        height_px=max(height_px, top + height),
        animated=body[end : end + 1] not in (bytes([_GIF_END]), b""),
        plain=False,
        bare=_joined(body, pieces),
    )


def _gif_table_bytes(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _gif_end_of_data(body: Body, at: int, blocks: int) -> tuple[int, int]:
    """Where a chain of sub-blocks ends, and how many blocks were walked so far."""
    while body[at]:
        at += body[at] + 1
        blocks += 1
        if blocks > MOST_GIF_BLOCKS:
            raise broken()
    return at + 1, blocks


def exif_orientation(tiff: bytes) -> int:
    """
    Read the orientation tag of EXIF's first directory; whatever is broken there means upright.

    Source: TIFF 6.0, section 2; Exif 2.32, 4.6.4 (tag 0x0112, SHORT).
    """
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return 1
    try:
        at = struct.unpack_from(order + "I", tiff, 4)[0]
        count = struct.unpack_from(order + "H", tiff, at)[0]
        for number in range(min(count, MOST_EXIF_ENTRIES)):
            tag, kind, _, value = struct.unpack_from(order + "HHIH", tiff, at + 2 + 12 * number)
            if (tag, kind) == (_ORIENTATION, _SHORT):
                return value if value in _ORIENTATIONS else 1
    except struct.error:
        return 1
    return 1
