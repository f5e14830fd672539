"""
What is shown of bytes from outside: never a text that opens something.

A callback may carry its own address back, in a field or in JSON written as text (``paramJson``), and whoever reads
the log of deliveries could go on to use it.
"""

import re
from typing import Final

from nanohook.rules import foreign_json

MASK: Final = "***"

# Each pattern begins with a text that must be there; what may stand before it is looked back at, and no repetition
# overlaps another: a megabyte of whatever is read in some hundredths of a second.
#
# Whatever its form, what follows there is a token; JSON and addresses may write the slash in their own ways.
_ADDRESS: Final = re.compile(r"image-completion(\\*/|%2[Ff])[^\s\"'\\<>&?#]+")
# What signing makes ends with a number and the 43 characters of a signature; at the end of a text that was cut,
# with what is left of them. What was signed stays: it says whose it was.
_SIGNATURE: Final = re.compile(r"\.(?<=[0-9]\.)(?:[A-Za-z0-9_-]{43}(?![A-Za-z0-9_-])|[A-Za-z0-9_-]{16,43}\Z)")
_KEY: Final = re.compile(r"(?:nh_(?<![A-Za-z0-9]nh_)|whsec_(?<![A-Za-z0-9]whsec_))[A-Za-z0-9_+/=-]{16,}")


def masked(text: str) -> str:
    """Put ``MASK`` in place of callback addresses' tokens, of other signatures of ours, and of keys."""
    text = _ADDRESS.sub(rf"image-completion\1{MASK}", text)
    return _KEY.sub(MASK, _SIGNATURE.sub(f".{MASK}", text))


def shown(body: bytes) -> str:
    """
    Write bytes as text that may be looked at.

    Compressed ones are inflated as far as they go, what is no text is marked, what opens something is masked.
    """
    return masked(foreign_json.readable(body))
