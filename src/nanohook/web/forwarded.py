"""
What a trusted proxy says of the way a request came: ``X-Forwarded-For``, ``-Proto`` and ``-Host``.

Only a peer that ``NANOHOOK_TRUSTED_PROXIES`` names is believed. ``Forwarded`` (RFC 7239) never counts: the usual
proxies pass on whatever a client writes there, while they set or add to the three headers themselves.

Source: MDN, X-Forwarded-For, "Selecting an IP address"; RFC 9110, 5.3, for a header of several lines.
"""

import ipaddress
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

HOST: Final = "nanohook.forwarded_host"
"""
Scope entry of what came through a trusted proxy: the host that the browser asked for, empty if it does not say.
``Host`` itself stays as it came.
"""
MAX_HOPS: Final = 32
"""Proxies that are looked through, one behind the other."""
_SCHEMES: Final = {"http": "http", "https": "https", "ws": "http", "wss": "https"}
_HOST: Final = re.compile(r"(?:[A-Za-z0-9._-]{1,255}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")
_WITH_PORT: Final = re.compile(r"\[(?P<v6>[^\]]*)\](?::[0-9]*)?|(?P<v4>[0-9.]+):[0-9]*")
_BLANKS_AND_QUOTES: Final = ' \t"'

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Forwarded:
    """
    Middleware that puts the client, scheme and host of a trusted proxy's request in their places.

    Args:
        trusted: Addresses and networks of the proxies.
    """

    def __init__(self, app: ASGIApp, *, trusted: Sequence[str]) -> None:
        self._app = app
        self._trusted: Final = networks(trusted)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http" and scope.get("client"):
            peer = parse_address(scope["client"][0])
            if peer is not None and self._is_trusted(peer):
                self._believe(scope, peer)
        await self._app(scope, receive, send)

    def _believe(self, scope: Scope, peer: Address) -> None:
        said: dict[bytes, list[str]] = {}
        for name, value in scope["headers"]:
            if name.startswith(b"x-forwarded-"):
                said.setdefault(name, []).append(value.decode("latin-1"))
        scheme = _SCHEMES.get(_first(said.get(b"x-forwarded-proto", ())).lower())
        if scheme is not None:
            scope["scheme"] = scheme
        host = _first(said.get(b"x-forwarded-host", ()))
        scope[HOST] = host if _HOST.fullmatch(host) else ""
        client = self._client(peer, said.get(b"x-forwarded-for", ()))
        # The port is the proxy's own connection's, and means nothing for another address.
        scope["client"] = (str(client), 0)

    def _client(self, peer: Address, lines: Sequence[str]) -> Address:
        """
        Find the client: the nearest hop that is no trusted proxy.

        What cannot be read (``unknown``, a name, garbage) ends the way: nothing behind it can be believed, and the
        last proxy that is known stands for whoever came through it.
        """
        client = peer
        for number, hop in enumerate(_backwards(lines)):
            address = parse_address(hop)
            if address is None or number >= MAX_HOPS:
                break
            client = address
            if not self._is_trusted(address):
                break
        return client

    def _is_trusted(self, address: Address) -> bool:
        return is_within(address, self._trusted)


def networks(texts: Iterable[str]) -> tuple[Network, ...]:
    """Read addresses and networks; raises ``ValueError`` on what is neither."""
    return tuple(_network(each) for each in texts)


def is_within(address: Address, trusted: Sequence[Network]) -> bool:
    """Tell whether *address* is in one of the networks *trusted*."""
    return any(address in network for network in trusted if network.version == address.version)


def parse_address(text: str) -> Address | None:
    """
    Read an address of the net, with or without a port; ``None``: it is none.

    One of IPv4 that came over a socket of IPv6 (``::ffff:10.0.0.1``) is of IPv4, and a link-local one has no zone:
    lists of trusted networks are written so.
    """
    bare = text.strip(_BLANKS_AND_QUOTES)
    found = _WITH_PORT.fullmatch(bare)
    if found is not None:
        bare = found["v6"] or found["v4"] or ""
    try:
        address = ipaddress.ip_address(bare.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv4Address):
        return address
    return address.ipv4_mapped or address


def _network(text: str) -> Network:
    network = ipaddress.ip_network(text)
    start = network.network_address
    if isinstance(start, ipaddress.IPv6Address) and start.ipv4_mapped is not None and network.prefixlen >= 96:  # noqa: PLR2004
        return ipaddress.ip_network(f"{start.ipv4_mapped}/{network.prefixlen - 96}")
    return network


def _first(lines: Iterable[str]) -> str:
    """Take the first element of a list: what the client asked the outermost proxy for."""
    elements = (element.strip(_BLANKS_AND_QUOTES) for line in lines for element in line.split(","))
    return next((element for element in elements if element), "")


def _backwards(lines: Sequence[str]) -> Iterator[str]:
    """Give the elements of a list from the last on, without splitting all of a long one."""
    for line in reversed(lines):
        rest: str = line
        while rest:
            rest, _, element = rest.rpartition(",")
            if element.strip(_BLANKS_AND_QUOTES):
                yield element
