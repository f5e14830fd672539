"""Pages for people, and the login link that ``dev`` prints."""

import time
from pathlib import Path
from typing import Final

import jinja2
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from nanohook import errors
from nanohook.database import Transaction
from nanohook.rules import words
from nanohook.stores import accounts, facts
from nanohook.web import guard
from nanohook.web.parts import Parts

STATIC: Final = Path(__file__).parent / "static"
LOGIN: Final = "login"
LOGIN_S: Final = 3600
_TEMPLATES: Final = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True
)
_PAGE_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


async def home(_request: Request, _parts: Parts) -> Response:
    """Lead to the studio."""
    return RedirectResponse("/generate-images", 303)


async def studio(request: Request, parts: Parts) -> Response:
    """Show the page where a picture is dropped and changed."""
    try:
        person = await guard.require(request, parts, guard.Who.PERSON)
    except errors.Rejected:
        person = None
    language = words.language_of(request.headers.get("accept-language"))
    page = _TEMPLATES.get_template("studio.html").render(
        language=language,
        texts=words.PAGE[language],
        person=person,
        stages={stage.value: words.in_language(texts, language) for stage, texts in words.STAGES.items()},
    )
    return HTMLResponse(page, 200 if person else 401, headers=_PAGE_HEADERS)


async def login(request: Request, parts: Parts) -> Response:
    """
    Sign in by a link that was printed for this person: good for one hour, and once.

    Raises:
        SignatureInvalid: Not our link, too old, or used.
    """
    token = request.query_params.get("token", "")
    subject = parts.tokens.read_purpose(LOGIN, token, time.time())
    user_id, _, nonce = subject.partition(" ")

    async def take(tx: Transaction) -> bool:
        is_known = await accounts.by_id(tx, user_id) is not None
        return is_known and await facts.take_once(tx, f"login {nonce}")

    if not await parts.database.write(take):
        raise errors.SignatureInvalid("this login link was used already; start dev again for a new one")
    answer = RedirectResponse("/generate-images", 303)
    answer.set_cookie(
        guard.COOKIE,
        parts.tokens.sign_purpose(guard.SESSION, user_id, int(time.time()) + guard.SESSION_S),
        max_age=guard.SESSION_S,
        httponly=True,
        samesite="lax",
        secure=request.scope["scheme"] == "https",
    )
    return answer
