"""
Which addresses on the network may be asked for a picture: URLs read strictly, IP addresses judged. No I/O.

There is one reader of URLs for what is believed, what is allowed and what is connected to: two readers that
disagree about where a host ends are how a guard is passed (``https://good@evil/``).
"""

import dataclasses
import ipaddress
import itertools
import re
import string
import urllib.parse
from collections.abc import Collection, Iterable
from typing import Literal

import idna

from nanohook import errors

MOST_URL_CHARS = 8_192
"""Signed addresses of object stores have about 2,000."""

MAX_TARGET_CHARS = 60_000
"""Path and query once they are escaped: a character may become twelve. What callbacks keep fits."""

_DEFAULT_PORTS = {"https": 443, "http": 80}
_MOST_PORT = 65_535
_MOST_HOST_CHARS = 253
_ASCII_END = 0x80

_URL = re.compile(
    r"(?P<scheme>https?)://(?P<host>\[[0-9a-f:.]+\]|[^/?#@:\[\]\\]+)(?::(?P<port>[0-9]{1,5}))?"
    r"(?P<target>[/?][^#]*)?(?:#.*)?",
    re.IGNORECASE,
)
# What callbacks are cleared of, and the backslash, which some readers take for a slash.
_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f-\x9f\\\ud800-\udfff]")
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
# What a browser sends as it stands: a host that signs the raw target knows no other. Source: WHATWG URL Standard,
# "path percent-encode set" and "query percent-encode set"; the apostrophe is left alone, as RFC 3986 does.
_KEPT_IN_QUERY = "".join(sorted(set(string.punctuation) - set('"<>\\')))
_KEPT_IN_PATH = "".join(sorted(set(_KEPT_IN_QUERY) - set("^`{}")))

# What the registries of special addresses list, and what lies about where it leads. From Python's own
# is_global (3.11) multicast, NAT64, 6to4 and site-local pass; a list of ours does not move with versions.
_REFUSED_V4 = tuple(
    map(
        ipaddress.IPv4Network,
        (
            "0.0.0.0/8",
            "10.0.0.0/8",
            "100.64.0.0/10",  # carriers' shared space, and some clouds' metadata
            "127.0.0.0/8",
            "168.63.129.16/32",  # Azure's host, which looks public and is answered inside every machine there
            "169.254.0.0/16",  # link-local: the metadata services of the clouds
            "172.16.0.0/12",
            "192.0.0.0/24",
            "192.0.2.0/24",
            "192.88.99.0/24",  # 6to4 relays
            "192.168.0.0/16",
            "198.18.0.0/15",
            "198.51.100.0/24",
            "203.0.113.0/24",
            "224.0.0.0/4",
            "240.0.0.0/4",
        ),
    )
)
# Only 2000::/3 is handed out. Outside of it lie loopback, IPv4-mapped and -compatible addresses, NAT64
# (64:ff9b::/96, 64:ff9b:1::/48), unique-local, link-local, site-local and multicast.
_UNICAST_V6 = ipaddress.IPv6Network("2000::/3")
_REFUSED_V6 = tuple(
    map(
        ipaddress.IPv6Network,
        (
            "2001::/23",  # Teredo, ORCHID, benchmarking
            "2001:db8::/32",
            "2002::/16",  # 6to4: an IPv4 address in disguise
            "3fff::/20",
        ),
    )
)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """A URL in the parts that a connection needs; built by ``parse`` alone."""

    scheme: Literal["https", "http"]
    host: str
    """Lower-case ASCII name (IDNA), or an IP address in its shortest form, without brackets."""
    port: int
    """The scheme's own where the URL names none."""
    target: str
    """Path and query, printable ASCII; the fragment is dropped."""

    @property
    def host_text(self) -> str:
        """``host``, an IPv6 address in brackets."""
        return f"[{self.host}]" if ":" in self.host else self.host

    @property
    def shown(self) -> str:
        """For messages and logs: without the query, which may hold a signature."""
        return f"{self.scheme}://{_with_port(self)}{self.target.partition('?')[0]}"


def parse(url: str) -> Place:
    """
    Read an absolute http or https URL.

    Refused are backslashes and control characters anywhere, a user name or password, and a host that only looks
    like an IP address (``2130706433``, ``0x7f.1``, ``127.1``): some resolvers read those as one. Blanks around
    it are cut off; a blank or a letter outside ASCII in path or query is escaped as UTF-8, as browsers do, and
    what is escaped already stays as it is.

    Raises:
        Invalid: With code ``invalid_url``. The message never contains the URL.

    Source: RFC 3986; WHATWG URL Standard, "ends in a number checker".
    """
    is_clean = len(url) <= MOST_URL_CHARS and _FORBIDDEN.search(url) is None
    match = _URL.fullmatch(url.strip(" ")) if is_clean else None
    if match is None:
        raise _refused("not an absolute http or https address, or one with a user name or odd characters")
    scheme: Literal["https", "http"] = "https" if match["scheme"].lower() == "https" else "http"
    port = int(match["port"]) if match["port"] else _DEFAULT_PORTS[scheme]
    if not 0 < port <= _MOST_PORT:
        raise _refused("its port is not between 1 and 65535")
    path, mark, query = (match["target"] or "").partition("?")
    target = (
        urllib.parse.quote(path or "/", safe=_KEPT_IN_PATH) + mark + urllib.parse.quote(query, safe=_KEPT_IN_QUERY)
    )
    if len(target) > MAX_TARGET_CHARS:
        raise _refused("it is too long")
    return Place(
        scheme=scheme,
        host=_host(match["host"]),
        port=port,
        target=target,
    )


