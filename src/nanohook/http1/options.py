"""
Answers OPTIONS about the server as a whole.

``OPTIONS *`` is that, and so is ``OPTIONS /`` of no page's script: a balancer that is told nothing else (HAProxy's
plain ``option httpchk``) asks this, by HTTP/1.0 and without a host, and takes us for dead at a 405.

Source: RFC 9110, section 9.3.7.
"""

from typing import Any, Final

from nanohook import ids
from nanohook.http1.head import Head

_HEADERS: Final = [(b"allow", b"GET, HEAD, POST, PATCH, DELETE, OPTIONS"), (b"cache-control", b"no-store")]


def is_about_server(head: Head) -> bool:
    """Tell whether a request asks about the server; with an ``Origin`` a browser asks about the page behind."""
    return (
        head.method == "OPTIONS"
        and head.path in {"*", "/"}
        and not any(name == b"origin" for name, _ in head.headers)
    )


async def is_up(_scope: Any, _receive: Any, send: Any) -> None:
    """Answer that the server is there."""
    headers = [*_HEADERS, (b"x-request-id", ids.new_id().encode())]
    await send({"type": "http.response.start", "status": 204, "headers": headers})
    await send({"type": "http.response.body"})
