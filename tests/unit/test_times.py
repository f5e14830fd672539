"""Times as they are written, and ids that are in order of time."""

import pytest

from nanohook import clock, ids


@pytest.mark.parametrize(
    ("text", "time_us"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("2026-03-01T10:00:00Z", 1_772_359_200_000_000),
        ("2026-03-01t11:00:00.25+01:00", 1_772_359_200_250_000),
        ("2026-03-01 10:00:00.123456789Z", 1_772_359_200_123_456),
        ("1969-12-31T23:59:59Z", -1_000_000),
    ],
)
def test_a_time_with_its_zone_is_read(text, time_us):
    assert clock.from_rfc3339(text) == time_us


@pytest.mark.parametrize(
    "text",
    [
        "",
        "now",
        "2026-03-01",
        "2026-03-01T10:00:00",
        "2026-02-30T10:00:00Z",
        "2026-03-01T24:00:00Z",
        "2026-03-01T10:00:00+1:00",
        "2026-03-01T10:00:00Z ",
        "٢٠٢٦-03-01T10:00:00Z",
        "1772359200",
    ],
)
def test_anything_else_is_none(text):
    with pytest.raises(ValueError, match=r"must be a time such as|no such day"):
        clock.from_rfc3339(text)


def test_what_is_written_is_read_back():
    now = clock.now_us() // 1_000 * 1_000
    assert clock.from_rfc3339(clock.rfc3339(now)) == now


def test_the_earliest_id_of_a_time_lies_between_those_before_and_those_after():
    before = clock.now_us()
    made = [ids.new_id() for _ in range(100)]
    assert made == sorted(made)
    assert ids.earliest(before) <= made[0]
    assert made[-1] < ids.earliest(clock.now_us() + 1_000)
    assert len(ids.earliest(-5)) == len(ids.earliest(10**30)) == len(made[0])
    assert ids.earliest(-5) < made[0] < ids.earliest(10**30)
