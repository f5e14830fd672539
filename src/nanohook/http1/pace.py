"""How far a reader is behind: a leaky bucket of seconds."""

from typing import Final

BYTES_A_SECOND: Final = 16 * 1024
"""The pace that uploads and downloads are held to as well."""


class Pace:
    """
    Measures a reader while it does not take all that it is sent.

    A second that passes is a second behind; what it takes is taken off at the pace, and nobody gets ahead. So
    whoever takes nothing is 15 s behind after 15 s, and whoever takes half of the pace after 30 s.
    """

    __slots__ = ("_behind_s", "_since", "_unsent_bytes")

    def __init__(self) -> None:
        self._behind_s = self._since = 0.0
        self._unsent_bytes = 0

    def begin(self, now: float, unsent_bytes: int) -> None:
        """Begin to measure: so much was not taken at once."""
        self._since = now
        self._unsent_bytes = unsent_bytes

    def behind_s(self, now: float, unsent_bytes: int) -> float:
        """Tell how far the reader is behind, with so much still not taken."""
        taken_bytes = max(0, self._unsent_bytes - unsent_bytes)
        return max(0.0, self._behind_s + now - self._since - taken_bytes / BYTES_A_SECOND)

    def end(self, now: float, unsent_bytes: int) -> None:
        """It has caught up with what it was sent, for now."""
        self._behind_s = self.behind_s(now, unsent_bytes)
        self.begin(now, unsent_bytes)
