"""What comes in the query of an address: bounded, and refused by name."""

import enum
from typing import Final, TypeVar

from starlette.datastructures import QueryParams

from nanohook import clock, errors
from nanohook.rules.status import ImageJobStatus

DEFAULT_LIMIT: Final = 50
MOST_LIMIT: Final = 200
MOST_DIGITS: Final = 18
"""Of a number in an address: it fits into 64 bits."""
MOST_WORDS_CHARS: Final = 200
MAX_IDS: Final = 100
"""Jobs that one request for a list may name."""

W = TypeVar("W", bound=enum.StrEnum)


def limit(query: QueryParams) -> int:
    """
    Read how many a page shall have.

    Raises:
        Invalid: Not 1 to ``MOST_LIMIT``.
    """
    text = query.get("limit")
    if text is None:
        return DEFAULT_LIMIT
    if not (text.isascii() and text.isdigit() and len(text) <= 3 and 1 <= int(text) <= MOST_LIMIT):  # noqa: PLR2004
        raise errors.Invalid("limit cannot be used", fields={"limit": f"must be 1 to {MOST_LIMIT}"})
    return int(text)


def number(query: QueryParams, name: str) -> int | None:
    """
    Read a whole number, such as the cursor of a list whose ids are numbers.

    Raises:
        Invalid: It is none.
    """
    text = query.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= MOST_DIGITS):
        raise errors.Invalid(f"{name} cannot be used", fields={name: "must be a whole number"})
    return int(text)


def words(query: QueryParams, name: str) -> str | None:
    """
    Read what is searched for.

    Raises:
        Invalid: It is longer than ``MOST_WORDS_CHARS``; SQLite refuses a pattern of more than 50,000 bytes.
    """
    text = query.get(name)
    if text is not None and len(text) > MOST_WORDS_CHARS:
        raise errors.Invalid(f"{name} cannot be used", fields={name: f"at most {MOST_WORDS_CHARS} characters"})
    return text


def ids(query: QueryParams) -> tuple[str, ...]:
    """
    Read which jobs are meant, separated by commas, each once; nothing means all.

    Raises:
        Invalid: They are more than ``MAX_IDS``.
    """
    named = tuple(dict.fromkeys(filter(None, query.get("ids", "").split(","))))
    if len(named) > MAX_IDS:
        raise errors.Invalid("ids cannot be used", fields={"ids": f"at most {MAX_IDS}"})
    return named


def one_of(query: QueryParams, name: str, known: type[W]) -> W | None:
    """
    Read one of a few words.

    Raises:
        Invalid: It is none of them.
    """
    text = query.get(name)
    if text is None:
        return None
    if text not in set(known):
        raise errors.Invalid(f"{name} cannot be used", fields={name: f"one of {', '.join(known)}"})
    return known(text)


def moment(query: QueryParams, name: str) -> int | None:
    """
    Read a time, as µs since the epoch.

    Raises:
        Invalid: It is not written as RFC 3339 has it.
    """
    text = query.get(name)
    try:
        return None if text is None else clock.from_rfc3339(text)
    except ValueError as exc:
        raise errors.Invalid(f"{name} cannot be used", fields={name: str(exc)}) from None


def statuses(query: QueryParams) -> tuple[ImageJobStatus, ...]:
    """
    Read the statuses that are wanted, each once.

    Raises:
        Invalid: One of them is none.
    """
    texts = query.getlist("status")
    if not set(texts) <= set(ImageJobStatus):
        raise errors.Invalid("status cannot be used", fields={"status": f"one of {', '.join(ImageJobStatus)}"})
    return tuple(ImageJobStatus(text) for text in dict.fromkeys(texts))


def wants_all(query: QueryParams) -> bool:
    """
    Tell whether everybody's things are asked for.

    Raises:
        Invalid: ``scope`` is something else than ``all``.
    """
    scope = query.get("scope")
    if scope not in {None, "all", "mine"}:
        raise errors.Invalid("scope cannot be used", fields={"scope": "must be all or mine"})
    return scope == "all"
