"""Pages for people, and the login link that ``dev`` prints."""

import time
from pathlib import Path
from typing import Any, Final

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
LANGUAGE: Final = "nanohook_language"
_LANGUAGE_S: Final = 365 * 24 * 3600
_STUDIO: Final = "/generate-images"
_TEMPLATES: Final = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
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
    return RedirectResponse(_STUDIO, 303)


async def studio(request: Request, parts: Parts) -> Response:
    """Show the page where a picture is dropped and changed."""
    chosen = request.query_params.get("lang")
    if chosen in words.LANGUAGES:
        # A browser carries the address's #job over a redirect: the picture stays in view.
        answer = RedirectResponse(_STUDIO, 303)
        answer.set_cookie(LANGUAGE, chosen, max_age=_LANGUAGE_S, httponly=True, samesite="lax")
        return answer
    try:
        person = await guard.require(request, parts, guard.Who.PERSON)
    except errors.Forbidden:
        return _door(request, "unverified", status=403)
    except errors.Rejected:
        return _door(request, "sign_in")
    language = _language(request)
    most = parts.settings.max_upload_bytes
    return _page(
        "studio.html",
        language=language,
        texts={name: text.replace("{most}", f"{most / 2**20:.3g}") for name, text in words.PAGE[language].items()},
        person=person,
        most_bytes=most,
        stages={stage.value: words.in_language(texts, language) for stage, texts in words.STAGES.items()},
    )


async def login(request: Request, parts: Parts) -> Response:
    """Sign in by a link that was printed for this person: good for one hour, and once."""
    token = request.query_params.get("token", "")
    try:
        user_id = await _take(token, parts)
    except errors.SignatureInvalid:
        return await _used(request, parts)
    answer = RedirectResponse(_STUDIO, 303)
    await guard.sign_in(request, parts, answer, user_id=user_id)
    return answer


async def _take(token: str, parts: Parts) -> str:
    """
    Use up a login link; return whose it is.

    Raises:
        SignatureInvalid: Not our link, too old, or used.
    """
    subject = parts.tokens.read_purpose(LOGIN, token, time.time())
    user_id, _, nonce = subject.partition(" ")

    async def take(tx: Transaction) -> bool:
        is_known = await accounts.by_id(tx, user_id) is not None
        return is_known and await facts.take_once(tx, f"login {nonce}")

    if not await parts.database.write(take):
        raise errors.SignatureInvalid("this login link was used already; start dev again for a new one")
    return user_id


async def _used(request: Request, parts: Parts) -> Response:
    """Answer a link that signs nobody in: whoever is signed in already meant to come here again."""
    try:
        await guard.person_of(request, parts)
    except errors.Rejected:
        return _door(request, "used_link")
    return RedirectResponse(_STUDIO, 303)


def _door(request: Request, reason: str, *, status: int = 401) -> Response:
    """Tell somebody who may not come in why, and what to do; *reason* names its texts."""
    language = _language(request)
    return _page(
        "signed_out.html",
        status=status,
        language=language,
        texts=words.PAGE[language],
        reason=reason,
        origin=f"{request.url.scheme}://{request.url.netloc}",
    )


def _language(request: Request) -> str:
    chosen = request.cookies.get(LANGUAGE)
    return chosen if chosen in words.LANGUAGES else words.language_of(request.headers.get("accept-language"))


def _page(name: str, *, status: int = 200, **shown: Any) -> Response:
    return HTMLResponse(_TEMPLATES.get_template(name).render(shown), status, headers=_PAGE_HEADERS)
