"""What the scans of a JPEG bring, told by their headers: whether a file ends where its picture does."""

import struct
from typing import Final

COEFFICIENTS: Final = 64
"""Of one block of a component."""


class Coverage:
    """
    Which coefficients of a JPEG's components its scans bring, and to which bit.

    A file that was cut between two scans and closed is a valid one to libjpeg, of less quality. No encoder leaves
    out anything.

    Source: ITU-T T.81, annexes B.2.3 and G.1.1.
    """

    def __init__(self) -> None:
        self._missing: dict[int, set[int]] = {}
        self._is_progressive = False

    def begin(self, components: bytes, *, is_progressive: bool) -> None:
        """Take the frame's list of components, three bytes each."""
        self._is_progressive = is_progressive
        self._missing = {component: set(range(COEFFICIENTS)) for component in components[::3]}

    def add(self, header: bytes) -> None:
        """Take the header of a scan, as far as it says what comes in it."""
        count = header[0]
        first, last, bits = struct.unpack_from("3B", header, 2 * count + 1)
        found = range(first, last + 1) if self._is_progressive else range(COEFFICIENTS)
        for component in header[1 : 2 * count + 1 : 2]:
            if component in self._missing and not (self._is_progressive and bits & 0x0F):
                self._missing[component].difference_update(found)

    @property
    def is_whole(self) -> bool:
        """Whether every component has all of its coefficients to the last bit."""
        return bool(self._missing) and not any(self._missing.values())
