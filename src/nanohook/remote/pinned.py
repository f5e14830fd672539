"""
Connections that go only where they may: a host is resolved once, its addresses are judged, and one of those very
addresses is connected to, so that a second answer of the name server cannot move it.
"""

import asyncio
import contextlib
import dataclasses
import functools
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Final

import httpcore
import httpx

from nanohook.rules import addresses
from nanohook.rules.downloads import DownloadFailed, Outcome

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""Host and port to IP addresses as text; raises ``OSError`` where the name is not known."""

POOL_CONNECTIONS: Final = 16
"""Of one pool."""

MOST_ADDRESSES = 8
"""Of one host that are tried."""

ATTEMPT_DELAY_S: Final = 0.25
"""Until the next address is tried beside one that has not answered. Source: RFC 8305, section 8."""

_CURE: Final = "list it in NANOHOOK_DOWNLOAD_HOSTS if pictures shall come from there"

_SocketOptions = Iterable[tuple[int, int, int] | tuple[int, int, bytes | bytearray] | tuple[int, int, None, int]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Door(httpcore.AsyncNetworkBackend):
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
        if not found:
            raise httpcore.ConnectError(f"{host} has no address")
        return await _first_connected(
            [
                functools.partial(self.network.connect_tcp, ip, port, timeout, local_address, socket_options)
                for ip in found
            ]
        )

    async def _addresses(self, host: str, port: int) -> Sequence[str]:
        is_listed = addresses.is_listed_host(host, port, self.download_hosts)
        if not is_listed and addresses.is_fixed_host(host) and not addresses.is_public(host):
            raise DownloadFailed(f"{host} is not a public address: {_CURE}", outcome=Outcome.REFUSED)
        try:
            found = await self.resolve(host, port)
        except TimeoutError as exc:
            raise httpcore.ConnectError(f"the name server does not answer for {host}") from exc
        except (OSError, UnicodeError) as exc:
            raise httpcore.ConnectError(f"{host} is not known to the name server") from exc
        # All of them: one private address among public ones is an attack or a broken zone.
        private = None if is_listed else next((ip for ip in found if not addresses.is_public(ip)), None)
        if private is not None:
            message = (
                f"the name server says that {host} is {private}, which is not a public address: a login page or a "
                f"filter of this network may answer for every name; {_CURE}"
            )
            raise DownloadFailed(message, outcome=Outcome.NOT_PUBLIC)
        # Before they are cut to the most: many addresses of a family that this network lacks hide no other.
        return addresses.interleaved(found)[:MOST_ADDRESSES]


async def _first_connected(
    attempts: Sequence[Callable[[], Coroutine[None, None, httpcore.AsyncNetworkStream]]],
) -> httpcore.AsyncNetworkStream:
    """
    Make *attempts* one after the other without waiting long for each (Happy Eyeballs): the first that stands wins.

    Raises:
        ConnectError, ConnectTimeout: None did; the last one's.

    Source: RFC 8305, section 5.
    """
    started: list[asyncio.Task[httpcore.AsyncNetworkStream]] = []
    winner = None
    try:
        running: set[asyncio.Task[httpcore.AsyncNetworkStream]] = set()
        while winner is None and (running or len(started) < len(attempts)):
            if len(started) < len(attempts):
                started.append(asyncio.create_task(attempts[len(started)]()))
                running.add(started[-1])
            delay_s = ATTEMPT_DELAY_S if len(started) < len(attempts) else None
            done, running = await asyncio.wait(running, timeout=delay_s, return_when=asyncio.FIRST_COMPLETED)
            winner = next((each for each in done if each.exception() is None), None)
        return (winner or started[-1]).result()
    finally:
        losers = [each for each in started if each is not winner]
        for loser in losers:
            loser.cancel()
        # One may have been connected at the very moment.
        for stream in await asyncio.gather(*losers, return_exceptions=True):
            if isinstance(stream, httpcore.AsyncNetworkStream):
                await stream.aclose()


class _Pool(httpx.AsyncHTTPTransport):
    """httpx's transport over a pool whose connections come through *door*."""

    def __init__(self, door: Door, tls: ssl.SSLContext) -> None:
        super().__init__(verify=tls, trust_env=False)
        # The constructor takes no network backend. The pool it made has opened nothing yet.
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=tls,
            max_connections=POOL_CONNECTIONS,
            keepalive_expiry=5.0,
            network_backend=door,
        )
        self.busy = 0
        """Requests that are under way."""


class PinnedTransport:
    """
    Sends requests over connections that come through *door*.

    A pool looks through all its connections when a request begins and when it ends, and most of them may be to
    hosts that hang: so there are as many small ones as are needed, of which the first that has room is used.
    """

    def __init__(self, door: Door, tls: ssl.SSLContext) -> None:
        self._make: Final = functools.partial(_Pool, door, tls)
        self._pools: Final = [self._make()]

    @contextlib.asynccontextmanager
    async def stream(self, request: httpx.Request) -> AsyncIterator[httpx.Response]:
        """
        Send *request*; its answer is there for as long as the block lasts.

        Raises:
            TransportError: There is no answer.
        """
        pool = next((each for each in self._pools if each.busy < POOL_CONNECTIONS), None)
        if pool is None:
            pool = self._make()
            self._pools.append(pool)
        pool.busy += 1
        try:
            async with contextlib.aclosing(await pool.handle_async_request(request)) as response:
                yield response
        finally:
            pool.busy -= 1
            if not pool.busy and pool is not self._pools[0]:
                # Its idle connections would not be looked at before it is needed again.
                self._pools.remove(pool)
                await pool.aclose()

    async def aclose(self) -> None:
        """Close idle connections."""
        for pool in self._pools:
            await pool.aclose()
