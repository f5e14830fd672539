"""
JSON from outside, read strictly first and then with patience: one reader for everybody's bodies and answers.

A paid picture must not be lost to one odd byte in a field that nobody needs. What the strict reader refuses is
inflated if it is compressed, decoded by its byte order mark, with U+FFFD in place of what is no text, and parsed
by a parser that takes control characters in strings. Bounded in size before, in depth by the parsers, and so in
time: a megabyte takes about a tenth of a second.

Source: RFC 8259, section 8.1; RFC 1950 to 1952.
"""

import contextlib
import json
import math
import re
from collections.abc import Sequence
from typing import Final, NamedTuple

import orjson

from nanohook.rules import inflate

MAX_BYTES: Final = 1024 * 1024
"""Of a body, and of what comes out of a compressed one."""
MAX_INTEGER_DIGITS: Final = 400
"""More have no use as a number; turning them into one takes time that grows with their square."""

# UTF-32 first: its little-endian mark begins with that of UTF-16.
_MARKS: Final = (
    (b"\xff\xfe\0\0", "utf-32-le"),
    (b"\0\0\xfe\xff", "utf-32-be"),
    (b"\xff\xfe", "utf-16-le"),
    (b"\xfe\xff", "utf-16-be"),
    (b"\xef\xbb\xbf", "utf-8"),
)
# Behind an even number of backslashes, which the first group holds: a pair of surrogates; or half of one, or NUL,
# which the second group holds.
_ESCAPE: Final = re.compile(
    r"(?<!\\)((?:\\\\)*)"
    r"(?:\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(\\u(?:[dD][89a-fA-F][0-9a-fA-F]{2}|0000)))"
)
_LONG: Final = re.compile(rf"[0-9]{{{MAX_INTEGER_DIGITS}}}")
_LONE: Final = re.compile(r"\\u(?:[dD][89a-fA-F]|0000)")
_PIECE_BYTES: Final = 256
MAX_SCRIPT_BYTES: Final = 64 * 1024
"""A body that may be text of another script: each that is tried is read once more."""
_SCRIPTS: Final = ("gb18030", "cp932", "big5", "cp949")
_SPACE: Final = " \t\r\n\0\ufeff"


class NotJson(ValueError):
    """No reading makes JSON of it."""


class TooLarge(ValueError):
    """It is compressed, and holds more than ``MAX_BYTES``."""


class Parsed(NamedTuple):
    """A value, and what had to be mended for it."""

    value: object
    """As ``json`` has it; if anything was mended, no string in it holds a lone surrogate."""
    repairs: tuple[str, ...] = ()
    """In words, for the log of deliveries; empty for JSON as the standard has it."""


def parse(body: bytes, *, max_bytes: int = MAX_BYTES) -> Parsed:
    """
    Read *body*.

    Raises:
        NotJson: Not JSON however patiently it is read, or nested too deep.
        TooLarge: It inflates to more than *max_bytes*.
    """
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        return _patiently(body, max_bytes)
    return _unwrapped(value) if isinstance(value, str) else Parsed(value=value)


def inflated(body: bytes, *, max_bytes: int = MAX_BYTES) -> bytes:
    """
    Return *body* as it was before somebody compressed it; itself if it is not compressed, or damaged.

    Raises:
        TooLarge: That is more than *max_bytes*.
    """
    try:
        return inflate.inflated(body, max_bytes=max_bytes)
    except inflate.TooMuch:
        raise TooLarge(f"the body inflates to more than {max_bytes:,} bytes") from None
    except inflate.Damaged:
        return body


