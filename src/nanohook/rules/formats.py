"""Names of files that are no common pictures, told by their first bytes, so that a refusal can say what came."""

import mmap
import re
from typing import Final

Body = bytes | mmap.mmap
"""A whole file: in memory, or mapped from where it lies."""

_START_BYTES: Final = 1024

_BY_START: Final = (
    ("JPEG XL", re.compile(rb"\xff\x0a|\0\0\0\x0cJXL \r\n\x87\n")),
    ("JPEG 2000", re.compile(rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51")),
    ("TIFF", re.compile(rb"II\*\0|MM\0\*|II\+\0|MM\0\+")),
    ("BMP", re.compile(rb"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0", re.DOTALL)),
    ("Windows icon", re.compile(rb"\0\0[\x01\x02]\0[^\0]\0")),
    ("Photoshop", re.compile(rb"8BPS")),
    ("PDF", re.compile(rb"%PDF-")),
    ("PostScript", re.compile(rb"%!PS|\xc5\xd0\xd3\xc6")),
    ("WebM video", re.compile(rb"\x1aE\xdf\xa3")),
    ("AVI video", re.compile(rb"RIFF....AVI ", re.DOTALL)),
    ("ZIP", re.compile(rb"PK(?:\x03\x04|\x05\x06)")),
    ("gzip", re.compile(rb"\x1f\x8b\x08")),
)
_BRAND = re.compile(rb"....ftyp(....)", re.DOTALL)
_BRANDS: Final = {
    "AVIF": frozenset({b"avif", b"avis"}),
    "HEIC": frozenset(
        {
            b"heic",
            b"heix",
            b"heim",
            b"heis",
            b"hevc",
            b"hevx",
            b"hevm",
            b"hevs",
            b"mif1",
            b"msf1",
            b"mif2",
            b"miaf",
        }
    ),
    "Canon raw": frozenset({b"crx "}),
    "MP4 video": frozenset(),
}
# What a text begins with, once blanks, byte order mark and comments are passed over.
_BY_WORD: Final = (
    ("SVG", re.compile(rb"<svg[\s>]", re.IGNORECASE)),
    ("HTML", re.compile(rb"<(?:!doctype\s+html|html|head|body|script|title|meta|h1|p)[\s>]", re.IGNORECASE)),
    ("XML", re.compile(rb"<\?xml|<[a-z][\w:.-]*[\s>/]", re.IGNORECASE)),
    ("JSON", re.compile(rb"\{\s*[\"}]|\[\s*[\[{\"\]\d]")),
)
_BLANK = re.compile(
    rb"(?:\xef\xbb\xbf|\s|<!--.*?-->|<\?xml.*?\?>|<!doctype\s+svg[^>]*>)*", re.DOTALL | re.IGNORECASE
)


def name_of(body: Body) -> str | None:
    """
    Tell what *body* is in the words people use, if it is something well known that is no JPEG, PNG, WebP or GIF.

    Returns:
        A name such as ``HEIC``, ``TIFF`` or ``HTML``; ``None`` for what nobody knows.
    """
    start = body[:_START_BYTES]
    for name, pattern in _BY_START:
        if pattern.match(start):
            return name
    return _media_name(start) or _text_name(start)


def _media_name(start: bytes) -> str | None:
    """Name a file of boxes (ISO/IEC 14496-12) by its brand; one that is compatible with AVIF counts as AVIF."""
    found = _BRAND.match(start)
    if found is None:
        return None
    size = int.from_bytes(start[:4], "big")
    brands = {found[1], *(start[at : at + 4] for at in range(16, min(size, len(start)), 4))}
    return next((name for name, known in _BRANDS.items() if not known.isdisjoint(brands)), "MP4 video")


def _text_name(start: bytes) -> str | None:
    skipped = _BLANK.match(start)
    at = skipped.end() if skipped else 0
    if at and (b"<!doctype svg" in start[:at].lower()):
        return "SVG"
    found = next((name for name, pattern in _BY_WORD if pattern.match(start, at)), None)
    return found or ("XML" if start[:at].lstrip(b"\xef\xbb\xbf \r\n\t").startswith(b"<?xml") else None)
