"""Who is asking, and may they: one decision for each line of the route table."""

import asyncio
import contextlib
import enum
import logging
import re
import time
from collections.abc import Awaitable, Callable
from typing import Final

from starlette.datastructures import URL
from starlette.requests import Request
from starlette.responses import Response

from nanohook import clock, errors, ids
from nanohook.database import Lane
from nanohook.flow import accounts as flow
from nanohook.flow.terms import SECOND_US
from nanohook.stores import accounts
from nanohook.stores.accounts import Person
from nanohook.web.parts import Call, Parts

logger = logging.getLogger(__name__)

COOKIE: Final = "nanohook_session"
SESSION: Final = "session"
_NOTED_EVERY_US: Final = 60 * SECOND_US
"""The time of a key's last use is noted no more often than this."""
_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "[::1]"})
_PORTS: Final = {"http": ":80", "https": ":443"}
_PORT: Final = re.compile(r":[0-9]{1,5}\Z")

PublicEndpoint = Callable[[Request, Parts], Awaitable[Response]]
PersonalEndpoint = Callable[[Call], Awaitable[Response]]


class Who(enum.Enum):
    """Whom a route answers."""

    KNOWN = "known"
    """Signed in; the address may be unconfirmed."""
    PERSON = "person"
    """Signed in, with a verified address."""
    ADMIN = "admin"


async def person_of(request: Request, parts: Parts) -> Person:
    """
    Tell who is asking, by API key or session cookie.

    Raises:
        Unauthenticated: Nobody that is known.
        Forbidden: ``wrong_origin``: a page elsewhere tries to write with this person's cookie.
    """
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    if scheme:
        if scheme.lower() != "bearer" or not key.strip().isascii():
            raise errors.Unauthenticated("use Authorization: Bearer with an API key")
        if not ids.is_key(key.strip()):
            raise errors.Unauthenticated("this needs an API key or a login")
        found = await parts.database.read(lambda tx: accounts.by_key(tx, key.strip()), lane=Lane.SIGN_IN)
        _note_use(parts, found)
    else:
        found = await _by_cookie(request, parts)
    if found is None:
        raise errors.Unauthenticated("this needs an API key or a login")
    return found


async def require(request: Request, parts: Parts, who: Who) -> Person:
    """
    Let through whom *who* names.

    Raises:
        Unauthenticated: Nobody that is known.
        Forbidden: ``email_unverified``, or not an admin.
    """
    person = await person_of(request, parts)
    if not person.is_verified and who is not Who.KNOWN:
        raise errors.Forbidden("confirm your e-mail address first", code="email_unverified")
    if who is Who.ADMIN and not person.is_admin:
        raise errors.Forbidden("this is for admins")
    return person


def check_host(request: Request, parts: Parts) -> None:
    """
    Under ``dev``, let a tunnel's guests reach nothing but what the tunnel is for.

    Raises:
        NotFound: The request came by a name that is not this machine's.
    """
    # The name alone: a port, or nothing, may follow it.
    name = _PORT.sub("", request.headers.get("host", "")).lower()
    if parts.guests_are_local and name not in _LOOPBACK:
        raise errors.NotFound("no such page")


def check_origin(request: Request, parts: Parts) -> None:
    """
    Refuse a write by cookie that another site's page makes in this person's browser.

    Raises:
        Forbidden: ``wrong_origin``.
    """
    if request.method in _SAFE:
        return
    origin = request.headers.get("origin")
    if origin is None:
        if request.headers.get("sec-fetch-site") == "same-origin":
            return
    elif origin in {f"{request.scope['scheme']}://{request.headers.get('host')}", _public_origin(parts)}:
        return
    raise errors.Forbidden("this write did not come from our own page", code="wrong_origin")


def _public_origin(parts: Parts) -> str | None:
    """Write the public address as a browser names the origin of its pages: no path, no port that goes without."""
    if parts.terms.public_url is None:
        return None
    url = URL(parts.terms.public_url)
    return f"{url.scheme}://{url.netloc.lower().removesuffix(_PORTS[url.scheme])}"


async def _by_cookie(request: Request, parts: Parts) -> Person | None:
    cookie = request.cookies.get(COOKIE)
    if cookie is None:
        return None
    try:
        session_id = parts.tokens.read_purpose(SESSION, cookie, time.time())
    except errors.SignatureInvalid:
        return None
    check_origin(request, parts)
    return await parts.database.read(
        lambda tx: accounts.by_session(tx, session_id, now_us=clock.now_us()), lane=Lane.SIGN_IN
    )


async def sign_in(request: Request, parts: Parts, answer: Response, *, user_id: str) -> None:
    """Begin a session, with its cookie on *answer*; the one that this browser had ends."""
    session_id = await parts.database.write(
        lambda tx: flow.sign_in(tx, user_id, former=former(request, parts), now_us=clock.now_us())
    )
    set_cookie(request, parts, answer, session_id)


def former(request: Request, parts: Parts) -> str | None:
    """Read which session this browser has, to be ended by the next."""
    with contextlib.suppress(errors.SignatureInvalid):
        return parts.tokens.read_purpose(SESSION, request.cookies.get(COOKIE, ""), time.time())
    return None


def set_cookie(request: Request, parts: Parts, answer: Response, session_id: str) -> None:
    """Put the cookie of a session on *answer*."""
    answer.set_cookie(
        COOKIE,
        parts.tokens.sign_purpose(SESSION, session_id, int(time.time()) + flow.SESSION_S),
        max_age=flow.SESSION_S,
        httponly=True,
        samesite="lax",
        secure=_is_secure(request, parts),
    )


def _is_secure(request: Request, parts: Parts) -> bool:
    """Tell whether this browser came by TLS: as far as we see, or by the name of our public address."""
    public = URL(parts.terms.public_url or "")
    return request.url.scheme == "https" or (
        public.scheme == "https" and request.headers.get("host", "").lower() == public.netloc.lower()
    )


def _note_use(parts: Parts, person: Person | None) -> None:
    """Note that a key was used, without making its request wait for that."""
    if person is None or person.key_id is None:
        return
    key_id, now = person.key_id, clock.now_us()
    if person.key_used_at is None or now - person.key_used_at > _NOTED_EVERY_US:
        with contextlib.suppress(errors.Unavailable):  # a full line has better things to do
            noted = parts.database.offer(lambda tx: accounts.note_use(tx, key_id, now_us=now))
            noted.add_done_callback(_nobody_waits)


def _nobody_waits(noted: "asyncio.Future[None]") -> None:
    if not noted.cancelled() and (exc := noted.exception()) is not None:
        logger.info("key.use_not_noted", extra={"reason": type(exc).__name__})
