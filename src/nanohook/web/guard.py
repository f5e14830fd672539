"""Who is asking, and may they: one decision for each line of the route table."""

import asyncio
import contextlib
import enum
import functools
import logging
import re
import time
from collections.abc import Awaitable, Callable
from typing import Final

from starlette.datastructures import URL
from starlette.requests import Request
from starlette.responses import Response

from nanohook import clock, errors
from nanohook.database import Lane, Transaction
from nanohook.flow import accounts as flow
from nanohook.flow.accounts import Browser
from nanohook.flow.terms import SECOND_US
from nanohook.stores import accounts, facts
from nanohook.stores.accounts import MAX_USER_AGENT_CHARS, Person
from nanohook.web import credentials, forwarded
from nanohook.web.parts import Call, Parts

logger = logging.getLogger(__name__)

PROXY_NOTED_EVERY_S: Final = 60.0
"""It is noted no more often than this that a proxy was not believed: anybody may send its headers."""
_NOTED_EVERY_US: Final = 60 * SECOND_US
"""The time of the last use of a key or session is noted no more often than this."""
_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "[::1]"})
_PORTS: Final = {"http": ":80", "https": ":443"}
_WRONG_ORIGIN: Final = (
    "this write did not come from our own page: its Origin is neither the address that the request came to nor "
    "NANOHOOK_PUBLIC_URL. Behind a proxy, set NANOHOOK_TRUSTED_PROXIES to its address, or NANOHOOK_PUBLIC_URL to "
    "what browsers call this service; a script sends an API key, or the Origin"
)
_FORWARDED: Final = {"x-forwarded-proto", "x-forwarded-host"}
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
    Tell who is asking, by API key or else by session cookie.

    Raises:
        Unauthenticated: Nobody that is known.
        Forbidden: ``wrong_origin``: a page elsewhere tries to write with this person's cookie.
    """
    key = credentials.api_key(request.headers)
    if key is not None:
        found = await person_of_key(parts, key)
    else:
        by_cookie = await _by_cookie(request, parts)
        if by_cookie is None:
            raise credentials.missing(request.headers)
        found = by_cookie
    _note_use(parts, found)
    return found


async def person_of_key(parts: Parts, key: str) -> Person:
    """
    Find whose API key it is.

    Raises:
        Unauthenticated: Nobody's: it was revoked, or never was, or its owner is disabled.
    """
    found = await parts.database.read(lambda tx: accounts.by_key(tx, key), lane=Lane.SIGN_IN)
    if found is None:
        raise errors.Unauthenticated("this API key opens nothing: it was revoked, or its account is disabled")
    return found


async def require(request: Request, parts: Parts, who: Who) -> Person:
    """
    Tell who is asking, and check that they have the access that *who* asks for.

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


async def let_in(parts: Parts, ask: Callable[[], Awaitable[Person]]) -> Person:
    """
    Tell who is asking, once their share of the event loop's time allows it.

    Args:
        ask: Tells who it is, or raises; called again after a wait, in which they may have been shut out.

    Raises:
        TooMany: As many of this person's requests wait as may.
        Rejected: What *ask* raises.
    """
    person = await ask()
    if await parts.shares.loop_time.wait(person.id):
        person = await ask()
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
    origins = request.headers.getlist("origin")
    if not origins:
        if request.headers.get("sec-fetch-site") == "same-origin":
            return
    elif set(origins) <= _own_origins(request, parts):
        return
    _note_proxy(request, parts)
    raise errors.Forbidden(_WRONG_ORIGIN, code="wrong_origin")


def _note_proxy(request: Request, parts: Parts) -> None:
    """Note for ``nanohook doctor`` that a proxy's word was not taken, if that may be why a write was refused."""
    if request.client is None or forwarded.HOST in request.scope or not _FORWARDED & set(request.headers):
        return
    peer = request.client.host
    address = forwarded.parse_address(peer)
    # A proxy stands near us: a stranger could have himself recommended, or take its turn at being noted.
    if address is None or address.is_global or not parts.proxy_notes.is_over():
        return
    now = clock.now_us()
    with contextlib.suppress(errors.Unavailable):
        noted = parts.database.offer(lambda tx: facts.put(tx, facts.UNTRUSTED_PROXY, f"{now} {peer}"))
        noted.add_done_callback(functools.partial(_nobody_waits, "proxy.not_noted"))


def _own_origins(request: Request, parts: Parts) -> set[str]:
    """Name the origins of our own pages: what this request came to, and the public address."""
    host = _host(request)
    own = {_origin(request.scope["scheme"], host)} if host else set()
    if parts.terms.public_url is not None:
        public = URL(parts.terms.public_url)
        own.add(_origin(public.scheme, public.netloc))
    return own


