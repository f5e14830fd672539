"""
The text of an event stream: blocks of ``field: value`` lines, each closed by a blank line.

Source: WHATWG HTML, section 9.2 "Server-sent events"; CONTRACT section 6, "The stream".
"""

import enum
import re
from collections.abc import Iterable, Iterator
from typing import Final

HEARTBEAT: Final = b":\n"
"""Keeps proxies awake. No blank line: that would make some clients hand out an empty event."""

HEARTBEAT_EVENT: Final = b"event: heartbeat\ndata: {}\n\n"
"""The same for who asks for an event: script sees no comment, and so cannot tell a dead link from a quiet job."""

PIECE_BYTES: Final = 32 * 1024
"""What a server is given at once: it takes all of it, and only then lets the next one wait for a slow reader."""

_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9:._-]{0,63}")
_CURSOR: Final = re.compile(r"[0-9]{1,18}")


class BadCursor(enum.Enum):
    """The type of ``BAD_CURSOR``, so that a type checker can tell it from a number."""

    BAD_CURSOR = "bad_cursor"


BAD_CURSOR: Final = BadCursor.BAD_CURSOR
"""A cursor came and cannot be understood: the stream answers with ``reset``."""


def event(*, name: str, data: bytes | str, id: int | None = None) -> bytes:  # noqa: A002 - the wire's word
    """
    Frame one event.

    Args:
        name: What a client listens for: a letter, then letters, digits and ``: . _ -``.
        data: Any text in UTF-8; each line of it becomes a ``data:`` line of its own, or a line of a
            payload could pass for a field.
        id: What the client sends back as its cursor; ``None`` leaves the client's cursor as it is.

    Raises:
        ValueError: The name or the id would break the framing.
    """
    if _NAME.fullmatch(name) is None:
        raise ValueError(f"not an event name: {name!r}")
    raw = data.encode() if isinstance(data, str) else data
    # A lone CR ends a line as well: all three line ends of the standard become one.
    lines = raw.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    head = b"" if id is None else _id_line(id)
    return head + b"event: " + name.encode() + b"\ndata: " + b"\ndata: ".join(lines) + b"\n\n"


def retry(ms: int) -> bytes:
    """
    Tell the client how long to wait before it connects again.

    A line, and no block of its own: browsers act on the line at once, while many other clients make an event
    without data of a block that holds nothing else. So it stands in the block of whichever event follows, and at
    the end of a stream no blank line follows it.

    Args:
        ms: Milliseconds, 0 or more.

    Raises:
        ValueError: Below zero.
    """
    if ms < 0:
        raise ValueError(f"retry must not be negative: {ms}")
    return b"retry: %d\n" % ms


def reset() -> bytes:
    """Tell the client that its cursor leads nowhere: what it shows must be thrown away; has no id."""
    return event(name="reset", data=b"{}")


def ready(id: int) -> bytes:  # noqa: A002 - the wire's word
    """Tell a reader of all jobs, who is sent no state of any, that events behind *id* follow."""
    return event(name="ready", data=b"{}", id=id)


def pieces(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Join *blocks* to what is sent at once: ``PIECE_BYTES`` at most, or one block that is longer."""
    held = bytearray()
    for block in blocks:
        if held and len(held) + len(block) > PIECE_BYTES:
            yield bytes(held)
            held.clear()
        held += block
    if held:
        yield bytes(held)


def read_cursor(text: str | None) -> int | BadCursor | None:
    """
    Read a cursor: ``Last-Event-ID``, or what stands for it in an address.

    Returns:
        ``None`` when absent, the id, or ``BAD_CURSOR`` for anything but 1 to 18 ASCII digits.
    """
    if text is None:
        return None
    return int(text) if _CURSOR.fullmatch(text) else BAD_CURSOR


def _id_line(number: int) -> bytes:
    if number < 0:
        raise ValueError(f"an event id must not be negative: {number}")
    return b"id: %d\n" % number
