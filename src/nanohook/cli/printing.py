"""What commands print: text from anywhere in a form that no terminal takes for a command, and JSON."""

from collections.abc import Callable
from typing import Final

import orjson
import typer

MOST_CHARS: Final = 200
"""Of a text that a stranger may have had a hand in, where one line is meant for it."""


def plain(text: str, *, may_fold: bool = False) -> str:
    """
    Write *text* so that a terminal takes none of it for a command, nor turns it around.

    Args:
        may_fold: Ends of lines and tabs stay; otherwise it is one line.
    """
    kept = "\n\t" if may_fold else ""
    return _spelt(text, kept, lambda char: char.encode("unicode_escape").decode())


def cut(text: str) -> str:
    """Shorten *text* to ``MOST_CHARS``, and show that it was."""
    return text if len(text) <= MOST_CHARS else f"{text[: MOST_CHARS - 1]}…"


def counted(number: int, thing: str) -> str:
    """Write how many things there are: "1 job", "2 jobs"."""
    return f"{number} {thing}{'' if number == 1 else 's'}"


def print_json(content: object) -> None:
    """Print JSON for scripts; in a terminal it is as harmless as ``plain`` makes text."""
    text = orjson.dumps(content, option=orjson.OPT_INDENT_2).decode()
    typer.echo(_spelt(text, "\n", _json_escape))


def _spelt(text: str, kept: str, escape: Callable[[str], str]) -> str:
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in kept else escape(char) for char in text)


def _json_escape(char: str) -> str:
    """Escape a character that orjson leaves as it is, DEL and the C1 controls for some."""
    units = char.encode("utf-16-be")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))
