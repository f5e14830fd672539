"""What time it is, in the database's unit. Pure code is given the time; everything else asks here."""

import datetime as dt
import re
import time
from typing import Final

_RFC3339: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?([Zz]|[+-][0-9]{2}:[0-9]{2})"
)
JUMP_S: Final = 2.0
"""A wall clock that moves by so much beside the monotonic one was set, or the machine was asleep."""
_second: tuple[int, str] = (0, "")


def now_us() -> int:
    """Microseconds since the epoch, UTC."""
    return time.time_ns() // 1_000


class JumpWatch:
    """Sees the wall clock being set: intervals count on the monotonic clock, which nobody sets."""

    def __init__(self) -> None:
        self._offset_s = time.time() - time.monotonic()

    def look(self) -> float:
        """
        Tell by how many seconds the wall clock has jumped since the last look; below 0: back.

        Returns:
            0 for less than ``JUMP_S``, as a clock that is only put right little by little. A machine that was
            asleep has jumped forward.
        """
        offset_s = time.time() - time.monotonic()
        moved_s, self._offset_s = offset_s - self._offset_s, offset_s
        return moved_s if abs(moved_s) >= JUMP_S else 0.0


def rfc3339(time_us: int) -> str:
    """Write *time_us* (µs since the epoch) as UTC with milliseconds; the text of a second is made once."""
    global _second  # noqa: PLW0603 - a cache of one entry, replaced whole
    whole, rest_us = divmod(time_us, 1_000_000)
    known, text = _second
    if known != whole:
        text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole))
        _second = (whole, text)
    return f"{text}.{rest_us // 1_000:03d}Z"


def from_rfc3339(text: str) -> int:
    """
    Read a time with its zone, such as ``2026-03-01T10:00:00Z``; returns µs since the epoch.

    Raises:
        ValueError: It is none.
    """
    if _RFC3339.fullmatch(text) is None:
        raise ValueError("must be a time such as 2026-03-01T10:00:00Z")
    try:
        moment = dt.datetime.fromisoformat(text.upper())
    except ValueError:
        raise ValueError("there is no such day or time") from None
    return (moment - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) // dt.timedelta(microseconds=1)
