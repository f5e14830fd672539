"""Asks an address as a stranger would, to see who is there: for checks of our own way through the internet."""

import asyncio
import enum
import http
from collections.abc import Mapping
from typing import Final, Self

import httpx

from nanohook import errors
from nanohook.rules import foreign_json
from nanohook.values import frozen

MAX_ANSWER_BYTES: Final = 64 * 1024
"""Enough to see who answers: what is ours is a line, or a picture of one pixel."""
TOTAL_TIMEOUT_S: Final = 10.0
_MAX_REASON_CHARS: Final = 100
_MAX_WORD_CHARS: Final = 40
"""Of each word that a stranger says."""
_WARNING_PAGE: Final = "ERR_NGROK_6024"
_NGROK_ERROR: Final = "ngrok-error-code"


@frozen
class Seen:
    """What answered."""

    http_status: int
    headers: Mapping[str, str]
    """Lower-case names."""
    body: bytes
    """At most ``MAX_ANSWER_BYTES``; the rest was not read."""

    @property
    def content_type(self) -> str:
        """Without its parameters."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    @property
    def said(self) -> Mapping[str, object]:
        """What a service of this kind said; empty for everybody else's answer."""
        if not self.content_type.endswith("json") or "x-request-id" not in self.headers:
            return {}
        try:
            said = foreign_json.parse(self.body).value
        except ValueError:
            return {}
        return said if isinstance(said, dict) else {}


class Stranger(enum.Enum):
    """Who answers in our place."""

    WARNING_PAGE = "warning_page"
    """Of ngrok's free plan, for browsers."""
    NGROK = "ngrok"
    """A tunnel without us at its end."""
    OTHER_KEYS = "other_keys"
    """A service of this kind that did not sign what was sent."""
    OTHER_DATA = "other_data"
    """One that did, and keeps its things elsewhere."""
    NANOHOOK = "nanohook"
    """One that refuses, perhaps this one."""
    LOGIN = "login"
    ANOTHER = "another"


def stranger(seen: Seen) -> tuple[Stranger, str]:
    """
    Tell who gave an answer that is not what was waited for.

    Returns:
        Who, and a sentence without its full stop: short, and what it has of their words can be logged and printed.
    """
    status, said = f"HTTP {seen.http_status}", seen.said
    if is_warning_page(seen):
        return Stranger.WARNING_PAGE, "ngrok answers with a warning page in our place"
    if _NGROK_ERROR in seen.headers:
        return Stranger.NGROK, f"ngrok answers in our place: {_word(seen.headers[_NGROK_ERROR])}"
    if said.get("code") == "signature_invalid":
        return Stranger.OTHER_KEYS, "the public URL leads to a nanohook with other keys"
    if said.get("code") == "not_found" or (seen.http_status == http.HTTPStatus.OK and "delivery_id" in said):
        return Stranger.OTHER_DATA, "the public URL leads to a nanohook with the same keys and another data dir"
    if "code" in said:
        return Stranger.NANOHOOK, f"the public URL was answered {status} {_word(str(said['code']))}"
    if seen.http_status in {http.HTTPStatus.UNAUTHORIZED, http.HTTPStatus.FORBIDDEN}:
        return Stranger.LOGIN, f"something in front of the service lets nobody through ({status})"
    kind = _word(seen.content_type) or "no type"
    return Stranger.ANOTHER, f"the public URL leads to another service ({status}, {kind})"


def is_warning_page(seen: Seen) -> bool:
    """Tell whether this is the page that ngrok's free plan shows to browsers first."""
    return _WARNING_PAGE in seen.headers.get(_NGROK_ERROR, "") or (
        seen.content_type == "text/html" and _WARNING_PAGE.encode() in seen.body
    )


def _word(text: str) -> str:
    return "".join(filter(str.isprintable, text[:_MAX_WORD_CHARS]))


class Probe:
    """A client without proxies, cookies and redirects; use it with ``async with``."""

    def __init__(self) -> None:
        self._http = httpx.AsyncClient(timeout=TOTAL_TIMEOUT_S, trust_env=False, follow_redirects=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exc_info: object) -> None:
        await self._http.aclose()

    async def get(self, url: str, *, user_agent: str) -> Seen:
        """
        Fetch *url*.

        Raises:
            Transient: Nobody answered; the message tells why, and does not hold the address.
        """
        return await self._ask("GET", url, {"user-agent": user_agent, "accept": "*/*"})

    async def post(self, url: str, body: bytes, *, user_agent: str) -> Seen:
        """
        Send *body*, which is JSON, to *url*.

        Raises:
            Transient: As ``get``.
        """
        headers = {"user-agent": user_agent, "accept": "*/*", "content-type": "application/json"}
        return await self._ask("POST", url, headers, body)

    async def _ask(self, method: str, url: str, headers: dict[str, str], body: bytes | None = None) -> Seen:
        held = bytearray()
        headers = {**headers, "accept-encoding": "identity"}
        try:
            async with (
                asyncio.timeout(TOTAL_TIMEOUT_S),
                self._http.stream(method, url, headers=headers, content=body) as answer,
            ):
                # As it comes: what is unpacked could be a thousand times as much.
                async for chunk in answer.aiter_raw():
                    held += chunk[: MAX_ANSWER_BYTES - len(held)]
                    if len(held) >= MAX_ANSWER_BYTES:
                        break
        except httpx.ConnectError as exc:
            # Its text is the system's: a name not known, refused, a certificate that is not valid.
            raise errors.Transient(f"no connection ({str(exc)[:_MAX_REASON_CHARS]})") from exc
        except (TimeoutError, httpx.TimeoutException) as exc:
            raise errors.Transient(f"no answer within {TOTAL_TIMEOUT_S:g} s") from exc
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as exc:
            raise errors.Transient(f"no answer ({type(exc).__name__})") from exc
        return Seen(
            http_status=answer.status_code,
            headers={name.lower(): value for name, value in answer.headers.items()},
            body=bytes(held),
        )
