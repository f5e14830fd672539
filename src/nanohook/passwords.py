"""
Passwords: made into argon2id hashes and checked against them, two at once, away from the event loop.

Each takes 64 MiB and a good part of a core. So what may wait is bounded, and shared out by fair queuing between
the networks that ask; and the threads yield to all others, so that a flood of logins is felt by logins alone.

Sources: RFC 9106, section 4, the second recommended option, which is argon2-cffi's default; RFC 7806, section 2,
for the round robin and for dropping from the longest line.
"""

import asyncio
import base64
import collections
import contextlib
import contextvars
import logging
import secrets
import unicodedata
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, TypeVar

import argon2
from argon2 import exceptions, low_level

from nanohook import errors, threads

MOST_BYTES: Final = 1024
"""Of a password in UTF-8; longer ones are never hashed."""

LEAST_CHARS: Final = 8

THREADS: Final = 2
"""Hashed at once: 128 MiB."""

MOST_WAITING: Final = 64
"""For one of the threads; some three seconds' worth on a small machine, and a browser waits longer."""

_STAND_IN: Final = b""
_logger = logging.getLogger(__name__)

T = TypeVar("T")


class Passwords:
    """
    Hashes and checks. Made once; close it.

    Args:
        hasher: In place of one with the library's parameters.
    """

    def __init__(self, hasher: argon2.PasswordHasher | None = None) -> None:
        self._hasher: Final = hasher or argon2.PasswordHasher()
        self._nobodys: Final = _nobodys(self._hasher)
        self._pool: Final = ThreadPoolExecutor(THREADS, thread_name_prefix="password", initializer=threads.be_nice)
        self._line: Final = _FairQueue(places=THREADS, most_waiting=MOST_WAITING)

    async def hash(self, password: str, *, whose: str = "") -> str:
        """
        Make what is stored of *password*, with a salt of its own.

        Args:
            password: As it came in.
            whose: The network that it came from: each has its turn.

        Raises:
            Invalid: ``check`` has something against it.
            Unavailable: Too many wait already, or there is no memory for it.
        """
        secret, reason = _encoded(password), check(password)
        if secret is None or reason is not None:
            raise errors.Invalid("the password cannot be used", fields={"password": reason or "cannot be used"})
        try:
            return await self._in_thread(lambda: self._hasher.hash(secret), whose=whose)
        except exceptions.HashingError as exc:
            raise errors.Unavailable("the password could not be hashed, ask again") from exc

    async def verify(self, stored: str | None, password: str, *, whose: str = "") -> bool:
        """
        Whether *stored* was made of *password*.

        The time does not tell why the answer is no. Without *stored* the same work is done on a hash that no
        password has. One that nobody can have, too long or not text, is not hashed, since a megabyte would
        cost more than it should: an empty one is, in its place, and the answer is no.

        Args:
            stored: As ``hash`` made it; ``None``: there is no such person, or one without a password. A
                broken one is logged, and the answer is no.
            password: As it came in.
            whose: The network that it came from: each has its turn.

        Raises:
            Unavailable: Too many wait already.
        """
        secret = _encoded(password)
        if secret is None:
            return await self._in_thread(lambda: self._verify(None, _STAND_IN), whose=whose)
        return await self._in_thread(lambda: self._verify(stored, secret), whose=whose)

    def needs_rehash(self, stored: str) -> bool:
        """Whether *stored* was made with other parameters than today's: hash again, once ``verify`` said yes."""
        try:
            return self._hasher.check_needs_rehash(stored)
        except exceptions.InvalidHashError:
            return True

    def close(self) -> None:
        """Drop what waits; a thread under way is not waited for, whoever comes later gets ``Unavailable``."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _in_thread(self, work: Callable[[], T], *, whose: str) -> T:
        await self._line.acquire(whose)
        loop = asyncio.get_running_loop()

        def release(_done: "Future[T]") -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended, and nobody waits any more
                loop.call_soon_threadsafe(self._line.release)

        try:
            # With the context, so that what is logged there has the request's id.
            running = self._pool.submit(contextvars.copy_context().run, work)
        except RuntimeError as exc:
            self._line.release()
            raise errors.Unavailable("passwords are no longer checked here: the service is ending") from exc
        # Of the pool's own future: it is done when the thread is, or when a waiting one was given up. The
        # loop's would be done as soon as its caller went away, with the thread and its memory still busy.
        running.add_done_callback(release)
        return await asyncio.wrap_future(running)

    def _verify(self, stored: str | None, secret: bytes) -> bool:
        if stored is not None:
            try:
                return self._is_made_of(stored, secret)
            except (exceptions.VerificationError, ValueError) as exc:
                # A person must act: whoever it belongs to cannot log in. The hash itself stays out of the log.
                _logger.error("password.unreadable", extra={"reason": str(exc) or type(exc).__name__})  # noqa: TRY400
        self._is_made_of(self._nobodys, secret)
        return False

    def _is_made_of(self, stored: str, secret: bytes) -> bool:
        try:
            return self._hasher.verify(stored, secret)
        except exceptions.VerifyMismatchError:
            return False


class _FairQueue:
    """
    A semaphore whose waiters take turns by whose they are; on the event loop alone.

    Full, it drops the newest of the longest line, unless that is the newcomer's own: whoever asks for much is
    refused first, and no line of one network keeps another out.
    """

    def __init__(self, *, places: int, most_waiting: int) -> None:
        self._free = places
        self._most_waiting: Final = most_waiting
        # In the order of their turns.
        self._lines: Final[dict[str, collections.deque[asyncio.Future[None]]]] = {}

    async def acquire(self, whose: str) -> None:
        """
        Take a place, or wait for one.

        Raises:
            Unavailable: Too many wait already.
        """
        if self._free:
            self._free -= 1
            return
        if sum(map(len, self._lines.values())) >= self._most_waiting:
            self._drop_for(whose)
        turn = asyncio.get_running_loop().create_future()
        self._lines.setdefault(whose, collections.deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._forget(whose, turn)
            else:  # the place came in the same moment
                self.release()
            raise

    def release(self) -> None:
        """Give a place back: to the next in turn, if anybody waits."""
        while self._lines:
            whose, line = next(iter(self._lines.items()))
            del self._lines[whose]
            turn = line.popleft()
            if line:
                self._lines[whose] = line
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1

    def _drop_for(self, newcomer: str) -> None:
        longest = max(self._lines, key=lambda whose: len(self._lines[whose]))
        refusal = errors.Unavailable("too many passwords are being checked, ask again")
        if len(self._lines[longest]) <= len(self._lines.get(newcomer, ())) + 1:
            raise refusal
        turn = self._lines[longest][-1]
        self._forget(longest, turn)
        if not turn.done():
            turn.set_exception(refusal)

    def _forget(self, whose: str, turn: "asyncio.Future[None]") -> None:
        line = self._lines.get(whose)
        if line is not None and turn in line:
            line.remove(turn)
            if not line:
                del self._lines[whose]


def check(password: str) -> str | None:
    """Say why *password* cannot be chosen; ``None``: it can."""
    if len(password) < LEAST_CHARS:
        return f"needs at least {LEAST_CHARS} characters"
    if len(password) > MOST_BYTES:
        return f"has more than {MOST_BYTES:,} bytes"
    try:
        size_bytes = len(password.encode())
    except UnicodeEncodeError:
        return "has characters that are not text"
    return f"has more than {MOST_BYTES:,} bytes" if size_bytes > MOST_BYTES else None


def _encoded(password: str) -> bytes | None:
    """UTF-8; ``None`` for what nobody can have as a password."""
    # A character has at least one byte: what has too many of them is not even encoded.
    if len(password) > MOST_BYTES:
        return None
    try:
        # A keyboard that writes é as two characters and one that writes it as one mean the same.
        secret = unicodedata.normalize("NFC", password).encode()
    except UnicodeEncodeError:
        return None
    return secret if len(secret) <= MOST_BYTES else None


def _nobodys(hasher: argon2.PasswordHasher) -> str:
    """
    Write a hash that no password has, in the form and with the parameters of the real ones.

    It is drawn and not computed: it costs nothing to make, and the first unknown person waits no longer than
    the next.
    """
    salt, digest = (
        base64.b64encode(secrets.token_bytes(size)).rstrip(b"=").decode()
        for size in (hasher.salt_len, hasher.hash_len)
    )
    cost = f"m={hasher.memory_cost},t={hasher.time_cost},p={hasher.parallelism}"
    kind = hasher.type.name.lower()
    return f"$argon2{kind}$v={low_level.ARGON2_VERSION}${cost}${salt}${digest}"