def readable(body: bytes, *, max_bytes: int = MAX_BYTES) -> str:
    """Write *body* as text for people: inflated as far as it goes, with U+FFFD in place of what is no text."""
    if not inflate.is_compressed(body):
        bare = None if _is_utf8(body) else inflate.bare(body, max_bytes=max_bytes)
        return _decoded(bare or body)[0]
    inflater, out = inflate.Inflater(max_bytes=max_bytes), bytearray()
    try:
        # A piece at a time: what comes before the damage, or the limit, is shown.
        for at in range(0, len(body), _PIECE_BYTES):
            for piece in inflater.feed(body[at : at + _PIECE_BYTES]):
                out += piece
    except (inflate.Damaged, inflate.TooMuch):
        return _decoded(bytes(out))[0] + "\ufffd"
    return _decoded(bytes(out))[0]


def _patiently(body: bytes, max_bytes: int) -> Parsed:
    try:
        whole = inflate.inflated(body, max_bytes=max_bytes)
    except inflate.TooMuch:
        raise TooLarge(f"the body inflates to more than {max_bytes:,} bytes") from None
    except inflate.Damaged:
        raise NotJson("the body is compressed, and damaged") from None
    if whole is not body:
        return _mended(whole, ("compressed",))
    try:
        return _mended(body, ())
    except NotJson:
        # The rarest of all, and nearly anything can be taken for it.
        bare = inflate.bare(body, max_bytes=max_bytes)
        if bare is not None:
            return _mended(bare, ("compressed",))
        found = _of_another_script(body)
        if found is None:
            raise
        return found


def _of_another_script(body: bytes) -> Parsed | None:
    """Read text of East Asia in its former encodings, whose letters may end in the byte of a backslash."""
    if len(body) > MAX_SCRIPT_BYTES or _is_utf8(body):
        return None
    for encoding in _SCRIPTS:
        with contextlib.suppress(ValueError, RecursionError):
            return Parsed(value=_parsed(body.decode(encoding)), repairs=(encoding,))
    return None


def _mended(body: bytes, repairs: Sequence[str]) -> Parsed:
    text, found = _decoded(body)
    repairs = (*repairs, *found)
    try:
        value = _parsed(text)
    except (ValueError, RecursionError):
        # Not chained: the error carries the whole text.
        raise NotJson("the body is not JSON") from None
    if isinstance(value, str):
        return _unwrapped(value, repairs)
    return Parsed(value=value, repairs=repairs or ("not strictly JSON",))


def _unwrapped(text: str, repairs: Sequence[str] = ()) -> Parsed:
    """Read JSON that is text inside JSON: somebody encoded it twice; any other text is itself."""
    try:
        return Parsed(value=_parsed(text), repairs=(*repairs, "encoded twice"))
    except (ValueError, RecursionError):
        return Parsed(value=text, repairs=tuple(repairs))


def _decoded(body: bytes) -> tuple[str, Sequence[str]]:
    encoding = next((name for mark, name in _MARKS if body.startswith(mark)), None)
    if encoding is None:
        encoding = json.detect_encoding(body).removesuffix("-sig") if b"\0" in body[:4] else "utf-8"
    text = body.decode(encoding, errors="replace")
    repairs = []
    if text.startswith("\ufeff"):
        text = text.lstrip("\ufeff")
        repairs.append("byte order mark")
    if encoding != "utf-8":
        repairs.append(encoding.upper())
    elif "\ufffd" in text and not _is_utf8(body):
        repairs.append("not UTF-8")
    return text, repairs


def _is_utf8(body: bytes) -> bool:
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return True


def _parsed(text: str) -> object:
    text = text.strip(_SPACE).replace("\0", "\ufffd")
    if _LONE.search(text):
        text = _ESCAPE.sub(_without_lone, text)
    # ``strict=False``: control characters within strings.
    parse_int = _integer if _LONG.search(text) else None
    value: object = json.loads(text, strict=False, parse_int=parse_int)
    return value


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= MAX_INTEGER_DIGITS else math.inf


def _without_lone(found: re.Match[str]) -> str:
    """Keep an escape, but for one of NUL or of half a pair of surrogates."""
    return f"{found[1]}\ufffd" if found[2] else found[0]
