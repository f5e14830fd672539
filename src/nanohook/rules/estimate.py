"""How long a job will wait, and what the last ones tell about it: plain arithmetic."""

import math
from collections.abc import Sequence
from typing import Final

RUN_S: Final = 45.0
"""How long NanoBanana takes while nothing is known: its own figure is 30 to 60 seconds."""
_HOUR_US: Final = 3_600_000_000


def wait_s(place: int, *, room: int, open_tasks: int, rate: tuple[int, float], run_s: float) -> float:
    """
    Estimate when the task at *place* in the line is submitted: whichever of room and rate lets it through last.

    Args:
        place: 1 is the next.
        room: How many more tasks may be given to NanoBanana now.
        open_tasks: How many it may have at most.
        rate: So many submits in so many seconds.
        run_s: How long it takes for one.

    Returns:
        Seconds from now.
    """
    amount, window_s = rate
    paced = (place - 1) // amount * window_s
    # Of *open_tasks* that run beside each other, one ends every run_s / open_tasks.
    crowded = max(0, place - max(0, room)) * run_s / open_tasks
    return round(max(paced, crowded), 1)


def percentile(values: Sequence[float], share: float) -> float | None:
    """Give the least of *values* that a *share* (0 to 1) of them does not exceed; ``None``: there are none."""
    if not values:
        return None
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def per_hour(ended_at: Sequence[int], *, most: int, now_us: int) -> float:
    """
    Tell how many end in an hour.

    Args:
        ended_at: When the newest ones ended, µs.
        most: So many were looked at: if all of these ended within the hour, it is told from the time they took.
    """
    within = [at for at in ended_at if at > now_us - _HOUR_US]
    if len(within) < most:
        return float(len(within))
    return round(len(within) * _HOUR_US / max(1, now_us - min(within)), 1)
