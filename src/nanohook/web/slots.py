"""Uploads under way: a picture, or a batch, on its way takes memory and a place, and may take a minute."""

import collections
import contextlib
from collections.abc import Iterator
from typing import Final

from nanohook import errors

MOST_OF_ONE: Final = 4
"""Uploads at once of one person."""
MOST: Final = 16
"""Uploads at once in this process."""
UPLOAD_S: Final = 60.0
"""How long the body of an upload may take."""
_COME_BACK_S: Final = 2


class Slots:
    """Counts the uploads under way; on the event loop alone."""

    def __init__(self) -> None:
        self._of: collections.Counter[str] = collections.Counter()

    @contextlib.contextmanager
    def take(self, owner_id: str) -> Iterator[None]:
        """
        Hold a place.

        Raises:
            TooMany: This person has all theirs.
            Unavailable: The process has no more.
        """
        if self._of[owner_id] >= MOST_OF_ONE:
            raise errors.TooMany(
                f"at most {MOST_OF_ONE} uploads at once", code="too_many_uploads", retry_after_s=_COME_BACK_S
            )
        if self._of.total() >= MOST:
            raise errors.Unavailable("too many uploads are under way, try again", retry_after_s=_COME_BACK_S)
        self._of[owner_id] += 1
        try:
            yield
        finally:
            self._of[owner_id] -= 1
            if not self._of[owner_id]:
                del self._of[owner_id]
