"""
Connections that go only where they may: a host is resolved once, its addresses are judged, and one of those very
addresses is connected to, so that a second answer of the name server cannot move it.
"""

import asyncio
import dataclasses
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final

import httpcore
import httpx

from nanohook.rules import addresses
from nanohook.rules.downloads import DownloadFailed, Outcome

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""Host and port to IP addresses as text; raises ``OSError`` where the name is not known."""

MAX_CONNECTIONS: Final = 256
"""Open at one time: as many downloads may run."""

MOST_ADDRESSES = 8
"""Of one host that are tried."""

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
                    message = f"{host} leads to {ip}, which is not a public address"
                    raise DownloadFailed(message, outcome=Outcome.REFUSED)
        return found[:MOST_ADDRESSES]


class PinnedTransport(httpx.AsyncHTTPTransport):
    """httpx's transport over a pool whose connections come through *door*."""

    def __init__(self, door: Door, tls: ssl.SSLContext) -> None:
        super().__init__(verify=tls, trust_env=False)
        # The constructor takes no network backend. The pool it made has opened nothing yet.
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=tls,
            max_connections=MAX_CONNECTIONS,
            max_keepalive_connections=20,
            keepalive_expiry=5.0,
            network_backend=door,
        )


async def resolve(host: str, port: int) -> Sequence[str]:
    """Ask the system's name server; raises ``OSError`` where it does not know *host*."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]
