"""
Addresses of a result, what came of fetching them, and how long each is tried again: patience in clock time.

An address is a candidate, not the result: all that were named are tried, and a task fails only when each of them
is dead. Pure: the time and the random part of a pause come in as arguments.
"""

import enum
from collections.abc import Iterable, Sequence
from typing import Final

from nanohook import errors
from nanohook.values import frozen

MAX_CANDIDATES: Final = 20
"""Addresses kept for one task; the worst make room for more."""
MAX_NAMED: Final = 5
"""Addresses taken of one body."""
MIN_TRIES: Final = 3
"""Failures before a candidate is given up, however much time has passed: sleep uses up time, not tries."""
ASK_AFTER_FAILURES: Final = 2
"""A result that fails so often makes ``record-info`` due."""

_MINUTE_US: Final = 60 * 1_000_000
_AT_ONCE: Final = 0


class Outcome(enum.StrEnum):
    """Why a result could not be had from an address."""

    AWAY = "away"
    """No connection, no answer in time, too slow, or 408, 425, 429, 5xx."""
    MISSING = "missing"
    """404, 410, or another 4xx that is not about rights."""
    FORBIDDEN = "forbidden"
    """401, 403."""
    BROKEN = "broken"
    """Empty, half of it, mislabelled, or no picture that can be read."""
    TOO_LARGE = "too_large"
    """More bytes or pixels than are taken."""
    REFUSED = "refused"
    """A URL that must not be asked for: its host is a private address, it is plain http, or none at all."""
    NOT_PUBLIC = "not_public"
    """Its host's name resolves to a private address: never connected to, but a captive portal or a filter of
    this machine's network says that of every name, and may be passed soon."""
    NOT_STORED = "not_stored"
    """It was fetched, and the storage did not take it."""
    CRASHED = "crashed"
    """It was fetched, and finishing it raised what nobody thought of."""
    DEADLY = "deadly"
    """Decoding it ended the process, again and again."""


@frozen
class Patience:
    """What an outcome that lasts means."""

    code: str
    """The error that the task ends with, one of ``words.FAULTS``."""
    for_us: int
    """How long the same is tried again, µs from the first time; 0: not at all."""


PATIENCE: Final = {
    Outcome.AWAY: Patience(code="download_failed", for_us=24 * 60 * _MINUTE_US),
    Outcome.MISSING: Patience(code="download_failed", for_us=5 * _MINUTE_US),
    Outcome.FORBIDDEN: Patience(code="download_failed", for_us=60 * _MINUTE_US),
    Outcome.BROKEN: Patience(code="not_an_image", for_us=5 * _MINUTE_US),
    Outcome.TOO_LARGE: Patience(code="too_large", for_us=_AT_ONCE),
    Outcome.REFUSED: Patience(code="download_failed", for_us=_AT_ONCE),
    Outcome.NOT_PUBLIC: Patience(code="download_failed", for_us=60 * _MINUTE_US),
    Outcome.NOT_STORED: Patience(code="storage_failed", for_us=24 * 60 * _MINUTE_US),
    Outcome.CRASHED: Patience(code="internal", for_us=24 * 60 * _MINUTE_US),
    Outcome.DEADLY: Patience(code="internal", for_us=_AT_ONCE),
}
"""The one table of what each outcome of a download means. Source: CONTRACT section 3, "patience in clock time"."""


_OURS: Final = frozenset({Outcome.NOT_PUBLIC, Outcome.NOT_STORED, Outcome.CRASHED})
"""What this machine or its network did: another picture would fare no better."""


class DownloadFailed(errors.UpstreamFailed):
    """
    A result could not be fetched from an address.

    Args:
        outcome: What became of it.
        retry_after_s: When the host wants to be asked again, seconds; ``None`` when it did not say.
    """

    code = "download_failed"

    def __init__(self, message: str, *, outcome: Outcome, retry_after_s: float | None = None) -> None:
        super().__init__(message, code=PATIENCE[outcome].code)
        self.outcome = outcome
        self.retry_after_s = retry_after_s


@frozen
class Candidate:
    """An address that was named for a task's result, and what came of trying it."""

    url: str
    due_at: int = 0
    """Not to be tried before, µs."""
    failures: int = 0
    """Tries that came to nothing, in all."""
    outcome: Outcome | None = None
    """What the last of them came to."""
    began: tuple[tuple[int, int], ...] = ()
    """For each patience that was begun, how long it is and when it began, both µs: another failure ends none."""
    is_dead: bool = False
    """Not to be tried any more."""

    @property
    def patient_until(self) -> int:
        """When the patience with what it came to last is over, µs."""
        for_us = 0 if self.outcome is None else PATIENCE[self.outcome].for_us
        return dict(self.began).get(for_us, 0) + for_us

    @property
    def may_be_there(self) -> bool:
        """Its host was not what failed for good: a retry may have it from there without paying."""
        return not self.is_dead or self.outcome in _OURS


def named(
    present: Sequence[Candidate], urls: Iterable[str], *, is_confirmed: bool = False, now_us: int
) -> tuple[Candidate, ...]:
    """
    Add *urls* to the candidates, in the order in which they were named; what is there already stays as it is.

    A dead one, too: who names it once more may know no better, and a task must come to an end. Where there are too
    many, dead ones make room first, then those that have failed most.

    Args:
        is_confirmed: ``record-info`` names them, which is believed before any callback: they come first.
    """
    known = {candidate.url for candidate in present}
    fresh_urls = [url for url in dict.fromkeys(urls) if url not in known][:MAX_NAMED]
    added = [Candidate(url=url, due_at=now_us) for url in fresh_urls]
    worst = sorted(present, key=lambda each: (each.is_dead, each.failures), reverse=True)
    gone = {each.url for each in worst[: max(0, len(present) + len(added) - MAX_CANDIDATES)]}
    kept = [each for each in present if each.url not in gone]
    return (*added, *kept) if is_confirmed else (*kept, *added)


def fresh(candidates: Iterable[Candidate], *, now_us: int) -> tuple[Candidate, ...]:
    """Give each of *candidates* its whole patience again, as the next attempt of a job does."""
    return tuple(Candidate(url=candidate.url, due_at=now_us) for candidate in candidates)


def tried(candidate: Candidate, outcome: Outcome, *, pause_us: int, now_us: int) -> Candidate:
    """
    Say what *candidate* is after a try that came to *outcome*: due again after a pause, or dead.

    Args:
        pause_us: Back-off; cut so that the last try comes when patience ends, not after.
    """
    for_us = PATIENCE[outcome].for_us
    began = {for_us: now_us, **dict(candidate.began)}
    failures = candidate.failures + 1
    until = began[for_us] + for_us
    due_at = now_us + pause_us
    return Candidate(
        url=candidate.url,
        due_at=min(due_at, until) if until > now_us else due_at,
        failures=failures,
        outcome=outcome,
        began=tuple(sorted(began.items())),
        is_dead=now_us >= until and (failures >= MIN_TRIES or not for_us),
    )


def is_reconcile_due(candidates: Iterable[Candidate]) -> bool:
    """
    Tell whether NanoBanana is to be asked for another address after one more failure.

    At the second failure of all together, and each time that their number has doubled since.
    """
    failures = sum(candidate.failures for candidate in candidates)
    return failures >= ASK_AFTER_FAILURES and failures & (failures - 1) == 0


def next_of(candidates: Iterable[Candidate]) -> Candidate | None:
    """Choose the candidate to try next: the one due first, of several the one named first; ``None``: all dead."""
    alive = [candidate for candidate in candidates if not candidate.is_dead]
    return min(alive, key=lambda candidate: candidate.due_at, default=None)
