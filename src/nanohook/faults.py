"""
Fault points: named places between two steps of the main path.

They do nothing. The process tests put a function here, from an entry point of their own, that kills the process
at one of them; no setting of the service can.
"""

from collections.abc import Callable

at: Callable[[str], None] | None = None


def reach(point: str) -> None:
    """Pass *point*."""
    if at is not None:
        at(point)
