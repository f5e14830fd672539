"""
What came with a request to say who asks: API keys and session cookies, each looked at by itself.

A request passes through others' hands: it may carry a proxy's Basic, a gateway's JWT, the cookie of a neighbour
on another port. What is not of our form is as if it were not there, and hides nothing. What is of our form counts,
also if it opens nothing any more: a revoked key is never replaced by another credential.

Source: RFC 6265, 5.4: a browser sends cookies of one name side by side, whichever port or path they are of.
"""

import time
from typing import Final, NamedTuple

from starlette.datastructures import Headers
from starlette.requests import Request

from nanohook import errors, ids
from nanohook.web.parts import Parts

SESSION: Final = "session"
"""Purpose of the signed text in a session's cookie."""
FORMER_COOKIE: Final = "nanohook_session"
"""Name of the cookie when all instances on a host shared it."""
MAX_SESSIONS: Final = 8
"""Sessions of one request that are looked for; a browser has one, or two after a change of its name."""
_PREFIX: Final = "nh_"


class ShownSession(NamedTuple):
    """A session that a cookie of ours names; whether it has ended is not known yet."""

    id: str
    cookie: str
    """The signed text."""
    is_former: bool
    """It came under ``FORMER_COOKIE``."""


def session_cookie(parts: Parts) -> str:
    """Name the session's cookie of this instance: another one on this host, on another port, has its own."""
    return f"{FORMER_COOKIE}_{parts.instance}"


def api_key(headers: Headers) -> str | None:
    """
    Read the API key of a request; ``None``: none of ours came.

    Raises:
        Unauthenticated: It is cut or mistyped, or two different ones came. No query is needed to tell.
    """
    found = {
        words[1]
        for line in headers.getlist("authorization")
        # Some proxies join two headers of one name by a comma.
        for words in (part.split(None, 1) for part in line.split(","))
        if len(words) == 2 and words[0].lower() == "bearer" and words[1].startswith(_PREFIX)  # noqa: PLR2004
    }
    if not found:
        return None
    if len(found) > 1:
        raise errors.Unauthenticated("two different API keys came: send one")
    key = found.pop().rstrip()
    if not ids.is_key(key):
        raise errors.Unauthenticated("this is no whole API key: copy it again, or make a new one")
    return key


def sessions(request: Request, parts: Parts) -> list[ShownSession]:
    """List the sessions that the cookies of a request name, those under our own name first."""
    shown: dict[str, ShownSession] = {}
    for name in (session_cookie(parts), FORMER_COOKIE):
        for value in cookies(request.headers, name):
            try:
                session_id = parts.tokens.read_purpose(SESSION, value, time.time())
            except errors.SignatureInvalid:
                continue  # garbage, too old, or another instance's
            shown.setdefault(session_id, ShownSession(session_id, value, name == FORMER_COOKIE))
            if len(shown) == MAX_SESSIONS:
                return list(shown.values())
    return list(shown.values())


def cookies(headers: Headers, name: str) -> list[str]:
    """List the values of every cookie called *name*, in the order in which they came."""
    pairs = (pair.partition("=") for line in headers.getlist("cookie") for pair in line.split(";"))
    return [value.strip(" \t").strip('"') for found, _, value in pairs if found.strip(" \t") == name]


def missing(headers: Headers) -> errors.Unauthenticated:
    """Say that nobody is known by this request, and what would help."""
    if "authorization" in headers:
        return errors.Unauthenticated(
            "the Authorization header holds no API key of this service, and no login came with it: "
            "send Authorization: Bearer nh_…"
        )
    return errors.Unauthenticated("this needs an API key or a login: send Authorization: Bearer nh_…, or log in")
