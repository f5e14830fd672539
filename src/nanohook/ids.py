"""New names: for rows, and for those who come in."""

import re
import secrets
from typing import Final

import uuid_utils

SHORT: Final = 8
"""Characters of an id that people are shown."""
_LAST_MS: Final = 2**48 - 1
"""A UUIDv7 has 48 bits for its time."""


_KEY: Final = re.compile(r"nh_[A-Za-z0-9_-]{43}")


def new_id() -> str:
    """Make a UUIDv7: ids sort by the time they were made."""
    return str(uuid_utils.uuid7())


def earliest(time_us: int) -> str:
    """Give the smallest id of a time: all that were made before its millisecond sort below. *time_us* is µs."""
    digits = f"{min(max(time_us, 0) // 1_000, _LAST_MS):012x}"
    return f"{digits[:8]}-{digits[8:]}-7000-8000-000000000000"


def short(name: str) -> str:
    """
    Shorten an id for people, to its last ``SHORT`` characters.

    Not its first: those of a UUIDv7 are the same for a minute.
    """
    return name if len(name) <= SHORT + 1 else f"…{name[-SHORT:]}"


def new_key() -> str:
    """Make an API key: 256 random bits."""
    return f"nh_{secrets.token_urlsafe(32)}"


def is_key(text: str) -> bool:
    """Tell whether *text* can be an API key: whatever has another form is nobody's, and need not be looked up."""
    return _KEY.fullmatch(text) is not None
