"""
How often a person may ask: sliding windows, one budget for each kind of request.

If the limiter cannot be reached, requests pass: a limit is a courtesy to everybody else, and no reason to turn
people away. One warning says so, and one line when it is back.

Source: RateLimit header fields for HTTP, draft-ietf-httpapi-ratelimit-headers-10.
"""

import collections
import enum
import ipaddress
import itertools
import logging
import math
import time
from dataclasses import dataclass
from typing import Final

import limits
from limits.aio.storage import MemoryStorage, Storage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from starlette.datastructures import MutableHeaders

from nanohook import clock, errors

logger = logging.getLogger(__name__)

_READ: Final = "600/minute"
_SIGN_IN: Final = "10/minute"
_SIGN_IN_ACCOUNT: Final = "100/minute"
_SIGN_IN_NETWORK: Final = "100/minute"
"""Of one network, whatever accounts it tries: many people may share it, and each try may cost a hash."""
_MAIL: Final = "10/minute"
MOST_WINDOWS: Final = 200_000
"""Counted at once, 50 MB; beyond that the oldest is forgotten: strangers choose networks and accounts freely."""
_FORGOTTEN_AT_ONCE: Final = 3
"""Windows that a new one makes room for: more than one, so that the ended ones are never many."""
_V6_PREFIX: Final = 64
"""One customer's share of IPv6: whoever has it has all of its addresses."""


class Rate(enum.Enum):
    """Kinds of requests that share a budget; the value is its name in headers."""

    STATUS = "status"
    """Status, result and check."""
    WRITE = "write"
    UPLOAD = "upload"
    """Pictures that come in, apart from other writes: who drops fifty at once must still be able to generate."""
    READ = "read"
    SIGN_IN = "sign-in"
    """Whatever a stranger could try passwords or addresses with, from one network at one account."""
    SIGN_IN_ACCOUNT = "sign-in-account"
    """The same at one account, from everywhere."""
    SIGN_IN_NETWORK = "sign-in-network"
    """The same from one network, at whatever account."""
    MAIL = "mail"
    """Mails to one recipient."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """How much of a budget is left after a request."""

    rate: Rate
    quota: int
    window_s: int
    left: int
    reset_s: int
    """When there is more, seconds."""
    is_over: bool

    def check(self) -> None:
        """
        Refuse the request if the budget is spent.

        Raises:
            TooMany: With the time to come back.
        """
        if self.is_over:
            raise errors.TooMany(
                f"at most {self.quota} of these in {self.window_s} seconds",
                code="rate_limited",
                retry_after_s=self.reset_s,
            )

    def mark(self, headers: MutableHeaders) -> None:
        """Tell the client how it stands."""
        headers["RateLimit-Policy"] = f'"{self.rate.value}";q={self.quota};w={self.window_s}'
        headers["RateLimit"] = f'"{self.rate.value}";r={self.left};t={self.reset_s}'


class _Windows(MemoryStorage):
    """
    The library's windows in memory, of which each new one removes a few that have ended.

    The library looks at every key after each request: with many people that would hold up the event loop.
    """

    def __init__(self) -> None:
        super().__init__()
        # A plain dictionary walks over all that was removed from its front.
        self.expirations = collections.OrderedDict()
        self._clock = clock.JumpWatch()

    async def acquire_sliding_window_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """Take *amount* of a window; all windows begin anew when the wall clock, which they go by, was set."""
        if self._clock.look():
            await self.reset()
        return await super().acquire_sliding_window_entry(key, limit, expiry, amount)

    async def incr(self, key: str, expiry: float, amount: int = 1) -> int:
        """Count *amount* under *key*, which is forgotten after *expiry* seconds."""
        now = time.time()
        await self.get(key)
        if key not in self.expirations:
            # In the order in which they began, which is nearly that in which they end.
            for old in tuple(itertools.islice(self.expirations, _FORGOTTEN_AT_ONCE)):
                if self.expirations[old] <= now or len(self.expirations) >= MOST_WINDOWS:
                    await self.clear(old)
            self.expirations[key] = now + expiry
        self.storage[key] += amount
        return self.storage[key]


class Rates:
    """
    Counts requests against their budgets, and by route.

    Args:
        status: Budget of ``Rate.STATUS``, such as ``60/minute``.
        write: Budget of ``Rate.WRITE``.
        upload: Budget of ``Rate.UPLOAD``.
        storage: Where the windows are kept; this process's memory without one.
    """

    def __init__(self, *, status: str, write: str, upload: str, storage: Storage | None = None) -> None:
        self._limiter = SlidingWindowCounterRateLimiter(storage or _Windows())
        self._budgets: Final = {
            Rate.STATUS: limits.parse(status),
            Rate.WRITE: limits.parse(write),
            Rate.UPLOAD: limits.parse(upload),
            Rate.READ: limits.parse(_READ),
            Rate.SIGN_IN: limits.parse(_SIGN_IN),
            Rate.SIGN_IN_ACCOUNT: limits.parse(_SIGN_IN_ACCOUNT),
            Rate.SIGN_IN_NETWORK: limits.parse(_SIGN_IN_NETWORK),
            Rate.MAIL: limits.parse(_MAIL),
        }
        self._is_away = False
        self.counts: collections.Counter[tuple[str, str]] = collections.Counter()
        """By route and ``passed`` or ``limited``."""

    async def hit(self, rate: Rate, whose: str, *, route: str) -> Standing | None:
        """Count a request of *whose*; ``None``: the limiter is away, and it passes."""
        budget = self._budgets[rate]
        try:
            passed = await self._limiter.hit(budget, rate.value, whose)
            window = await self._limiter.get_window_stats(budget, rate.value, whose)
        except Exception as exc:  # noqa: BLE001 - whatever its storage raises: a request shall not fail for it
            if not self._is_away:
                self._is_away = True
                logger.warning("rates.away", extra={"reason": type(exc).__name__, "effect": "requests pass"})
            return None
        if self._is_away:
            self._is_away = False
            logger.warning("rates.back")
        self.counts[route, "passed" if passed else "limited"] += 1
        return Standing(
            rate=rate,
            quota=budget.amount,
            window_s=budget.get_expiry(),
            left=window.remaining,
            reset_s=max(1, math.ceil(window.reset_time - time.time())),
            is_over=not passed,
        )

    async def sign_in(self, rate: Rate, whose: str, *, route: str) -> None:
        """
        Count what somebody tries who is not signed in, against a network, an account, or the two together.

        Raises:
            TooMany: Too often.
        """
        standing = await self.hit(rate, whose, route=route)
        if standing is not None:
            standing.check()


class Cooldown:
    """Lets one thing be done once in a while, however often it is asked for."""

    def __init__(self, every_s: float) -> None:
        self._every_s: Final = every_s
        self._next_at = 0.0

    def is_over(self) -> bool:
        """Tell whether it may be done now; from then on it may not for a while."""
        now = time.monotonic()
        if now < self._next_at:
            return False
        self._next_at = now + self._every_s
        return True


def network_of(host: str) -> str:
    """Name whom an address of the net belongs to: itself, or for IPv6 the share of one customer."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv4Address):
        return host
    mapped = address.ipv4_mapped
    return str(mapped or ipaddress.ip_network((address, _V6_PREFIX), strict=False))
