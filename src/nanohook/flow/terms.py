"""What the operator's settings mean for the flow of a job, in the units of the database."""

from dataclasses import dataclass
from typing import Final

from nanohook.address import PublicAddress
from nanohook.settings import AUTO, Settings

SECOND_US: Final = 1_000_000
FINISH_FOR_US: Final = 24 * 3600 * SECOND_US
"""Finishing is tried for a day."""
UNREADABLE_FOR_US: Final = 15 * 60 * SECOND_US
"""Answers of ``record-info`` that say nothing count as answers so long after the deadline."""
NO_ANSWER_FOR_US: Final = 24 * 3600 * SECOND_US
"""No answer at all counts as one so long after the deadline."""
CALLBACK_GRACE_S: Final = 7 * 24 * 3600
"""A callback's address is valid this long after the attempt's deadline."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Terms:
    """Times are µs."""

    believed_hosts: frozenset[str]
    """Hosts whose results a signed callback is believed for."""
    deadline_us: int
    """How long NanoBanana is given for a task, from its acceptance."""
    callback_wait_us: int | None
    """While callbacks can arrive: first ``record-info`` without one; ``None``: not before the deadline."""
    ask_every_us: int
    address: PublicAddress
    """The same one for all parts of a service: a tunnel may come, change or go at any time."""

    @classmethod
    def of(cls, settings: Settings, address: PublicAddress | None = None) -> "Terms":
        """
        Read the terms from *settings*.

        Args:
            address: Followed from now on; without it, that of *settings*, which is none while it is ``auto``.
        """
        wait_s = settings.reconcile_after_s
        return cls(
            believed_hosts=settings.believed_hosts,
            deadline_us=int(settings.job_deadline_s * SECOND_US),
            callback_wait_us=None if wait_s is None else int(wait_s * SECOND_US),
            ask_every_us=int(settings.reconcile_every_s * SECOND_US),
            address=address or PublicAddress(settings.known_public_url, may_come=settings.public_url == AUTO),
        )

    @property
    def public_url(self) -> str | None:
        """Where the internet reaches this service now, without its last slash."""
        return self.address.url

    @property
    def has_public_url(self) -> bool:
        """Callbacks can arrive."""
        return self.address.url is not None

    @property
    def awaits_callbacks(self) -> bool:
        """Callbacks can arrive, or will once the tunnel is back."""
        return self.has_public_url or self.address.may_come

    @property
    def ask_after_us(self) -> int | None:
        """First ``record-info`` without a callback; ``None``: not before the deadline."""
        return self.callback_wait_us if self.has_public_url else self.ask_every_us

    def ask_interval_us(self, asks: int, *, chance: float = 0.0) -> int:
        """
        Time to the next ``record-info`` after *asks* of them: slower after 10, and after 30.

        Args:
            chance: The dice, 0 up to but not including 1: up to a quarter is added, so that tasks of one moment
                are not all asked after at one moment.
        """
        slow_s = 30 if asks >= 30 else 10 if asks >= 10 else 0  # noqa: PLR2004 - the contract's numbers
        return int(max(self.ask_every_us, slow_s * SECOND_US) * (1 + chance / 4))
