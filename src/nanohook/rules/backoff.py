"""
How long to wait before the next try.

Source: full jitter as in the AWS Architecture Blog, "Exponential Backoff And Jitter"; RFC 9110, section
10.2.3 "Retry-After".
"""

import datetime as dt
import email.utils
import math
import re
from typing import Final

MOST_RETRY_AFTER_S: Final = 3600.0
"""Nobody can put a job to sleep for longer than this by a header."""

# Doubling this often passes every sensible ``most_s``; a larger number would overflow.
_MOST_DOUBLINGS: Final = 62
_SECONDS: Final = re.compile(r"[0-9]{1,18}")
_LONGEST_DATE: Final = 64


def delay_s(
    tries: int,
    *,
    first_s: float = 1.0,
    most_s: float = 60.0,
    chance: float,
    retry_after_s: float | None = None,
) -> float:
    """
    Choose the wait after a failed try, in seconds.

    Full jitter: anywhere between zero and a ceiling that doubles, so that jobs that failed together do
    not come back together.

    Args:
        tries: Tries made so far, counted from 1.
        first_s: Ceiling after the first try.
        most_s: Ceiling of the ceiling.
        chance: The dice, 0 up to but not including 1; passed in so that tests own them.
        retry_after_s: What the other side asked for: never less than this, up to ``MOST_RETRY_AFTER_S``.
    """
    doublings = min(max(tries - 1, 0), _MOST_DOUBLINGS)
    ceiling_s = min(most_s, math.ldexp(first_s, doublings))
    floor_s = min(retry_after_s or 0.0, MOST_RETRY_AFTER_S)
    return max(0.0, floor_s, chance * ceiling_s)


def parse_retry_after(text: str | None, *, now_s: float) -> float | None:
    """
    Read a ``Retry-After`` header: whole seconds, or a date in one of HTTP's three forms.

    Args:
        text: The header's value, ``None`` when it is missing.
        now_s: Seconds since the epoch, UTC.

    Returns:
        Seconds from now, 0 for a date that has passed; ``None`` for what cannot be understood.
    """
    text = (text or "").strip()
    if _SECONDS.fullmatch(text):
        return float(text)
    if len(text) > _LONGEST_DATE or not text.isascii():
        return None
    try:
        moment = email.utils.parsedate_to_datetime(text)
        if moment.tzinfo is None:
            # The asctime form names no zone; HTTP says that it is UTC.
            moment = moment.replace(tzinfo=dt.UTC)
        return max(0.0, moment.timestamp() - now_s)
    except (ValueError, TypeError, IndexError, OverflowError):
        # The standard library's parser lets all of these out for one odd date or another.
        return None
