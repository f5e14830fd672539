"""Who was here lately: what is shared is shared with those alone."""

from typing import Final


class Presence:
    """
    Tells whether anybody but one person was here lately.

    Args:
        within_s: How long ago counts.
    """

    def __init__(self, within_s: float) -> None:
        self._within_s: Final = within_s
        self._newest: str | None = None
        self._newest_at_s = self._before_at_s = float("-inf")
        """When the newest was here, and when anybody else was before."""

    def note(self, owner_id: str, *, now_s: float) -> None:
        """Note that *owner_id* is here, by a monotonic clock."""
        if owner_id != self._newest:
            self._newest, self._before_at_s = owner_id, self._newest_at_s
        self._newest_at_s = now_s

    def has_others(self, owner_id: str, *, now_s: float) -> bool:
        """Tell whether anybody but *owner_id* was here lately."""
        at_s = self._before_at_s if owner_id == self._newest else self._newest_at_s
        return now_s - at_s < self._within_s
