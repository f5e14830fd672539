"""How slow a body may be."""

import pytest

from nanohook.rules.tempo import Tempo, Watch


def watch(**tempo):
    made = Watch(Tempo(**tempo), now_s=0.0)
    made.begun(now_s=0.0)
    return made


def test_without_a_byte_it_ends_after_fifteen_seconds():
    one = watch()
    assert (one.ends_at_s, one.verdict) == (15.0, "no byte for 15 s")
    one.received(1, now_s=14.0)
    assert one.ends_at_s == 29.0


def test_what_brings_no_byte_is_silence():
    one = watch()
    one.received(0, now_s=14.0)
    assert one.ends_at_s == 15.0


@pytest.mark.parametrize(("share", "expected"), [(0.99, 30.0), (1.05, 900.0)])
def test_below_the_pace_it_ends_after_thirty_seconds_and_above_it_after_a_quarter_of_an_hour(share, expected):
    one, now = watch(), 0.0
    while now < one.ends_at_s and now < 1_000:
        now += 0.5
        if now < one.ends_at_s:
            one.received(int(share * 8_000), now_s=now)
    assert one.ends_at_s == expected


def test_who_was_fast_at_first_is_held_to_the_pace_afterwards():
    one, now = watch(), 1.0
    one.received(10_000_000, now_s=now)
    while now < one.ends_at_s:
        now += 10.0
        if now < one.ends_at_s:
            one.received(1, now_s=now)
    assert one.verdict.startswith("less than 16,000 bytes a second")
    assert one.ends_at_s <= 75
