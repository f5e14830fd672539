"""What an endpoint may use, built once by ``app.create_app``."""

import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeVar

from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.types import Scope

from nanohook import errors
from nanohook.database import Database, Lane, Transaction, Unit
from nanohook.decoding import Decoder
from nanohook.flow.terms import Terms
from nanohook.hub import Hub
from nanohook.passwords import Passwords
from nanohook.remote.mail import Mailer
from nanohook.rules import callbacks, signing
from nanohook.rules.job import Task
from nanohook.settings import Settings
from nanohook.storage import Storage
from nanohook.stores import accounts
from nanohook.stores.accounts import Person
from nanohook.web import query
from nanohook.web.metrics import Metrics
from nanohook.web.rates import Cooldown, Rates
from nanohook.web.readiness import Readiness
from nanohook.web.rejections import Rejections
from nanohook.web.shares import Shares

_LONG_WAIT_S: Final = 0.5
"""Whoever waited for longer is looked at again: to be shut out is felt within a second."""

T = TypeVar("T")


class Check(Protocol):
    """Asks ``record-info`` after a task because a person wants to know, and takes the answer."""

    async def __call__(self, task: Task, *, owner_id: str, wait_s: float) -> callbacks.Record | None:
        """Ask, for *owner_id*, who waits no longer than *wait_s*; ``None``: nothing new is known."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    """The service's parts that the web side stands on."""

    settings: Settings
    instance: str
    """Eight hexadecimal digits that tell this instance from others on its host, for as long as its database."""
    terms: Terms
    database: Database
    storage: Storage
    decoder: Decoder
    tokens: signing.Tokens
    hub: Hub
    rejections: Rejections
    metrics: Metrics
    webhook_secrets: tuple[bytes, ...]
    readiness: Readiness
    passwords: Passwords
    mailer: Mailer
    rates: Rates
    proxy_notes: Cooldown
    shares: Shares
    make_room: Callable[[str | None], Awaitable[None]]
    """Removes early what a person (``None``: anybody) has deleted of what was never generated; seconds at most."""
    want_room: Callable[[], None]
    """Has the same done for everybody, with nobody waiting for it."""
    check: Check | None
    """``None`` without a key for NanoBanana."""
    guests_are_local: bool
    """``dev``: a Host that is not loopback reaches only the webhook and media."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """A request of somebody who is known and may do this."""

    request: Request
    parts: Parts
    person: Person
    ask_again: Callable[[], Awaitable[Person]]
    """Tells anew who is asking, or raises: after a wait they may have been shut out."""
    since: float = field(default_factory=time.monotonic)
    """When they were let in, by the monotonic clock."""

    @property
    def job_id(self) -> str:
        """The job that the path names."""
        return str(self.request.path_params["job_id"])

    @property
    def sees(self) -> str | None:
        """Whose jobs the caller may look at and end: their own, or everybody's (``None``) as an admin."""
        return None if self.person.is_admin else self.person.id

    async def write(self, unit: Unit[T], *, size_bytes: int = 0) -> T:
        """
        Run *unit* in the next commit, in this person's name.

        A body may take minutes to come: what was asked before an account was disabled or deleted is not stored
        after it.

        Raises:
            Unauthenticated: The person was shut out since they were let in.
            Unavailable: The service is closing, or the commit failed.
        """

        async def run(tx: Transaction) -> T:
            began = time.perf_counter()
            try:
                if not await accounts.may_come_in(tx, self.person.id):
                    raise errors.Unauthenticated("this account was disabled meanwhile: nothing was stored")
                return await unit(tx)
            finally:
                self.parts.shares.loop_time.charge(self.person.id, time.perf_counter() - began)

        return await self.parts.database.write(run, size_bytes=size_bytes)

    async def read(self, unit: Unit[T], *, lane: Lane) -> T:
        """
        Run *unit* on a connection of *lane*; what it takes counts as this person's, if a thread does it.

        Raises:
            Unavailable: The database does not answer, or not in time.
            Unauthenticated: The person was shut out while they waited for it.
            Forbidden: They may not do this any more.
        """
        if lane not in self.parts.shares.turns:
            return await self.parts.database.read(unit, lane=lane)
        meter = self.parts.shares.thread_time.thread_meter(self.person.id)

        async def metered(tx: Transaction) -> T:
            with meter():
                return await unit(tx)

        try:
            return await self.parts.database.read(metered, lane=lane)
        finally:
            # Whoever was shut out meanwhile is told neither what was found nor that nothing was.
            if time.monotonic() - self.since > _LONG_WAIT_S:
                await self.ask_again()

    @contextlib.asynccontextmanager
    async def turn(self, lane: Lane = Lane.PAGE, *, rows: int = 0) -> AsyncIterator[None]:
        """
        Wait for the caller's turn at *lane*; held while rows are read, and rendered.

        Args:
            rows: As many of them as are asked for; nothing is read for a long page that would not be taken.

        Raises:
            TooMany: As many of this person's wait as may, or they do not read what they are answered.
            Unavailable: As many of everybody's do.
        """
        shares, owner_id = self.parts.shares, self.person.id
        if lane not in shares.turns:  # its reads are over at once
            yield
            return
        is_long = rows > query.DEFAULT_LIMIT
        if is_long:
            shares.outgoing.check(owner_id)
        await shares.thread_time.wait(owner_id)
        async with shares.turns[lane].take(owner_id):
            if is_long:  # meanwhile others of theirs were answered
                shares.outgoing.check(owner_id)
            yield

    def whose(self) -> str | None:
        """
        Tell whose things a list shall be of: the caller's, or with ``scope=all`` everybody's.

        Raises:
            Forbidden: That is for admins.
            Invalid: There is no such scope.
        """
        return None if wants_all(self.person, self.request.query_params) else self.person.id


def wants_all(person: Person, asked: QueryParams) -> bool:
    """
    Tell whether *person* asks for everybody's things, and let only admins.

    Raises:
        Forbidden: They are none.
        Invalid: There is no such scope.
    """
    everybodys = query.wants_all(asked)
    if everybodys and not person.is_admin:
        raise errors.Forbidden("scope=all is for admins")
    return everybodys


def signed_address(tokens: signing.Tokens, key: str) -> str:
    """Build the root-relative address of stored bytes; the same one all day, so that browsers can cache it."""
    token = tokens.sign_media(key=key, expires_at_s=signing.media_expiry(time.time()))
    return f"/media/{key}?token={token}"


def parts_of(scope: Scope) -> Parts:
    """Find the parts of the service that a request came to."""
    parts: Parts = scope["state"]["parts"]
    return parts
