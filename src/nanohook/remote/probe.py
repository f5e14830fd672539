"""Asks an address as a stranger would, to see who is there: for checks of our own way through the internet."""

import asyncio
from collections.abc import Mapping
from typing import Final, Self

import httpx

from nanohook import errors
from nanohook.values import frozen

MAX_ANSWER_BYTES: Final = 1024 * 1024
TOTAL_TIMEOUT_S: Final = 15.0
_MAX_REASON_CHARS: Final = 200


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
        try:
            async with (
                asyncio.timeout(TOTAL_TIMEOUT_S),
                self._http.stream(method, url, headers=headers, content=body) as answer,
            ):
                async for chunk in answer.aiter_bytes():
                    held += chunk
                    if len(held) > MAX_ANSWER_BYTES:
                        break
        except httpx.ConnectError as exc:
            # Its text is the system's: a name not known, refused, a certificate that is not valid.
            raise errors.Transient(f"no connection ({str(exc)[:_MAX_REASON_CHARS]})") from exc
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, OSError) as exc:
            raise errors.Transient(f"no answer ({type(exc).__name__})") from exc
        return Seen(
            http_status=answer.status_code,
            headers={name.lower(): value for name, value in answer.headers.items()},
            body=bytes(held[:MAX_ANSWER_BYTES]),
        )
