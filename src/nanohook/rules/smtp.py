"""
Mail on paper: the relay that an operator names, and addresses that are safe to write into a header. No I/O.

What is wrong is said without the value: a relay's address holds a password.
"""

import dataclasses
import enum
import ipaddress
import re
import urllib.parse
from typing import Final

import idna

from nanohook import errors
from nanohook.rules import addresses

MOST_ADDRESS_CHARS: Final = 254
"""Of an address without its name: RFC 5321's path of 256, less its two brackets."""

MOST_NAME_CHARS: Final = 100

_MOST_LOCAL_CHARS: Final = 64
_MOST_DOMAIN_CHARS: Final = 253
_MOST_PORT: Final = 65_535
_PORTS: Final = {"smtp": 587, "smtps": 465}

# Up to the last @, so that one inside a user name or a password does no harm: a host cannot contain it.
_URL: Final = re.compile(
    r"(?P<scheme>smtps?)://(?:(?P<user>[^:/?#]*)(?::(?P<password>[^/?#]*))?@)?"
    r"(?P<host>\[[^\[\]@/?#]+\]|[^\[\]:@/?#\\]+)(?::(?P<port>[0-9]{1,5}))?/?",
    re.IGNORECASE,
)
# Whatever ends a header line, or is taken for its end by somebody. Blanks that French sets before its
# punctuation are no danger, so this is not ``isprintable``.
_UNSAFE: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_MAILBOX: Final = re.compile(
    r'(?:(?P<quote>"?)(?P<name>[^"<>\\]*?)(?P=quote) *<(?P<named>[^<>]*)>|(?P<bare>[^<>]*))'
)
_ATOM: Final = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_LOCAL: Final = re.compile(rf"{_ATOM}(?:\.{_ATOM})*")
_LABEL: Final = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_DOMAIN: Final = re.compile(rf"(?:{_LABEL}\.)*(?![0-9]+$){_LABEL}")


class Security(enum.Enum):
    """How the way to a relay is protected."""

    TLS = "tls"
    """From the first byte on."""
    STARTTLS = "starttls"
    """Asked for before anything is said; without it nothing is sent."""
    STARTTLS_IF_OFFERED = "starttls_if_offered"
    """For this machine alone, where nobody listens on the way."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Relay:
    """Where mail is handed in; built by ``parse``."""

    host: str
    """Lower-case ASCII name (IDNA), or an IP address without brackets."""
    port: int
    security: Security
    user: str | None
    password: str | None = dataclasses.field(repr=False)
    """Printable ASCII, as the user; both or neither."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Mailbox:
    """An address in its parts; built by ``mailbox``."""

    name: str
    """Shown to people; empty where there is none."""
    local: str
    """What stands before the @: it names a person, so it stays out of the log."""
    domain: str
    """Lower-case ASCII (IDNA)."""

    @property
    def address(self) -> str:
        """``local@domain``."""
        return f"{self.local}@{self.domain}"


def parse(url: str) -> Relay:
    """
    Read ``smtp://user:password@host:587`` or ``smtps://user:password@host:465``.

    User and password are optional, and percent-decoded; so are the ports, 587 and 465. With ``smtp``,
    STARTTLS is required unless the host is this machine, credentials or not: a mail's link opens an account.

    Raises:
        ValueError: The message never contains a part of *url*.
    """
    match = _URL.fullmatch(url)
    if match is None:
        raise ValueError(
            "must be smtp://user:password@host:587 or smtps://…:465; write / ? # in it as %2F %3F %23"
        )
    scheme = match["scheme"].lower()
    port = int(match["port"]) if match["port"] else _PORTS[scheme]
    if not 0 < port <= _MOST_PORT:
        raise ValueError("its port must be between 1 and 65535")
    try:
        host = addresses.parse(f"https://{match['host']}").host
    except errors.Invalid:
        raise ValueError("its host must be a name or an IP address, an IPv6 address in brackets") from None
    user, password = _credential(match["user"]), _credential(match["password"])
    if (user is None) != (password is None):
        raise ValueError("it must have both a user and a password, or neither")
    return Relay(host=host, port=port, security=_security(scheme, host), user=user, password=password)


def mailbox(text: str) -> Mailbox:
    """
    Read ``a@b.example`` or ``Name <a@b.example>``.

    Taken are addresses that every relay carries: an ASCII local part without quotes, and a domain name, which
    may be international. A name may be quoted; it is text for people and is encoded where it is written.

    Raises:
        ValueError: Anything else, line breaks and other control characters above all; *text* is not quoted.

    Source: RFC 5321, 4.1.2 and 4.5.3.1.
    """
    is_possible = len(text) <= MOST_ADDRESS_CHARS + MOST_NAME_CHARS and is_one_line(text)
    match = _MAILBOX.fullmatch(text) if is_possible else None
    if match is None or len(match["name"] or "") > MOST_NAME_CHARS:
        raise ValueError("must be an address such as a@b.example, or Name <a@b.example>")
    address = match["bare"] if match["named"] is None else match["named"]
    local, _, name = address.rpartition("@")
    domain = _domain(name)
    if len(local) > _MOST_LOCAL_CHARS or _LOCAL.fullmatch(local) is None:
        raise ValueError("what stands before the @ of an address must be letters, digits and few signs")
    if len(local) + 1 + len(domain) > MOST_ADDRESS_CHARS:
        raise ValueError(f"an address has at most {MOST_ADDRESS_CHARS} characters")
    return Mailbox(name=(match["name"] or "").strip(), local=local, domain=domain)


def check_address(text: str) -> str:
    """
    Return *text*, which ``mailbox`` can read.

    Raises:
        ValueError: As ``mailbox``.
    """
    mailbox(text)
    return text


def bare(text: str) -> str:
    """
    Return a bare address in the one spelling under which an account is kept: lower case, its domain in ASCII.

    Raises:
        ValueError: As ``mailbox``; or a name stands beside it.
    """
    if "<" in text:
        raise ValueError("an address alone, without a name")
    return mailbox(text).address.lower()


def is_one_line(text: str) -> bool:
    """Whether *text* can be written into a header: no line break or other control character, no surrogate."""
    return _UNSAFE.search(text) is None


def _security(scheme: str, host: str) -> Security:
    if scheme == "smtps":
        return Security.TLS
    return Security.STARTTLS_IF_OFFERED if _is_this_machine(host) else Security.STARTTLS


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _credential(quoted: str | None) -> str | None:
    if quoted is None:
        return None
    try:
        text = urllib.parse.unquote(quoted, errors="strict")
    except UnicodeDecodeError:
        text = ""
    # smtplib sends nothing else; refused here, it is found at the start and not with the first mail.
    if not text or not text.isascii() or not text.isprintable():
        raise ValueError("its user and password must be printable ASCII and not empty; write % in them as %25")
    return text


def _domain(text: str) -> str:
    try:
        name = text.lower() if text.isascii() else idna.encode(text, uts46=True).decode("ascii")
    except UnicodeError:
        name = ""
    if len(name) > _MOST_DOMAIN_CHARS or _DOMAIN.fullmatch(name) is None:
        raise ValueError("what stands behind the @ of an address must be a domain name")
    return name
