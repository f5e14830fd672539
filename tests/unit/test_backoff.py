import email.utils

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanohook.rules import backoff

NOW_S = 1_793_610_847.0


def test_the_ceiling_doubles_up_to_the_most():
    almost_one = 0.999999
    waits = [round(backoff.delay_s(tries, chance=almost_one)) for tries in range(1, 10)]
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_the_dice_choose_anywhere_below_the_ceiling():
    assert backoff.delay_s(4, chance=0.0) == 0.0
    assert backoff.delay_s(4, chance=0.25) == 2.0
    assert backoff.delay_s(4, chance=0.5) == 4.0


def test_first_and_most_can_be_chosen():
    assert backoff.delay_s(1, first_s=10, most_s=15, chance=0.5) == 5.0
    assert backoff.delay_s(2, first_s=10, most_s=15, chance=0.5) == 7.5


@pytest.mark.parametrize("tries", [-3, 0, 1])
def test_no_try_yet_waits_as_after_the_first(tries):
    assert backoff.delay_s(tries, chance=0.5) == 0.5


def test_a_million_tries_do_not_overflow():
    assert backoff.delay_s(1_000_000, chance=0.5) == 30.0


def test_what_the_other_side_asked_for_is_a_floor():
    assert backoff.delay_s(1, chance=0.5, retry_after_s=20) == 20.0
    assert backoff.delay_s(7, chance=0.5, retry_after_s=20) == 30.0


def test_nobody_puts_a_job_to_sleep_for_more_than_an_hour():
    assert backoff.delay_s(1, chance=0.5, retry_after_s=1e17) == 3600.0


@settings(max_examples=50, deadline=None, database=None)
@given(
    st.integers(),
    st.floats(0, 1, exclude_max=True),
    st.none() | st.floats(allow_nan=False),
)
def test_a_wait_is_never_below_zero_nor_above_an_hour(tries, chance, retry_after_s):
    assert 0.0 <= backoff.delay_s(tries, chance=chance, retry_after_s=retry_after_s) <= 3600.0


@pytest.mark.parametrize(
    ("text", "seconds"), [("0", 0.0), ("17", 17.0), (" 120 ", 120.0), ("9" * 18, float("9" * 18))]
)
def test_retry_after_in_seconds(text, seconds):
    assert backoff.parse_retry_after(text, now_s=NOW_S) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "Mon, 02 Nov 2026 09:15:37 GMT",
        "Monday, 02-Nov-26 09:15:37 GMT",
        "Mon Nov  2 09:15:37 2026",
    ],
)
def test_retry_after_in_each_of_the_three_date_forms(text):
    now_s = email.utils.parsedate_to_datetime("Mon, 02 Nov 2026 09:14:07 GMT").timestamp()
    assert backoff.parse_retry_after(text, now_s=now_s) == 90.0


def test_a_date_that_has_passed_means_now():
    assert backoff.parse_retry_after("Fri, 31 Dec 1999 23:59:59 GMT", now_s=NOW_S) == 0.0


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        " ",
        "-1",
        "1.5",
        "soon",
        "1e3",
        "٣",
        "9" * 19,
        "Mon, 99 Nov 2026 09:15:37 GMT",
        "\ud800",
        "," * 64,
    ],
)
def test_a_malformed_retry_after_is_as_good_as_none(text):
    assert backoff.parse_retry_after(text, now_s=NOW_S) is None


DATE_PARTS = [
    "Mon, ",
    "2",
    " Nov",
    "2026",
    "09:15",
    ":37",
    "GMT",
    "+",
    "-",
    "99",
    "\x00",
    "\ud800",
    "é",
    "٣",
    "(",
    ")",
]


@settings(max_examples=40, deadline=None, database=None)
@given(st.lists(st.sampled_from(DATE_PARTS), max_size=9))
def test_no_header_makes_the_parser_fall_over(parts):
    seconds = backoff.parse_retry_after("".join(parts), now_s=NOW_S)
    assert seconds is None or seconds >= 0
