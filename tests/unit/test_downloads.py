import pytest

from nanohook.rules import downloads, words
from nanohook.rules.downloads import Candidate, Outcome
from nanohook.values import replace

SECOND = 1_000_000
MINUTE = 60 * SECOND
START = 1_700_000_000 * SECOND

PATIENCE = {
    Outcome.AWAY: ("download_failed", 24 * 60 * MINUTE),
    Outcome.MISSING: ("download_failed", 5 * MINUTE),
    Outcome.FORBIDDEN: ("download_failed", 60 * MINUTE),
    Outcome.BROKEN: ("not_an_image", 5 * MINUTE),
    Outcome.TOO_LARGE: ("too_large", 0),
    Outcome.REFUSED: ("download_failed", 0),
    Outcome.NOT_PUBLIC: ("download_failed", 60 * MINUTE),
    Outcome.NOT_STORED: ("storage_failed", 24 * 60 * MINUTE),
    Outcome.CRASHED: ("internal", 24 * 60 * MINUTE),
    Outcome.DEADLY: ("internal", 0),
}


@pytest.mark.parametrize("outcome", Outcome)
def test_each_outcome_ends_after_its_patience_and_not_before(outcome):
    code, patience = PATIENCE[outcome]
    assert downloads.DownloadFailed("", outcome=outcome).code == code
    assert code in words.FAULTS
    candidate, now, tries = Candidate(url="https://cdn.example/a"), START, 0
    while not candidate.is_dead:
        candidate = downloads.tried(candidate, outcome, pause_us=60 * SECOND, now_us=now)
        tries += 1
        assert candidate.is_dead is (now - START >= patience)
        assert candidate.is_dead or now < candidate.due_at <= max(START + patience, now + 60 * SECOND)
        now = candidate.due_at
    assert tries == max(1, patience // (60 * SECOND) + 1)


def test_the_last_try_comes_when_patience_ends_and_not_after():
    first = downloads.tried(Candidate(url="u"), Outcome.MISSING, pause_us=3600 * SECOND, now_us=START)
    assert (first.due_at, first.is_dead) == (START + 5 * MINUTE, False)


def test_a_sleep_between_two_tries_does_not_use_up_the_patience():
    candidate = downloads.tried(Candidate(url="u"), Outcome.MISSING, pause_us=SECOND, now_us=START)
    woken = START + 3600 * SECOND
    for tries in range(2, downloads.MIN_TRIES + 1):
        candidate = downloads.tried(candidate, Outcome.MISSING, pause_us=SECOND, now_us=woken)
        assert candidate.is_dead is (tries == downloads.MIN_TRIES)
        assert candidate.is_dead or candidate.due_at == woken + SECOND


def test_failures_of_different_kinds_end_no_patience():
    candidate, now, tries = Candidate(url="u"), START, 0
    while not candidate.is_dead:
        kind = (Outcome.MISSING, Outcome.AWAY, Outcome.BROKEN, Outcome.FORBIDDEN)[tries % 4]
        candidate = downloads.tried(candidate, kind, pause_us=30 * SECOND, now_us=now)
        now, tries = now + 30 * SECOND, tries + 1
    # Missing and broken are one: a result that is not there yet.
    assert now - START <= 6 * MINUTE


def test_an_hour_away_uses_up_no_patience_with_what_is_missing():
    candidate = downloads.tried(Candidate(url="u"), Outcome.AWAY, pause_us=SECOND, now_us=START)
    for minute in range(60, 65):
        candidate = downloads.tried(candidate, Outcome.MISSING, pause_us=SECOND, now_us=START + minute * MINUTE)
        assert not candidate.is_dead
    assert downloads.tried(candidate, Outcome.MISSING, pause_us=1, now_us=START + 65 * MINUTE).is_dead


def test_a_clock_that_goes_back_kills_nothing():
    candidate = downloads.tried(Candidate(url="u"), Outcome.MISSING, pause_us=SECOND, now_us=START)
    candidate = downloads.tried(candidate, Outcome.MISSING, pause_us=SECOND, now_us=START - 3600 * SECOND)
    assert (candidate.is_dead, candidate.due_at) == (False, START - 3600 * SECOND + SECOND)


def test_what_is_named_again_is_one_candidate_and_stays_what_it_is():
    present = downloads.named((), ["a", "b", "a"], now_us=START)
    assert [candidate.url for candidate in present] == ["a", "b"]
    dead = downloads.tried(present[0], Outcome.TOO_LARGE, pause_us=SECOND, now_us=START)
    failing = downloads.tried(present[1], Outcome.AWAY, pause_us=SECOND, now_us=START)
    again = downloads.named((dead, failing), ["c", "a", "b"], now_us=START + SECOND)
    assert again == (dead, failing, Candidate(url="c", due_at=START + SECOND))


def test_the_next_attempt_gives_the_whole_patience_again():
    dead = downloads.tried(Candidate(url="a"), Outcome.REFUSED, pause_us=SECOND, now_us=START)
    assert downloads.fresh((dead,), now_us=START) == (Candidate(url="a", due_at=START),)


def test_every_doubling_of_the_failures_makes_a_question_due():
    due = [tries for tries in range(40) if downloads.is_reconcile_due([Candidate(url="a", failures=tries)])]
    assert due == [2, 4, 8, 16, 32]
    assert downloads.is_reconcile_due([Candidate(url="a", failures=3), Candidate(url="b", failures=1)])
    assert not downloads.is_reconcile_due([])


@pytest.mark.parametrize("outcome", Outcome)
def test_only_what_was_no_fault_of_its_host_may_be_there_when_it_is_dead(outcome):
    dead = Candidate(url="a", outcome=outcome, is_dead=True)
    assert dead.may_be_there is (outcome in {Outcome.NOT_PUBLIC, Outcome.NOT_STORED, Outcome.CRASHED})
    assert Candidate(url="a", outcome=outcome).may_be_there


def test_of_one_body_a_few_addresses_are_taken():
    present = downloads.named((), (str(number) for number in range(100)), now_us=START)
    assert [each.url for each in present] == [str(number) for number in range(downloads.MAX_NAMED)]


def test_the_worst_make_room_for_what_is_named_anew():
    present = tuple(Candidate(url=str(number), failures=number) for number in range(downloads.MAX_CANDIDATES))
    present = (*present[:3], replace(present[3], is_dead=True), *present[4:])
    more = downloads.named(present, ["new", "newer"], now_us=START)
    assert len(more) == downloads.MAX_CANDIDATES
    assert {each.url for each in present} - {each.url for each in more} == {"3", "19"}
    assert [each.url for each in more[-2:]] == ["new", "newer"]


def test_what_record_info_names_comes_first():
    present = downloads.named((), ["a"], now_us=START)
    assert [each.url for each in downloads.named(present, ["b"], is_confirmed=True, now_us=START)] == ["b", "a"]


def test_the_first_named_of_those_due_is_tried_next():
    assert downloads.next_of(()) is None
    one, other = downloads.named((), ["a", "b"], now_us=START)
    assert downloads.next_of([one, other]) is one
    failing = downloads.tried(one, Outcome.AWAY, pause_us=SECOND, now_us=START)
    assert downloads.next_of([failing, other]) is other
    dead = downloads.tried(other, Outcome.REFUSED, pause_us=SECOND, now_us=START)
    assert downloads.next_of([failing, dead]) is failing
    assert downloads.next_of([dead]) is None
