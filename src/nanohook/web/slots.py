"""
What may be under way for minutes, on its way in or out, and takes memory or a file meanwhile.

One person has few places, and while half of all are taken only one: however slow some people are, it takes many of
them to leave the next one without a place.
"""

import collections
import contextlib
from collections.abc import Iterator
from typing import Final

from nanohook import errors

MOST_OF_ONE: Final = 4
"""Uploads, or batches, at once of one person."""
MOST_UPLOADS: Final = 32
"""Uploads at once in this process: a megabyte of memory each, and what is larger on the disk."""
MOST_BATCHES: Final = 8
"""Batches at once in this process: 8 MiB each, in memory."""
MOST_STORING: Final = 4
"""Uploaded pictures at once that are in memory whole, to be decoded and stored: two cores are busy with that."""
ARCHIVES_OF_ONE: Final = 2
MOST_ARCHIVES: Final = 16
"""Archives at once in this process: an open file and half a megabyte each."""
_COME_BACK_S: Final = 2


class Slots:
    """
    Counts what is under way; on the event loop alone.

    Args:
        of_one: How many one person may have at once, while fewer than half of all places are taken.
        of_all: How many all together.
        name: What they are, as it is told to who is refused.
    """

    def __init__(self, *, of_one: int, of_all: int, name: str) -> None:
        self._of_one = of_one
        self._of_all = of_all
        self._name = name
        self._of: collections.Counter[str] = collections.Counter()

    def check(self, owner_id: str) -> None:
        """
        Check that *owner_id* would get a place now.

        Raises:
            TooMany: This person has all theirs.
            Unavailable: The process has no more.
        """
        number, total = self._of[owner_id], self._of.total()
        if number >= self._of_one:
            raise errors.TooMany(
                f"at most {self._of_one} {self._name} at once",
                code=f"too_many_{self._name}",
                retry_after_s=_COME_BACK_S,
            )
        # The second half is for those who have none.
        if total >= (self._of_all // 2 if number else self._of_all):
            raise errors.Unavailable(f"too many {self._name} are under way, try again", retry_after_s=_COME_BACK_S)

    @contextlib.contextmanager
    def take(self, owner_id: str) -> Iterator[None]:
        """
        Hold a place.

        Raises:
            TooMany: This person has all theirs.
            Unavailable: The process has no more.
        """
        self.check(owner_id)
        self._of[owner_id] += 1
        try:
            yield
        finally:
            self._of[owner_id] -= 1
            if not self._of[owner_id]:
                del self._of[owner_id]
