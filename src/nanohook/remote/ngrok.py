"""
Asks the ngrok agent on this machine where its tunnel to us comes out.

Older agents list tunnels, newer ones the same as endpoints, and call the former deprecated: both are asked.

Source: ngrok's "Agent API", ``GET /api/tunnels`` and ``GET /api/endpoints``.
"""

import asyncio
import enum
import ipaddress
import re
from collections.abc import Sequence
from typing import Any, Final, Self
from urllib.parse import urlsplit

import httpx

from nanohook import errors
from nanohook.rules import addresses, foreign_json
from nanohook.values import frozen

MAX_ANSWER_BYTES: Final = 256 * 1024
TOTAL_TIMEOUT_S: Final = 3.0
"""The agent is on this machine: it answers at once or not at all."""
_OK: Final = 200
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,20}")
_PORTS: Final = {"http": 80, "https": 443}
_OURS: Final = frozenset({"localhost", "host.docker.internal"})
"""Names of this machine; the second is what it is called in a container, where an agent may run."""


class Trouble(enum.Enum):
    """Why there is no tunnel to us."""

    NOT_RUNNING = "not_running"
    NOT_NGROK = "not_ngrok"
    NO_TUNNEL = "no_tunnel"
    ONLY_HTTP = "only_http"
    SEVERAL = "several"


@frozen
class Missing:
    """No tunnel, or none that is clearly ours."""

    trouble: Trouble
    detail: str
    """For the operator, a sentence without its full stop."""


class _TooLargeError(Exception):
    """The answer has more than ``MAX_ANSWER_BYTES``."""


class Agent:
    """
    The agent's own API; use it with ``async with``.

    Args:
        api_url: Of the agent, such as ``http://127.0.0.1:4040``.
        port: The one this service listens on: a tunnel is ours if it leads there.
    """

    def __init__(self, api_url: str, *, port: int) -> None:
        self._api_url = api_url
        self._port = port
        self._http = httpx.AsyncClient(timeout=TOTAL_TIMEOUT_S, trust_env=False, follow_redirects=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exc_info: object) -> None:
        await self._http.aclose()

    async def look(self) -> str | Missing:
        """Find the https address of the tunnel to us, without a slash at its end, or tell why there is none."""
        try:
            lists = [read(await self._get(name)) for name in ("tunnels", "endpoints")]
        except (httpx.ConnectError, httpx.ConnectTimeout):
            return Missing(trouble=Trouble.NOT_RUNNING, detail=f"nobody answers at {self._api_url}")
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, OSError, _TooLargeError) as exc:
            detail = f"what listens at {self._api_url} gave no answer that could be read ({type(exc).__name__})"
            return Missing(trouble=Trouble.NOT_NGROK, detail=detail)
        known = [each for each in lists if each is not None]
        if not known:
            return Missing(trouble=Trouble.NOT_NGROK, detail=f"what answers at {self._api_url} is not ngrok's API")
        return choose([tunnel for each in known for tunnel in each], port=self._port)

    async def _get(self, name: str) -> bytes:
        """Fetch a list; empty bytes where there is none of this name."""
        body = bytearray()
        async with (
            asyncio.timeout(TOTAL_TIMEOUT_S),
            self._http.stream(
                "GET", f"{self._api_url}/api/{name}", headers={"accept": "application/json"}
            ) as answer,
        ):
            # As it comes: whatever it is labelled, the reader sees whether it is compressed.
            async for chunk in answer.aiter_raw():
                body += chunk
                if len(body) > MAX_ANSWER_BYTES:
                    raise _TooLargeError
        return bytes(body) if answer.status_code == _OK else b""


def choose(tunnels: Sequence[tuple[str, str]], *, port: int) -> str | Missing:
    """
    Choose the one https tunnel that leads to *port* of this machine.

    Args:
        tunnels: Public address and target of each, as ``read`` gives them; one may come twice.
    """
    ours = {url for url, addr in tunnels if _leads_to(addr, port)}
    secure = {url for url in ours if urlsplit(url).scheme == "https"}
    if len(secure) > 1:
        return Missing(trouble=Trouble.SEVERAL, detail=f"{len(secure)} https tunnels lead to port {port}")
    if secure:
        return secure.pop()
    if ours:
        return Missing(trouble=Trouble.ONLY_HTTP, detail=f"the tunnel to port {port} has no https address")
    others = sorted({addr for _, addr in tunnels if _leads_to(addr, None)})
    there = f"; others lead to {', '.join(others)[:200]}" if others else ""
    return Missing(trouble=Trouble.NO_TUNNEL, detail=f"no tunnel leads to port {port}{there}")


def read(body: bytes) -> list[tuple[str, str]] | None:
    """
    Read public address and target of each tunnel; ``None``: this lists none.

    Args:
        body: ``{"tunnels": [{"public_url", "config": {"addr"}}]}`` or ``{"endpoints": [{"url", "upstream":
            {"url"}}]}``; any type may be in any place. What is no plain address, or cannot be printed, is
            left out: it becomes the public URL, and is told.
    """
    try:
        top: Any = foreign_json.parse(body).value
    except ValueError:
        return None
    for name, url_name, way in (
        ("tunnels", "public_url", ("config", "addr")),
        ("endpoints", "url", ("upstream", "url")),
    ):
        listed = _within(top, name)
        if isinstance(listed, list):
            pairs = [(_address(_within(each, url_name)), _within(each, *way)) for each in listed]
            return [
                (url, str(addr))
                for url, addr in pairs
                if url and isinstance(addr, str | int) and str(addr).isprintable()
            ]
    return None


def _within(top: Any, *names: str) -> Any:
    for name in names:
        top = top.get(name) if isinstance(top, dict) else None
    return top


def _address(url: Any) -> str | None:
    """Spell a public address out: scheme, host, perhaps a port; ``None`` where there is anything more, or odd."""
    scheme, _, rest = url.partition("://") if isinstance(url, str) else ("", "", "")
    try:
        # Tunnels of other schemes have addresses of the same form.
        place = addresses.parse(f"https://{rest}")
    except errors.Invalid:
        return None
    if place.target != "/" or "#" in rest or _SCHEME.fullmatch(scheme) is None:
        return None
    return f"{scheme.lower()}://{addresses.host_of(place.shown)}"


def _leads_to(addr: str, port: int | None) -> bool:
    """
    Tell whether a target is *port* of this machine; ``None``: whether it can be read at all.

    Args:
        addr: ``http://localhost:8000``, ``localhost:8000`` or ``8000``.
    """
    try:
        parts = urlsplit(f"http://localhost:{addr}" if addr.isascii() and addr.isdigit() else _with_scheme(addr))
        target = parts.port or _PORTS.get(parts.scheme)
    except ValueError:
        return False
    return port is None or (target == port and _is_this_machine(parts.hostname or ""))


def _with_scheme(addr: str) -> str:
    return addr if "://" in addr else f"http://{addr}"


def _is_this_machine(host: str) -> bool:
    if host in _OURS:
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified
