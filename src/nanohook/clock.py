"""What time it is, in the database's unit. Pure code is given the time; everything else asks here."""

import time

_second: tuple[int, str] = (0, "")


def now_us() -> int:
    """Microseconds since the epoch, UTC."""
    return time.time_ns() // 1_000


def rfc3339(time_us: int) -> str:
    """Write *time_us* (µs since the epoch) as UTC with milliseconds; the text of a second is made once."""
    global _second  # noqa: PLW0603 - a cache of one entry, replaced whole
    whole, rest_us = divmod(time_us, 1_000_000)
    known, text = _second
    if known != whole:
        text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole))
        _second = (whole, text)
    return f"{text}.{rest_us // 1_000:03d}Z"
