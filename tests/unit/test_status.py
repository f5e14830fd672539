import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanohook.rules import status
from nanohook.rules.status import ImageJobStatus, Stage


def test_every_stage_has_its_status_and_progress():
    table = [(stage.value, stage.status.value, stage.progress) for stage in Stage]
    assert table == [
        ("uploaded", "PENDING", 0),
        ("queued", "PENDING", 10),
        ("submitting", "INITIALIZING", 25),
        ("generating", "GENERATING", 60),
        ("downloading", "GENERATING", 70),
        ("resizing", "GENERATING", 80),
        ("storing", "GENERATING", 90),
        ("completed", "COMPLETED", 100),
        ("failed", "FAILED", None),
        ("canceled", "CANCELED", None),
    ]


def test_exactly_completed_failed_and_canceled_are_final():
    assert {one for one in ImageJobStatus if one.is_final} == {"COMPLETED", "FAILED", "CANCELED"}
    assert {one for one in Stage if one.is_final} == {"completed", "failed", "canceled"}


def test_the_stored_word_processing_of_old_is_no_status():
    assert "PROCESSING" not in set(ImageJobStatus)


@pytest.mark.parametrize(
    ("words", "stage"),
    [
        ("pending queued waiting", Stage.QUEUED),
        ("processing initializing", Stage.SUBMITTING),
        ("generating", Stage.GENERATING),
        ("completed success succeeded", Stage.COMPLETED),
        ("failed fail error", Stage.FAILED),
        ("canceled cancelled", Stage.CANCELED),
    ],
)
def test_a_backends_words_are_understood_in_any_case(words, stage):
    for word in words.split():
        for spelling in (word, word.upper(), word.title(), f" {word}\r\n"):
            assert status.stage_of(spelling) is stage


@pytest.mark.parametrize("word", ["", " ", "done", "uploaded", "compl eted", "COMPLETED!", "\x00", "\ud800"])
def test_an_unknown_word_is_no_news(word):
    assert status.stage_of(word) is None


@pytest.mark.parametrize(
    ("percent", "expected"),
    [
        (60, 60),
        (64, 64),
        (64.9, 64),
        ("66", 66),
        (" 67.5 ", 67),
        (69, 69),
        (70, 69),
        (100, 69),
        ("100", 69),
        (0, 60),
        (-5, 60),
    ],
)
def test_a_count_is_kept_between_60_and_69(percent, expected):
    assert status.generating_progress(percent) == expected


@pytest.mark.parametrize(
    "nonsense",
    [
        None,
        True,
        False,
        "",
        "half",
        "69%",
        math.nan,
        math.inf,
        -math.inf,
        "nan",
        "inf",
        1e300,
        10**400,
        "9" * 9999,
    ],
)
def test_what_is_no_percentage_counts_as_just_accepted(nonsense):
    assert status.generating_progress(nonsense) == 60


@settings(max_examples=50, deadline=None, database=None)
@given(st.none() | st.integers() | st.floats() | st.text("0123456789.-+e_ naif", max_size=12))
def test_whatever_comes_the_count_stays_in_its_room(percent):
    assert status.generating_progress(percent) in range(60, 70)
