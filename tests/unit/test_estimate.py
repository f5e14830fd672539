"""What a wait is estimated from."""

import pytest

from nanohook.rules import estimate

HOUR = 3_600_000_000
FREE = {"room": 100, "open_tasks": 100, "rate": (20, 10.0), "run_s": 45.0}


@pytest.mark.parametrize(
    ("place", "more", "wait_s"),
    [
        (1, {}, 0.0),
        (20, {}, 0.0),
        # The twenty-first goes out in the next window of the rate.
        (21, {}, 10.0),
        (60, {}, 20.0),
        # No room: of a hundred that run for 45 seconds, one ends every 0.45.
        (1, {"room": 0}, 0.5),
        (10, {"room": 0}, 4.5),
        (10, {"room": 5}, 2.2),
        # More are open than may be, since the setting was changed: as many as there may be come first.
        (10, {"room": -50}, 4.5),
        (3, {"room": 1, "open_tasks": 2, "run_s": 60.0}, 60.0),
        # Whichever of the two lets it through last.
        (1_000, {"room": 0, "run_s": 1.0}, 490.0),
        (1_000, {"room": 0}, 490.0),
        (1_000, {"room": 0, "run_s": 60.0}, 600.0),
    ],
)
def test_a_wait_follows_the_rate_or_the_room_whichever_is_longer(place, more, wait_s):
    assert estimate.wait_s(place, **{**FREE, **more}) == pytest.approx(wait_s, abs=0.051)


def test_nobody_waits_shorter_further_back():
    waits = [estimate.wait_s(place, **{**FREE, "room": 30}) for place in range(1, 500)]
    assert waits == sorted(waits)


@pytest.mark.parametrize(
    ("values", "share", "found"),
    [
        ([], 0.5, None),
        ([7.0], 0.95, 7.0),
        ([3.0, 1.0, 2.0], 0.5, 2.0),
        ([4.0, 3.0, 2.0, 1.0], 0.5, 2.0),
        (list(range(1, 101)), 0.95, 95),
        (list(range(1, 101)), 0, 1),
        (list(range(1, 101)), 1, 100),
    ],
)
def test_percentiles_are_values_that_were_seen(values, share, found):
    assert estimate.percentile(values, share) == found


def test_throughput_is_counted_or_told_from_the_time_that_all_looked_at_took():
    now = 10 * HOUR
    assert estimate.per_hour([], most=3, now_us=now) == 0
    assert estimate.per_hour([now - HOUR // 2, now - HOUR - 1], most=3, now_us=now) == 1
    # Three within six minutes: thirty an hour.
    assert estimate.per_hour([now - HOUR // 10, now - 5, now], most=3, now_us=now) == 30
