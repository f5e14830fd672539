"""What the operator's settings mean for the flow of a job, in the units of the database."""

from dataclasses import dataclass
from typing import Final

from nanohook.settings import Settings

SECOND_US: Final = 1_000_000
FINISH_FOR_US: Final = 24 * 3600 * SECOND_US
"""Finishing is tried for a day."""
CALLBACK_GRACE_S: Final = 7 * 24 * 3600
"""A callback's address is valid this long after the attempt's deadline."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Terms:
    """Times are µs."""

    believed_hosts: frozenset[str]
    """Hosts whose results a signed callback is believed for."""
    deadline_us: int
    """How long NanoBanana is given for a task, from its acceptance."""
    ask_after_us: int | None
    """First ``record-info`` without a callback; ``None``: not before the deadline."""
    ask_every_us: int
    has_public_url: bool
    """Callbacks can arrive."""

    @classmethod
    def of(cls, settings: Settings) -> "Terms":
        """Read the terms from *settings*."""
        after_s = settings.reconcile_after_s if settings.public_url else settings.reconcile_every_s
        return cls(
            believed_hosts=settings.believed_hosts,
            deadline_us=int(settings.job_deadline_s * SECOND_US),
            ask_after_us=None if after_s is None else int(after_s * SECOND_US),
            ask_every_us=int(settings.reconcile_every_s * SECOND_US),
            has_public_url=settings.public_url is not None,
        )

    def ask_interval_us(self, asks: int) -> int:
        """Time to the next ``record-info`` after *asks* of them: slower after 10, and after 30."""
        slow_s = 30 if asks >= 30 else 10 if asks >= 10 else 0  # noqa: PLR2004 - the contract's numbers
        return max(self.ask_every_us, slow_s * SECOND_US)
