"""
What is shown of bytes from outside: never a text that opens something.

A callback may carry its own address back, in a field or in JSON written as text (``paramJson``), and whoever reads
the log of deliveries could go on to use it.
"""

import re
from typing import Final

MASK: Final = "***"

# What signing makes: numbers, then the 43 characters of a signature; at the end of a text that was cut, what is
# left of them. Its subject stays: it says whose it was. No repetition overlaps another, so a megabyte of letters
# is read once.
_SIGNATURE: Final = (
    r"(?<![0-9])[0-9]{1,18}(?:\.[0-9]{1,18}){0,2}\.(?:[A-Za-z0-9_-]{43}(?![A-Za-z0-9_-])|[A-Za-z0-9_-]{16,43}\Z)"
)
# Whatever its form, what follows there is a token; JSON and addresses may write the slash in their own ways.
_ADDRESS: Final = r"(?<=image-completion)(?:\\*/|%2[Ff])[^\s\"'\\<>&?#]+"
_KEY: Final = r"(?<![A-Za-z0-9])(?:nh_|whsec_)[A-Za-z0-9_+/=-]{16,}"
_OPENS: Final = re.compile(f"{_ADDRESS}|{_SIGNATURE}|{_KEY}")


def masked(text: str) -> str:
    """Put ``MASK`` in place of callback addresses' tokens, of other signatures of ours, and of keys."""
    return _OPENS.sub(_mask, text)


def shown(body: bytes) -> str:
    """Write bytes as text that may be looked at: what is not UTF-8 is marked, what opens something is masked."""
    return masked(body.decode(errors="replace"))


def _mask(found: re.Match[str]) -> str:
    slash = re.match(r"\\*/|%2[Ff]", found[0])
    return MASK if slash is None else slash[0] + MASK
