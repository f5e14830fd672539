"""Pages for people: what all of them share, their languages above all; and the studio."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlencode

import jinja2
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from nanohook.rules import page_words, wishes, words
from nanohook.settings import Settings
from nanohook.stores import ledger
from nanohook.web import credentials
from nanohook.web.guard import PublicEndpoint
from nanohook.web.parts import Call, Parts, parts_of

STATIC: Final = Path(__file__).parent / "static"
LOGIN: Final = "login"
LOGIN_S: Final = 3600
LANGUAGE: Final = "nanohook_language"
"""The cookie's former name, and how that of an instance begins: see ``credentials.session_cookie``."""
STUDIO: Final = "/generate-images"
_LANGUAGE_S: Final = 365 * 24 * 3600
_SWITCH: Final = "lang"


class _Environment(jinja2.Environment):
    """Looks into a mapping before its methods: a text may be called ``keys`` or ``clear``."""

    def getattr(self, obj: Any, attribute: str) -> Any:
        if isinstance(obj, dict) and attribute in obj:
            return obj[attribute]
        return super().getattr(obj, attribute)


_TEMPLATES: Final = _Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
# An accent is two bytes so, and six as an escape: the texts go out with every page.
_TEMPLATES.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "separators": (",", ":")}
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
    return RedirectResponse(STUDIO, 303)


async def studio(call: Call) -> Response:
    """Show the page where a picture is dropped and changed."""
    language = language_of(call.request)
    settings = call.parts.settings
    filled = bounds(settings)
    price = settings.prices.of(wishes.MODELS[0], None)
    return page(
        call.request,
        "studio.html",
        texts=page_words.of(language, page_words.STUDIO, page_words.STUDIO_SCRIPT, filled=filled),
        said=page_words.of(language, page_words.SCRIPTS, page_words.STUDIO_SCRIPT, filled=filled),
        stages=stages(language),
        held=held(language),
        most_bytes=settings.max_upload_bytes,
        price=page_words.credits(price, language),
        **await account(call),
    )


def bounds(settings: Settings) -> dict[str, str]:
    """Give the numbers that texts speak of."""
    return {"most": f"{settings.max_upload_bytes / 2**20:.3g}"}


def stages(language: str) -> dict[str, str]:
    """Give the sentence of each stage of a job."""
    return {stage.value: words.in_language(texts, language) for stage, texts in words.STAGES.items()}


def held(language: str) -> dict[str, str]:
    """Give why everybody waits, by the sentence of a job in any language: a job has that of who made it."""
    return {text: words.in_language(texts, language) for texts in words.HELD.values() for text in texts}


async def account(call: Call) -> dict[str, Any]:
    """Read what ``me.html`` shows in the header: who it is, and what they have."""
    balance = await call.parts.database.read(lambda tx: ledger.balance(tx, call.person.id))
    return {
        "person": call.person,
        "credits": page_words.credits(balance.available, language_of(call.request)),
    }


def in_any_language(endpoint: PublicEndpoint) -> PublicEndpoint:
    """Let ``?lang=`` choose the language of all pages, and go on to the page itself."""

    async def answer(request: Request, parts: Parts) -> Response:
        chosen = request.query_params.get(_SWITCH)
        if chosen not in words.LANGUAGES:
            return await endpoint(request, parts)
        # A browser carries the address's #job over a redirect: the picture stays in view.
        moved = RedirectResponse(here(request), 303)
        moved.set_cookie(_language_cookie(parts), chosen, max_age=_LANGUAGE_S, httponly=True, samesite="lax")
        return moved

    return answer


def language_of(request: Request) -> str:
    """Tell which language somebody reads a page in: as they chose, or as their browser says."""
    for name in (_language_cookie(parts_of(request.scope)), LANGUAGE):
        for chosen in credentials.cookies(request.headers, name):
            if chosen in words.LANGUAGES:
                return chosen
    return words.language_of(request.headers.get("accept-language"))


def _language_cookie(parts: Parts) -> str:
    return f"{LANGUAGE}_{parts.instance}"


def page(request: Request, name: str, *, texts: Mapping[str, str], status: int = 200, **shown: Any) -> Response:
    """
    Make a page of the template *name*.

    Args:
        texts: In the reader's language, beside those of ``page_words.SHELL``.
        shown: Whatever else the template names.
    """
    language = language_of(request)
    shell = page_words.of(language, page_words.SHELL)
    switches = {code: here(request, **{_SWITCH: code}) for code in words.LANGUAGES}
    body = _TEMPLATES.get_template(name).render(
        language=language, switches=switches, texts={**shell, **texts}, **shown
    )
    return HTMLResponse(body, status, headers=_PAGE_HEADERS)


def here(request: Request, **more: str) -> str:
    """Name the page that is asked for, from its root; in what language is left to *more*."""
    query = [(name, value) for name, value in request.query_params.multi_items() if name != _SWITCH]
    path = quote(request.scope["path"])
    query += more.items()
    return f"{path}?{urlencode(query)}" if query else path
