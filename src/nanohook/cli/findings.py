"""What ``nanohook doctor`` found: one line each, and the cure below it."""

import enum
from collections.abc import Sequence
from typing import Any

from nanohook.cli.printing import cut, plain
from nanohook.values import frozen


class Level(enum.StrEnum):
    """How a check went."""

    OK = "ok"
    WARN = "warn"
    """It works, but for something that the operator may miss."""
    FAIL = "FAIL"


@frozen
class Finding:
    """How one thing is."""

    check: str
    """What was looked at, in a word or two; the same for all findings of one check."""
    level: Level
    text: str
    cure: str | None = None

    def lines(self) -> str:
        """Write it for people; a text may hold words of whoever answered."""
        said = f"{self.level:<5} {self.check:<11} {plain(cut(self.text))}"
        return said if self.cure is None else f"{said}\n{'':<17} -> {plain(self.cure)}"

    def shown(self) -> dict[str, Any]:
        """Write it for programs."""
        cure = None if self.cure is None else plain(self.cure)
        return {"check": self.check, "level": str(self.level), "text": plain(cut(self.text)), "cure": cure}


def ok(check: str, text: str) -> Finding:
    """All is well."""
    return Finding(check=check, level=Level.OK, text=text)


def warn(check: str, text: str, cure: str) -> Finding:
    """Something is missing that can be done without."""
    return Finding(check=check, level=Level.WARN, text=text, cure=cure)


def fail(check: str, text: str, cure: str) -> Finding:
    """Something does not work."""
    return Finding(check=check, level=Level.FAIL, text=text, cure=cure)


def has_failed(found: Sequence[Finding]) -> bool:
    """Tell whether one of them is a failure."""
    return any(each.level is Level.FAIL for each in found)
