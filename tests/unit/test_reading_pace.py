"""The pace that readers are held to."""

import pytest

from nanohook import http1
from nanohook.http1.pace import BYTES_A_SECOND, Pace


def test_a_reader_of_nothing_is_behind_by_the_time_that_passed():
    pace = Pace()
    pace.begin(100.0, 1_000_000)
    assert pace.behind_s(115.0, 1_000_000) == 15.0


def test_half_of_the_pace_is_15_s_behind_after_30_and_the_whole_pace_never():
    for share, expected in ((0.5, 15.0), (1.0, 0.0), (2.0, 0.0)):
        pace, now, taken = Pace(), 0.0, 48 * 1024
        seconds = taken / (share * BYTES_A_SECOND)
        while now < 30.0:
            pace.begin(now, 64 * 1024)
            now += seconds
            pace.end(now, 16 * 1024)
        assert pace.behind_s(now, 16 * 1024) == pytest.approx(expected + (now - 30) / 2 * (share < 1))


def test_nobody_gets_ahead_of_the_pace_and_pauses_of_ours_are_not_theirs():
    pace = Pace()
    pace.begin(0.0, 100 * BYTES_A_SECOND)
    pace.end(1.0, 0)
    pace.begin(1_000.0, BYTES_A_SECOND)
    assert pace.behind_s(1_015.0, BYTES_A_SECOND) == 15.0


def test_the_limits_are_those_that_are_promised():
    limits = http1.Limits()
    assert (limits.behind_s, BYTES_A_SECOND, limits.read_s) == (1.0, 16 * 1024, 300.0)
    assert (limits.unread_bytes, limits.unsent_bytes) == (32 * 2**20, 64 * 2**20)
