"""
The head of a request: request line and headers, read strictly.

httptools looks after the syntax. What it leaves to its caller is decided here: an offer to upgrade is ignored,
whatever it is for, and the body behind it stays a body; there is one host; there is one way to tell where the body
ends.

Source: RFC 9112 (HTTP/1.1), sections 3.2, 5 and 6; RFC 9110, sections 7.8 and 10.1.1.
"""

import re
import urllib.parse
from dataclasses import dataclass
from typing import Any, Final

import httptools

_UPGRADE: Final = re.compile(rb"(?i)(?<=\r\n)upgrade(?=:)")


class Refused(Exception):
    """A request that is answered before anybody sees it."""

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail


@dataclass(kw_only=True, slots=True)
class Head:
    """What the head of a request says."""

    method: str
    version: str
    """``1.1`` or ``1.0``."""
    path: str
    raw_path: bytes
    query: bytes
    headers: list[tuple[bytes, bytes]]
    """Names in lower case."""
    keeps_alive: bool
    """The client may send another request over this connection."""
    length: int = 0
    """Bytes of the body that follows."""
    is_chunked: bool = False
    """It follows in chunks, of an unknown length."""
    expects_continue: bool = False
    """The client sends the body only once it is told to."""

    def scope(
        self, *, server: tuple[str, int | None] | None, client: tuple[str, int] | None, state: dict[str, Any]
    ) -> dict[str, Any]:
        """Write it as ASGI's scope, of a connection between *server* and *client*."""
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": self.version,
            "server": server,
            "client": client,
            "scheme": "http",
            "method": self.method,
            "root_path": "",
            "path": self.path,
            "raw_path": self.raw_path,
            "query_string": self.query,
            "headers": self.headers,
            "state": state.copy(),
        }


class _Lines:
    """Collects what the parser calls out."""

    __slots__ = ("headers", "target")

    def __init__(self) -> None:
        self.target = b""
        self.headers: list[tuple[bytes, bytes]] = []

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))


def parse(raw: bytes) -> Head:
    """
    Read a head.

    Args:
        raw: All of it, the empty line at its end too.

    Raises:
        Refused: It is not HTTP/1.1 or 1.0, or could be understood in two ways.
    """
    try:
        return _head(raw)
    except httptools.HttpParserUpgrade:
        pass
    try:
        # The offer hides from the parser that a body follows: it is asked again without.
        return _head(_UPGRADE.sub(b"x-upgrade-offered", raw))
    except httptools.HttpParserUpgrade:
        raise Refused(405, "method_not_allowed", "CONNECT is for proxies") from None


def _head(raw: bytes) -> Head:
    """
    Read a head that offers no upgrade.

    Raises:
        HttpParserUpgrade: It offers one, or is a CONNECT.
        Refused: As ``parse``.
    """
    lines = _Lines()
    parser = httptools.HttpRequestParser(lines)
    try:
        parser.feed_data(raw)
    except httptools.HttpParserError:
        raise Refused(400, "bad_request", "this is not HTTP/1.1 as RFC 9112 has it") from None
    version = parser.get_http_version()
    if version not in {"1.1", "1.0"}:
        raise Refused(505, "http_version", "HTTP/1.1 and HTTP/1.0 are spoken here")
    head = Head(
        method=parser.get_method().decode("ascii"),
        version=version,
        path="*",
        raw_path=lines.target,
        query=b"",
        headers=lines.headers,
        keeps_alive=version == "1.1",
    )
    hosts = []
    for name, value in lines.headers:
        if name == b"host":
            hosts.append(value)
        else:
            _take_in(head, name, value)
    if len(hosts) > 1 or (not hosts and version == "1.1"):
        raise Refused(400, "bad_host", "a request has one Host header")
    if lines.target != b"*":
        _split_target(head, hosts[0] if hosts else b"")
    return head


def _take_in(head: Head, name: bytes, value: bytes) -> None:
    """
    Note what a header says about how its request is sent.

    Raises:
        Refused: The body is sent in a way that we do not read.
    """
    is_new = head.version == "1.1"
    if name == b"content-length":
        head.length = int(value)
    elif name == b"transfer-encoding":
        if value.lower() != b"chunked" or not is_new:
            raise Refused(501, "transfer_encoding", "a body is sent with its length, or in chunks by HTTP/1.1")
        head.is_chunked = True
    elif name == b"connection":
        head.keeps_alive = head.keeps_alive and b"close" not in value.lower()
    elif name == b"expect":
        head.expects_continue = is_new and value.lower() == b"100-continue"


def _split_target(head: Head, host: bytes) -> None:
    """
    Split the request's target into path and query.

    Raises:
        Refused: It cannot be split, or names another host than the Host header.
    """
    try:
        url = httptools.parse_url(head.raw_path)
    except httptools.HttpParserInvalidURLError:
        raise Refused(400, "bad_request", "the address cannot be read") from None
    if url.host is not None:
        named = url.host if url.port is None else b"%b:%d" % (url.host, url.port)
        if named.lower() not in {host.lower(), host.lower().replace(b"[", b"").replace(b"]", b"")}:
            raise Refused(400, "bad_host", "the address and the Host header name two hosts")
    head.raw_path = url.path or b"/"
    path = head.raw_path.decode("ascii")
    head.path = urllib.parse.unquote(path) if "%" in path else path
    head.query = url.query or b""
