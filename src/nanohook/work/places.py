"""The places for steps of one kind: who has how many of them, and who may have more."""

import collections
import math
import time
from collections.abc import Mapping
from typing import Final

from nanohook.presence import Presence

OTHERS_S: Final = 60.0
"""Whoever had a step of this kind within this is here; a step of theirs may be over in no time."""


class Places:
    """
    Counts the steps under way by whose they are; on the event loop alone.

    Args:
        most: How many at once.
        share_of_one: Of these, what one person may have while others are here; one place at least is left to them.
    """

    def __init__(self, *, most: int, share_of_one: float) -> None:
        self._most = most
        self.most_of_one: Final = max(1, min(math.ceil(most * share_of_one), most - 1))
        """How many one person may have while others are here."""
        self.held: Final[collections.Counter[str]] = collections.Counter()
        self._presence = Presence(OTHERS_S)

    @property
    def free(self) -> int:
        """How many more may be taken."""
        return self._most - self.held.total()

    def take(self, owner_id: str) -> None:
        """Begin a step of *owner_id*."""
        self._presence.note(owner_id, now_s=time.monotonic())
        self.held[owner_id] += 1

    def give_back(self, owner_id: str) -> None:
        """End a step of *owner_id*."""
        self.held[owner_id] -= 1
        if not self.held[owner_id]:
            del self.held[owner_id]

    def full(self, held: Mapping[str, int], *, adding: int = 1) -> set[str]:
        """Name those who have *held* so many that *adding* more would be too many, were others here."""
        return {owner_id for owner_id, number in held.items() if number + adding > self.most_of_one}

    def is_one_alone(self, held: Mapping[str, int]) -> bool:
        """Tell whether all that is *held* is one person's, and nobody else was here lately."""
        now_s = time.monotonic()
        return len(held) == 1 and not any(self._presence.has_others(each, now_s=now_s) for each in held)