def redirected(place: Place, location: bytes) -> Place:
    """
    Read where a redirect from *place* leads.

    Args:
        location: The header's bytes. Most hosts that send raw letters send UTF-8; what is none is escaped byte
            by byte, which any host understands that wrote it.

    Raises:
        Invalid: As ``parse``; with code ``no_url`` for what is no address at all, of whatever kind.

    Source: RFC 9110, section 10.2.2; WHATWG Fetch Standard, "location URL".
    """
    try:
        text = location.decode()
    except UnicodeDecodeError:
        text = "".join(chr(byte) if byte < _ASCII_END else f"%{byte:02X}" for byte in location)
    if not text.strip(" "):
        raise errors.Invalid("a redirect leads nowhere", code="no_url")
    # Before they are joined: urljoin drops tabs and newlines without a word.
    if len(text) > MOST_URL_CHARS or _FORBIDDEN.search(text):
        raise _refused("a redirect leads to one with odd characters")
    try:
        joined = urllib.parse.urljoin(
            f"{place.scheme}://{place.host_text}:{place.port}{place.target}", text.strip(" ")
        )
    except ValueError:
        raise errors.Invalid("a redirect leads to what is no address", code="no_url") from None
    return parse(joined)


def host_of(url: str) -> str:
    """
    ``host``, or ``host:port`` where the port is not the scheme's own; an IPv6 address in brackets.

    Raises:
        Invalid: As ``parse``.
    """
    return _with_port(parse(url))


def is_listed(url: str, hosts: Collection[str]) -> bool:
    """
    Whether the host of *url* is one of *hosts*; ``False`` for whatever is not a clean URL.

    Args:
        url: As it came from outside.
        hosts: ``host``, which stands for every port of it, or ``host:port`` for that port alone, the scheme's
            own included. Never a part of a name: ``example.com`` does not list ``cdn.example.com``.
    """
    try:
        place = parse(url)
    except errors.Invalid:
        return False
    return is_listed_host(place.host, place.port, hosts)


def is_listed_host(host: str, port: int, hosts: Collection[str]) -> bool:
    """The same for a host and port that ``parse`` gave."""
    text = f"[{host}]" if ":" in host else host
    return not {text, f"{text}:{port}"}.isdisjoint(entry.lower() for entry in hosts)


def is_public(ip: str) -> bool:
    """
    Whether *ip* is an ordinary address of the public internet; ``False`` for text that is no address.

    Addresses that carry an IPv4 address inside (mapped, compatible, NAT64, 6to4, Teredo) are never public:
    where they lead is decided by whoever translates them.

    Source: IANA IPv4 and IPv6 Special-Purpose Address Registries.
    """
    try:
        address = ipaddress.ip_address(ip)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv4Address):
        return not any(address in network for network in _REFUSED_V4)
    return address in _UNICAST_V6 and not any(address in network for network in _REFUSED_V6)


def is_fixed_host(host: str) -> bool:
    """
    Whether no name server decides where *host* leads: an IP address, or a name of this machine.

    Source: RFC 6761, section 6.3.
    """
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return host.removesuffix(".").rpartition(".")[2] == "localhost"
    return True


def interleaved(ips: Iterable[str]) -> list[str]:
    """
    Order *ips* so that IPv6 and IPv4 take turns, that of the first one first; each is kept once.

    Source: RFC 8305, section 4.
    """
    once = list(dict.fromkeys(ips))
    same = [ip for ip in once if (":" in ip) is (":" in once[0])]
    other = [ip for ip in once if ip not in same]
    return [ip for pair in itertools.zip_longest(same, other) for ip in pair if ip is not None]


def _refused(reason: str) -> errors.Invalid:
    return errors.Invalid(f"the address cannot be used: {reason}", code="invalid_url")


def _with_port(place: Place) -> str:
    own = place.port == _DEFAULT_PORTS[place.scheme]
    return place.host_text if own else f"{place.host_text}:{place.port}"


def _host(text: str) -> str:
    if text.startswith("["):
        try:
            return str(ipaddress.IPv6Address(text[1:-1]))
        except ValueError:
            raise _refused("its host is not an IPv6 address") from None
    try:
        # IDNA also folds other scripts' digits and dots into ASCII, so the checks come after it.
        name = text.lower() if text.isascii() else idna.encode(text, uts46=True).decode("ascii")
    except UnicodeError:
        raise _refused("its host is not a name") from None
    labels = name.removesuffix(".").split(".")
    if _NUMBER.fullmatch(labels[-1]):
        try:
            return str(ipaddress.IPv4Address(name))
        except ValueError:
            raise _refused("its host is a number that only looks like an IP address") from None
    if len(name) > _MOST_HOST_CHARS or not all(map(_LABEL.fullmatch, labels)):
        raise _refused("its host is not a name")
    return ".".join(labels)
