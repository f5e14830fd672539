"""
The doors: where people come in, and what they see who may not yet.

Nothing is decided here: the forms of these pages send to ``web/auth.py``. A page behind a door is shown to whom
it is for; everybody else gets the door in its place, and then the page.
"""

import re
import time
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from nanohook import errors
from nanohook.database import Transaction
from nanohook.rules import page_words
from nanohook.stores import accounts, facts
from nanohook.stores.accounts import Person
from nanohook.web import guard, pages
from nanohook.web.guard import PersonalEndpoint, PublicEndpoint
from nanohook.web.parts import Call, Parts

# Of our own host alone. Browsers take a backslash for a slash, and drop tabs and line breaks wherever they are.
_OURS: Final = re.compile(r"/(?![/\\])[^\x00-\x1f\x7f]*")


def behind(page: PersonalEndpoint) -> PublicEndpoint:
    """Show *page* to people who are logged in and confirmed, and to others what they can do about it."""

    async def answer(request: Request, parts: Parts) -> Response:
        here = pages.here(request)

        async def ask() -> Person:
            return await guard.person_of(request, parts)

        try:
            person = await guard.let_in(parts, ask)
        except (errors.Unauthenticated, errors.Forbidden):
            return _login(request, parts, "first", then=here, status=401)
        if not person.is_verified:
            return _door(request, "unverified.html", status=403, person=person, then=here)
        shown = page(Call(request=request, parts=parts, person=person, ask_again=ask))
        answer = await parts.shares.loop_time.measure(person.id, shown)
        guard.rename_cookie(request, parts, answer, person)
        return answer

    return pages.in_any_language(answer)


@pages.in_any_language
async def login(request: Request, parts: Parts) -> Response:
    """Ask for address and password; or take what a link brings: a login, a reset, or that there is neither."""
    asked = request.query_params
    if "token" in asked:
        return await _by_link(request, parts, asked["token"])
    if "reset" in asked:
        return _door(request, "reset.html", token=asked["reset"])
    then = _next(asked.get("next", ""))
    if await _known(request, parts) is not None:
        return RedirectResponse(then, 303)
    if "forgot" in asked:
        return _door(request, "forgot.html", then=then)
    return _login(request, parts, "login", then=then)


@pages.in_any_language
async def register(request: Request, parts: Parts) -> Response:
    """Ask for what an account needs, where strangers may have one."""
    if await _known(request, parts) is not None:
        return RedirectResponse(pages.STUDIO, 303)
    if not _is_open(parts):
        return _door(request, "closed.html", status=403)
    return _door(request, "register.html")


@pages.in_any_language
async def verify_email(request: Request, parts: Parts) -> Response:
    """
    Offer to confirm an address by the link that was mailed to it.

    Programs that look into mails follow their links: opening the page alone confirms nothing.
    """
    token = request.query_params.get("token", "")
    return _door(request, "verify.html", token=token, person=await _known(request, parts), then=pages.STUDIO)


async def _by_link(request: Request, parts: Parts, token: str) -> Response:
    """Log in by a link that was printed for this person: good for one hour, and once."""
    try:
        user_id = await _take(token, parts)
    except errors.SignatureInvalid:
        # Whoever is logged in already meant to come here again.
        if await _known(request, parts) is not None:
            return RedirectResponse(pages.STUDIO, 303)
        return _login(request, parts, "used_link", then=pages.STUDIO, status=401)
    answer = RedirectResponse(pages.STUDIO, 303)
    await guard.sign_in(request, parts, answer, user_id=user_id)
    return answer


async def _take(token: str, parts: Parts) -> str:
    """
    Use up a login link; return whose it is.

    Raises:
        SignatureInvalid: Not our link, too old, or used.
    """
    subject = parts.tokens.read_purpose(pages.LOGIN, token, time.time())
    user_id, _, nonce = subject.partition(" ")

    async def take(tx: Transaction) -> bool:
        is_known = await accounts.by_id(tx, user_id) is not None
        return is_known and await facts.take_once(tx, f"login {nonce}")

    if not await parts.database.write(take):
        raise errors.SignatureInvalid("this login link was used already; start dev again for a new one")
    return user_id


async def _known(request: Request, parts: Parts) -> Person | None:
    try:
        return await guard.person_of(request, parts)
    except errors.Rejected:
        return None


def _next(asked: str) -> str:
    """Take where somebody wants to go on to, if that is one of our own pages; the studio otherwise."""
    return asked if _OURS.fullmatch(asked) else pages.STUDIO


def _is_open(parts: Parts) -> bool:
    return parts.settings.registration == "open"


def _login(request: Request, parts: Parts, reason: str, *, then: str, status: int = 200) -> Response:
    """Ask for address and password; *reason* names the texts that say why."""
    return _door(request, "login.html", status=status, reason=reason, then=then, is_open=_is_open(parts))


def _door(request: Request, name: str, *, status: int = 200, **shown: Any) -> Response:
    language = pages.language_of(request)
    return pages.page(
        request,
        name,
        status=status,
        texts=page_words.of(language, page_words.DOORS),
        said=page_words.of(language, page_words.SCRIPTS, page_words.DOORS_SCRIPT),
        **shown,
    )
