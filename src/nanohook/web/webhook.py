"""
The door: NanoBanana calls back here.

The signature is checked before the body is read; the delivery and what it changes are committed; then comes the
answer. Nothing that a stranger can send gives a 5xx other than the 503 of a full line.
"""

import asyncio
import hashlib
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, Final, cast

from starlette.types import Message, Receive, Scope, Send

from nanohook import clock, errors, ids
from nanohook.database import Transaction
from nanohook.faults import reach
from nanohook.flow import receive, replay
from nanohook.rules import callbacks, foreign_json, signing
from nanohook.stores.deliveries import Delivery, Source
from nanohook.web import edge, failures
from nanohook.web.parts import Parts, parts_of

logger = logging.getLogger(__name__)

BODY_BYTES: Final = 1024 * 1024
BODY_S: Final = 5.0
_NEVER_KEPT: Final = frozenset({b"authorization", b"cookie", b"proxy-authorization"})


class Webhook:
    """One of the two ways in; *is_signed_by_headers* tells which."""

    def __init__(self, *, is_signed_by_headers: bool) -> None:
        self._take = self._by_headers if is_signed_by_headers else self._by_token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        parts = parts_of(scope)
        seen = bytearray()
        try:
            receipt = await self._take(parts, scope, receive, seen)
        except errors.Rejected as exc:
            parts.metrics.delivery("rejected")
            parts.rejections.add(
                reason=exc.code, peer=_peer(scope), headers=_kept_headers(scope), body=bytes(seen)
            )
            await failures.answer(exc)(scope, receive, send)
        except errors.Unavailable as exc:
            parts.metrics.delivery("refused")
            await failures.answer(exc)(scope, receive, send)
        except Exception:
            # Nobody thought of it, and whoever sent it is not told so: it may come again.
            logger.exception("webhook.crashed")
            parts.metrics.delivery("refused")
            away = errors.Unavailable("the callback could not be taken, send it again")
            await failures.answer(away)(scope, receive, send)
        else:
            reach("webhook.committed")
            verdict = "accepted" if receipt.is_new else "duplicate"
            parts.metrics.delivery(verdict)
            scope[edge.NOTE].line = {
                "verdict": verdict,
                "delivery_id": receipt.delivery_id,
                "job_id": receipt.job_id,
                "word": receipt.word,
                "effect": receipt.effect.value,
                "reason": receipt.reason,
            }
            body = b'{"status":"%b","delivery_id":"%b"}' % (verdict.encode(), receipt.delivery_id.encode())
            await edge.answer(scope, content_type=b"application/json", body=body)

    async def _by_token(self, parts: Parts, scope: Scope, receive_: Receive, seen: bytearray) -> receive.Receipt:
        token = parts.tokens.read_callback(scope["path_params"]["token"], now_s=time.time())
        body = await _read(parts, scope, receive_, seen)
        reach("webhook.read")
        delivery = Delivery(
            id=ids.new_id(),
            source=Source.TOKEN,
            job_id=token.job_id,
            attempt=token.attempt,
            index=token.index,
            webhook_id=None,
            headers=_kept_headers(scope),
            body=body,
            body_sha256=hashlib.sha256(body).digest(),
            received_at=clock.now_us(),
        )
        return await _commit(
            parts,
            delivery,
            lambda tx, reading: receive.callback(
                tx, delivery, reading, terms=parts.terms, now_us=delivery.received_at
            ),
        )

    async def _by_headers(self, parts: Parts, scope: Scope, receive_: Receive, seen: bytearray) -> receive.Receipt:
        if not parts.webhook_secrets:
            raise errors.NotFound("header-signed callbacks are closed: NANOHOOK_WEBHOOK_SECRETS is not set")
        body = await _read(parts, scope, receive_, seen)
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        webhook_id = _verified(headers, body, parts.webhook_secrets)
        delivery = Delivery(
            id=ids.new_id(),
            source=Source.HEADERS,
            job_id=None,
            attempt=None,
            index=None,
            webhook_id=webhook_id,
            headers=_kept_headers(scope),
            body=body,
            body_sha256=hashlib.sha256(b"headers:" + webhook_id.encode()).digest(),
            received_at=clock.now_us(),
        )
        return await _commit(
            parts,
            delivery,
            lambda tx, reading: receive.signed(
                tx, delivery, reading, terms=parts.terms, now_us=delivery.received_at
            ),
        )