def _origin(scheme: str, host: str) -> str:
    """Write an origin as a browser does: small letters, no port that goes without."""
    return f"{scheme}://{host.lower().removesuffix(_PORTS.get(scheme, ':'))}"


def _host(request: Request) -> str:
    """Tell the host that the browser asked for: what a trusted proxy says of it, else ``Host``."""
    said: str | None = request.scope.get(forwarded.HOST)
    return said or request.headers.get("host", "")


async def _by_cookie(request: Request, parts: Parts) -> Person | None:
    shown = credentials.sessions(request, parts)
    if not shown:
        return None
    check_origin(request, parts)

    async def first(tx: Transaction) -> Person | None:
        for session in shown:
            person = await accounts.by_session(tx, session.id, now_us=clock.now_us())
            if person is not None:
                return person
        return None

    return await parts.database.read(first, lane=Lane.SIGN_IN)


async def sign_in(request: Request, parts: Parts, answer: Response, *, user_id: str) -> None:
    """Begin a session, with its cookie on *answer*; those that this browser had end."""
    session_id = await parts.database.write(
        lambda tx: flow.sign_in(tx, user_id, browser=browser_of(request, parts), now_us=clock.now_us())
    )
    set_cookie(request, parts, answer, session_id)


def browser_of(request: Request, parts: Parts) -> Browser:
    """Read what is kept of a browser that a session begins in; its former sessions are ended by that."""
    return Browser(
        former=tuple(session.id for session in credentials.sessions(request, parts)),
        user_agent=request.headers.get("user-agent", "")[:MAX_USER_AGENT_CHARS] or None,
        address=None if request.client is None else request.client.host,
    )


def set_cookie(request: Request, parts: Parts, answer: Response, session_id: str) -> None:
    """Put the cookie of a session on *answer*, in place of one by its former name."""
    token = parts.tokens.sign_purpose(credentials.SESSION, session_id, int(time.time()) + flow.SESSION_S)
    _set_cookie(request, parts, answer, token)
    _drop_former(request, parts, answer)


def drop_cookies(request: Request, parts: Parts, answer: Response) -> None:
    """Let the browser forget its session."""
    answer.delete_cookie(credentials.session_cookie(parts), httponly=True, samesite="lax")
    _drop_former(request, parts, answer)


def rename_cookie(request: Request, parts: Parts, answer: Response, person: Person) -> None:
    """Give the cookie of *person*'s session our own name, if it came by the one that all instances once shared."""
    if person.session_id is None or "set-cookie" in answer.headers:
        return
    for session in credentials.sessions(request, parts):
        if session.is_former and session.id == person.session_id:
            _set_cookie(request, parts, answer, session.cookie)
            _drop_former(request, parts, answer)


def _set_cookie(request: Request, parts: Parts, answer: Response, token: str) -> None:
    answer.set_cookie(
        credentials.session_cookie(parts),
        token,
        max_age=flow.SESSION_S,
        httponly=True,
        samesite="lax",
        secure=_is_secure(request, parts),
    )


def _drop_former(request: Request, parts: Parts, answer: Response) -> None:
    # Only ours: an older release on another port may still use that name.
    if any(session.is_former for session in credentials.sessions(request, parts)):
        answer.delete_cookie(credentials.FORMER_COOKIE, httponly=True, samesite="lax")


def _is_secure(request: Request, parts: Parts) -> bool:
    """Tell whether this browser came by TLS: as far as we see, or by the name of our public address."""
    public = URL(parts.terms.public_url or "")
    return request.scope["scheme"] == "https" or (
        public.scheme == "https" and _origin("https", _host(request)) == _origin("https", public.netloc)
    )


def _note_use(parts: Parts, person: Person) -> None:
    """Note that a key or session was used, without making its request wait for that."""
    now = clock.now_us()
    if person.last_used_at is None or now - person.last_used_at > _NOTED_EVERY_US:
        with contextlib.suppress(errors.Unavailable):  # a full line has better things to do
            noted = parts.database.offer(lambda tx: accounts.note_use(tx, person, now_us=now))
            noted.add_done_callback(functools.partial(_nobody_waits, "key.use_not_noted"))


def _nobody_waits(event: str, noted: "asyncio.Future[None]") -> None:
    if not noted.cancelled() and (exc := noted.exception()) is not None:
        logger.info(event, extra={"reason": type(exc).__name__})
