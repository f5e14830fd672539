"""Sends a callback to our own public address, as NanoBanana would: the way in, from outside."""

import asyncio
import time
from typing import Final

import httpx

from nanohook.values import frozen

TOTAL_TIMEOUT_S: Final = 10.0
MAX_ANSWER_BYTES: Final = 64 * 1024
"""Enough to see what answered: ours is a line."""


@frozen
class Answer:
    """What came back, or why nothing did."""

    http_status: int | None
    content_type: str
    body: bytes
    """At most ``MAX_ANSWER_BYTES`` of it."""
    took_ms: int
    reason: str | None
    """Why there is no answer; names no address."""


async def knock(url: str, body: bytes) -> Answer:
    """
    POST *body*, which is JSON, to *url*; never raises for what the network does.

    Redirects are not followed, as NanoBanana follows none, and no proxy setting is read.
    """
    started = time.perf_counter()
    reason, status, kind, said = None, None, "", bytearray()
    try:
        async with (
            asyncio.timeout(TOTAL_TIMEOUT_S),
            httpx.AsyncClient(trust_env=False, timeout=TOTAL_TIMEOUT_S) as client,
            client.stream("POST", url, content=body, headers={"Content-Type": "application/json"}) as answer,
        ):
            status, kind = answer.status_code, answer.headers.get("content-type", "")
            async for part in answer.aiter_raw():
                said += part[: MAX_ANSWER_BYTES - len(said)]
                if len(said) >= MAX_ANSWER_BYTES:
                    break
    except (TimeoutError, httpx.TimeoutException):
        reason = f"no answer within {TOTAL_TIMEOUT_S:g} s"
    except httpx.ConnectError:
        reason = "nobody answers there: no such name, no tunnel, or no TLS that is trusted"
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as exc:
        reason = f"the connection broke ({type(exc).__name__})"
    took_ms = round((time.perf_counter() - started) * 1_000)
    if reason is not None:
        status = None
    return Answer(http_status=status, content_type=kind, body=bytes(said), took_ms=took_ms, reason=reason)
