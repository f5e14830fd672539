"""A queue in which people take turns: round robin between them, first come first served within one's own."""

import collections
import sys
from collections.abc import Collection, Container, Iterator
from typing import Final, Generic, TypeVar

__all__ = ["FairQueue"]

T = TypeVar("T")


class FairQueue(Generic[T]):
    """
    Things that wait, by whose they are.

    Args:
        max_of_one: Things of one person; without it others see to it that there are few.
        max_of_all: Things of everybody together.
    """

    def __init__(self, *, max_of_one: int = sys.maxsize, max_of_all: int = sys.maxsize) -> None:
        self._max_of_one: Final = max_of_one
        self._max_of_all: Final = max_of_all
        self._of: dict[str, collections.deque[T]] = {}
        """By person, in the order of their turns; nobody without something that waits."""
        self._number = 0

    def __len__(self) -> int:
        return self._number

    def __iter__(self) -> Iterator[T]:
        for own in self._of.values():
            yield from own

    @property
    def people(self) -> Collection[str]:
        """Whose things wait."""
        return self._of.keys()

    def waits(self, *, without: Container[str] = ()) -> bool:
        """Tell whether anything is here of anybody but those *without*."""
        return any(owner_id not in without for owner_id in self._of)

    def is_full_for(self, owner_id: str) -> bool:
        """Tell whether *owner_id* has as much here as one may have."""
        return len(self._of.get(owner_id, ())) >= self._max_of_one

    @property
    def is_full(self) -> bool:
        """Everybody together has as much here as there is room for."""
        return self._number >= self._max_of_all

    def put(self, owner_id: str, thing: T) -> None:
        """Let *thing* wait; whoever asks has looked whether there is room."""
        self._of.setdefault(owner_id, collections.deque()).append(thing)
        self._number += 1

    def pop(self, *, without: Container[str] = ()) -> tuple[str, T]:
        """
        Take the next thing, and whose it is; the people *without* are passed by and keep their turn.

        Raises:
            LookupError: There is none.
        """
        owner_id = next((each for each in self._of if each not in without), None)
        if owner_id is None:
            raise LookupError("nothing waits")
        own = self._of.pop(owner_id)
        thing = own.popleft()
        self._number -= 1
        if own:  # behind everybody else
            self._of[owner_id] = own
        return owner_id, thing

    def remove(self, owner_id: str, thing: T) -> None:
        """Forget *thing*, which nobody waits for any more; nothing happens if it was taken already."""
        own = self._of.get(owner_id)
        if own is None or thing not in own:
            return
        own.remove(thing)
        self._number -= 1
        if not own:
            del self._of[owner_id]