def _verified(headers: Mapping[str, str], body: bytes, secrets: Sequence[bytes]) -> str:
    """
    Check the signature over *body* as it came, or as it was before somebody compressed it on the way.

    Raises:
        SignatureInvalid: It fits neither.
        TooLarge: The second form is over ``BODY_BYTES``.
    """
    now_s = time.time()
    try:
        return signing.verify_headers(headers, body, secrets=secrets, now_s=now_s)
    except errors.SignatureInvalid:
        try:
            plain = foreign_json.inflated(body, max_bytes=BODY_BYTES)
        except foreign_json.TooLarge as exc:
            raise errors.TooLarge(str(exc)) from None
        if plain is body:
            raise
    return signing.verify_headers(headers, plain, secrets=secrets, now_s=now_s)


async def _commit(
    parts: Parts, delivery: Delivery, apply: Callable[[Transaction, callbacks.Reading], Awaitable[receive.Receipt]]
) -> receive.Receipt:
    """
    Commit a delivery with what it changes; if that cannot be told or done, the delivery alone, for another try.

    Raises:
        Rejected: It cannot be used.
        Unavailable: It was not committed. No other error leaves here.
    """
    size = len(delivery.body) + len(delivery.headers)
    try:
        reading = callbacks.read(delivery.body)
        return await parts.database.offer(lambda tx: apply(tx, reading), size_bytes=size)
    except (errors.Rejected, errors.Unavailable):
        raise
    except Exception as exc:
        logger.exception("delivery.unapplied", extra={"delivery_id": delivery.id, "job_id": delivery.job_id})
        reason = replay.why(exc)
    try:
        return await parts.database.offer(
            lambda tx: receive.keep_unapplied(
                tx, delivery, reason=reason, due_at=delivery.received_at + replay.AGAIN_US
            ),
            size_bytes=size,
        )
    except (errors.Rejected, errors.Unavailable):
        raise
    except Exception as exc:
        logger.exception("delivery.not_kept", extra={"job_id": delivery.job_id})
        raise errors.Unavailable("the callback could not be kept, send it again") from exc


async def _read(parts: Parts, scope: Scope, receive_: Receive, seen: bytearray) -> bytes:
    """Read the body into *seen*, within bounds of size, time and memory."""
    if _declared_length(scope) > BODY_BYTES:
        raise _too_large()
    # Most bodies are there with their headers: taken without the cost of a clock.
    message = _at_once(receive_)
    if message is not None and not _take_in(message, seen):
        return bytes(seen)
    try:
        with parts.shares.incoming.body() as count:
            async with asyncio.timeout(BODY_S):
                count(len(seen))
                while _take_in(await receive_(), seen):
                    count(len(seen))
    except TimeoutError:
        raise errors.TooSlow("the body took too long") from None
    return bytes(seen)


def _at_once(receive_: Receive) -> Message | None:
    """Take a message if one is there: drive ``receive`` one step, and let go of it if it would wait."""
    receiving = cast("Coroutine[Any, Any, Message]", receive_())
    try:
        receiving.send(None)
    except StopIteration as end:
        message: Message = end.value
        return message
    receiving.close()
    return None


def _take_in(message: Message, seen: bytearray) -> bool:
    """Add a message's bytes to *seen*; tell whether more follow."""
    if message["type"] == "http.disconnect":
        raise errors.Rejected("the connection ended within the body", code="disconnected")
    seen += message.get("body", b"")
    if len(seen) > BODY_BYTES:
        raise _too_large()
    return bool(message.get("more_body", False))


def _too_large() -> errors.TooLarge:
    return errors.TooLarge(f"a callback has at most {BODY_BYTES} bytes")


def _declared_length(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length":
            return int(value) if value.isdigit() and len(value) <= 18 else BODY_BYTES + 1  # noqa: PLR2004
    return 0


def _kept_headers(scope: Scope) -> str:
    lines = [name + b": " + value for name, value in scope["headers"] if name not in _NEVER_KEPT]
    kept = b"\n".join(lines).decode("latin-1")
    # A proxy may tell the path in a header of its own, and the token with it.
    token = scope["path_params"].get("token")
    return kept.replace(token, "…") if token else kept


def _peer(scope: Scope) -> str:
    client = scope.get("client")
    return client[0] if client else ""
