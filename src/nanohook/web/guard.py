"""Who is asking, and may they: one decision for each line of the route table."""

import enum
import re
import time
from collections.abc import Awaitable, Callable
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from nanohook import errors
from nanohook.stores import accounts
from nanohook.stores.accounts import Person
from nanohook.web.parts import Call, Parts

COOKIE: Final = "nanohook_session"
SESSION_S: Final = 30 * 24 * 3600
SESSION: Final = "session"
_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "[::1]"})
_PORT: Final = re.compile(r":[0-9]{1,5}\Z")

PublicEndpoint = Callable[[Request, Parts], Awaitable[Response]]
PersonalEndpoint = Callable[[Call], Awaitable[Response]]


class Who(enum.Enum):
    """Whom a route answers."""

    ANYONE = "anyone"
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
        found = await parts.database.read(lambda tx: accounts.by_key(tx, key.strip()))
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
        Forbidden: Known, but not verified or not an admin.
    """
    person = await person_of(request, parts)
    if not person.is_verified:
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
    elif origin in {f"{request.scope['scheme']}://{request.headers.get('host')}", parts.settings.public_url}:
        return
    raise errors.Forbidden("this write did not come from our own page", code="wrong_origin")


async def _by_cookie(request: Request, parts: Parts) -> Person | None:
    cookie = request.cookies.get(COOKIE)
    if cookie is None:
        return None
    try:
        user_id = parts.tokens.read_purpose(SESSION, cookie, time.time())
    except errors.SignatureInvalid:
        return None
    check_origin(request, parts)
    return await parts.database.read(lambda tx: accounts.by_id(tx, user_id))
