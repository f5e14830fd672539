"""
Download result pictures without being led astray: the address of a picture comes from outside.

A host is resolved once, every address it has must be public (or the operator lists the host), and the
connection goes to one of those very addresses, so that a second answer of the name server cannot move it.
Redirects are followed by hand and pass the same door. httpx's client is left out on purpose: its transport
alone follows nothing, keeps no cookie, reads no proxy setting, unpacks no body and logs no address.
"""

import asyncio
import dataclasses
import socket
import ssl
import time
import types
import urllib.parse
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Self

import httpcore
import httpx

from nanohook import errors
from nanohook.rules import addresses, backoff, downloads
from nanohook.rules.downloads import Outcome

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""Host and port to IP addresses as text; raises ``OSError`` where the name is not known."""

LIMIT_BYTES = 50 * 1024 * 1024
TIMEOUT_S = 60.0
MOST_REDIRECTS = 3

CONNECT_TIMEOUT_S = 10.0
"""For each address of a host, within the total: one that does not answer leaves time for the next."""

MOST_ADDRESSES = 8
"""Of one host that are tried."""

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_GONE = frozenset({404, 410})

_SocketOptions = Iterable[tuple[int, int, int] | tuple[int, int, bytes | bytearray] | tuple[int, int, None, int]]


class Fetcher:
    """
    The only way to a picture that somebody else names. Close it, or use it as ``async with``.

    Args:
        download_hosts: ``host`` or ``host:port`` that may be private or plain http.
        limit_bytes: Largest picture.
        timeout_s: For one ``get`` as a whole, redirects included.
        most_redirects: Followed in one ``get``.
        resolve: In place of the system's name server.
        network: Makes the connections, given IP addresses alone; in place of the system's sockets.
        tls: In place of a context that trusts certifi's authorities.
    """

    def __init__(
        self,
        *,
        download_hosts: frozenset[str] = frozenset(),
        limit_bytes: int = LIMIT_BYTES,
        timeout_s: float = TIMEOUT_S,
        most_redirects: int = MOST_REDIRECTS,
        resolve: Resolve | None = None,
        network: httpcore.AsyncNetworkBackend | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._download_hosts = frozenset(host.lower() for host in download_hosts)
        self._limit_bytes = limit_bytes
        self._timeout_s = timeout_s
        self._most_redirects = most_redirects
        door = _Door(
            download_hosts=self._download_hosts,
            resolve=resolve or _resolve,
            network=network or httpcore.AnyIOBackend(),
        )
        self._transport = _PinnedTransport(door, tls or httpx.create_ssl_context(trust_env=False))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close idle connections."""
        await self._transport.aclose()

    async def get(self, url: str) -> bytes:
        """
        The whole body behind *url*, as it was sent.

        Raises:
            Transient: ``download_failed``: the network, the time limit, or a status that may change.
            Permanent: ``download_failed``: gone (404, 410), a refused address, encoded; ``too_large``.
        """
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._follow(self._checked(url))
        except TimeoutError as exc:
            raise _failed(f"the picture did not arrive within {self._timeout_s:g} s", Outcome.AWAY) from exc

    async def _follow(self, place: addresses.Place) -> bytes:
        for _ in range(self._most_redirects + 1):
            outcome = await self._ask(place)
            if isinstance(outcome, bytes):
                return outcome
            place = outcome
        raise _permanent(f"more than {self._most_redirects} redirects, the last to {place.shown}")

    def _checked(self, url: str) -> addresses.Place:
        try:
            place = addresses.parse(url)
        except errors.Invalid as exc:
            raise _permanent(str(exc)) from exc
        listed = addresses.is_listed_host(place.host, place.port, self._download_hosts)
        if place.scheme != "https" and not listed:
            raise _permanent(f"{place.shown} is not https: list the host in NANOHOOK_DOWNLOAD_HOSTS to allow it")
        return place

    async def _ask(self, place: addresses.Place) -> bytes | addresses.Place:
        """One request: the body, or where the answer sends us."""
        request = httpx.Request(
            "GET",
            httpx.URL(
                scheme=place.scheme, host=place.host, port=place.port, raw_path=place.target.encode("ascii")
            ),
            headers={"Accept": "image/*", "Accept-Encoding": "identity", "User-Agent": "nanohook"},
            extensions={"timeout": {"connect": CONNECT_TIMEOUT_S}},
        )
        try:
            response = await self._transport.handle_async_request(request)
            try:
                return await self._answer(place, response)
            finally:
                await response.aclose()
        except httpx.TransportError as exc:
            raise _failed(f"{place.shown} could not be downloaded: {type(exc).__name__}", Outcome.AWAY) from exc

    async def _answer(self, place: addresses.Place, response: httpx.Response) -> bytes | addresses.Place:
        status, headers = response.status_code, response.headers
        if status in _REDIRECTS and "location" in headers:
            return self._checked(_joined(place, headers["location"]))
        if status in _GONE:
            raise _failed(f"{place.shown} answered {status}: the picture is gone", Outcome.MISSING)
        if status in (401, 403):
            raise _failed(f"{place.shown} answered {status}", Outcome.FORBIDDEN)
        if status != httpx.codes.OK:
            raise downloads.DownloadFailed(
                f"{place.shown} answered {status}",
                outcome=Outcome.AWAY,
                retry_after_s=backoff.parse_retry_after(headers.get("retry-after"), now_s=time.time()),
            )
        if headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
            raise _permanent(f"{place.shown} sent an encoded body although none was asked for")
        return await self._body(place, response)

    async def _body(self, place: addresses.Place, response: httpx.Response) -> bytes:
        # h11 has made sure that this is a number, and raises where the body is shorter than it says.
        if int(response.headers.get("content-length", 0)) > self._limit_bytes:
            raise self._too_large(place)
        body = bytearray()
        async for part in response.aiter_raw():
            body += part
            if len(body) > self._limit_bytes:
                raise self._too_large(place)
        return bytes(body)

    def _too_large(self, place: addresses.Place) -> downloads.DownloadFailed:
        return _failed(
            f"{place.shown} has more than the {self._limit_bytes:,} bytes that are taken", Outcome.TOO_LARGE
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Door(httpcore.AsyncNetworkBackend):
    """
    Makes TCP connections for the pool: resolves, judges and connects in one step.

    httpcore keeps the URL's host for the TLS name and the Host header; only the socket sees the address.
    """

    download_hosts: frozenset[str]
    resolve: Resolve
    network: httpcore.AsyncNetworkBackend

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's signature
        local_address: str | None = None,
        socket_options: _SocketOptions | None = None,
    ) -> httpcore.AsyncNetworkStream:
        found = await self._addresses(host, port)
        for last, ip in enumerate(found, start=1 - len(found)):
            try:
                return await self.network.connect_tcp(ip, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                if not last:
                    raise
        raise httpcore.ConnectError(f"{host} has no address")

    async def _addresses(self, host: str, port: int) -> Sequence[str]:
        try:
            found = list(dict.fromkeys(await self.resolve(host, port)))
        except (OSError, UnicodeError) as exc:
            raise httpcore.ConnectError(f"{host} is not known to the name server") from exc
        if not addresses.is_listed_host(host, port, self.download_hosts):
            # All of them: one private address among public ones is an attack or a broken zone.
            for ip in found:
                if not addresses.is_public(ip):
                    raise _permanent(f"{host} leads to {ip}, which is not a public address")
        return found[:MOST_ADDRESSES]


class _PinnedTransport(httpx.AsyncHTTPTransport):
    """httpx's transport over a pool whose connections come through *door*."""

    def __init__(self, door: _Door, tls: ssl.SSLContext) -> None:
        super().__init__(verify=tls, trust_env=False)
        # The constructor takes no network backend. The pool it made has opened nothing yet.
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=tls,
            max_connections=100,
            max_keepalive_connections=20,
            keepalive_expiry=5.0,
            network_backend=door,
        )


async def _resolve(host: str, port: int) -> Sequence[str]:
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


def _joined(place: addresses.Place, location: str) -> str:
    # urljoin drops tabs and newlines, which parse() would have refused.
    if not location.isprintable():
        raise _permanent(f"{place.shown} redirects to an address with odd characters")
    try:
        return urllib.parse.urljoin(f"{place.scheme}://{place.host_text}:{place.port}{place.target}", location)
    except ValueError:
        raise _permanent(f"{place.shown} redirects to what is no address") from None


def _permanent(message: str) -> downloads.DownloadFailed:
    return _failed(message, Outcome.REFUSED)


def _failed(message: str, outcome: Outcome) -> downloads.DownloadFailed:
    return downloads.DownloadFailed(message, outcome=outcome)
