"""What is taken and goes on in the background: refused before anything is committed, and once for each key."""

from collections.abc import Awaitable, Callable
from typing import Final

import orjson
from starlette.responses import Response

from nanohook import clock, errors
from nanohook.database import Transaction
from nanohook.faults import reach
from nanohook.flow import create
from nanohook.flow.once import Answer, Ticket, once
from nanohook.rules.job import Job
from nanohook.stores import audit
from nanohook.web import uploads
from nanohook.web.parts import Call, Parts

_MOST_KEY_CHARS: Final = 255


async def accepted(
    call: Call, start: Callable[[Transaction], Awaitable[dict[str, object]]], *, route: str, size_bytes: int = 0
) -> Response:
    """
    Start what is asked, once for each ``Idempotency-Key``, and answer 202 with what *start* returns.

    Args:
        size_bytes: What the request holds in memory while it waits for the writer.
    """
    ticket = await _ticket_of(call, route)
    refused = await refusal(call.parts)

    async def take(tx: Transaction) -> str:
        # Only here: what was taken under this key before is answered whatever has become of us.
        if refused is not None:
            raise refused
        return orjson.dumps(await start(tx)).decode()

    reach("accept.read")
    answer = await call.write(lambda tx: once(tx, ticket, take, now_us=clock.now_us()), size_bytes=size_bytes)
    reach("accept.committed")
    return _told(answer)


async def refusal(parts: Parts) -> errors.NanohookError | None:
    """Say why nothing new could ever be submitted: there is no key for NanoBanana, or no room for a result."""
    if parts.settings.nanobanana_api_key is None:
        return errors.Conflict("set NANOBANANA_API_KEY to generate pictures", code="no_api_key")
    try:
        await uploads.check_disk(parts)
    except errors.DiskFull as exc:
        return exc
    return None


def check_reachable(parts: Parts, job: Job) -> None:
    """
    Refuse a job whose input NanoBanana could not fetch; called before anything of it is committed.

    Raises:
        Conflict: ``no_public_url``.
    """
    if job.has_input and not parts.terms.has_public_url:
        raise errors.Conflict(create.NO_PUBLIC_URL, code="no_public_url")


async def note_admin(tx: Transaction, call: Call, *, owner_id: str, action: str, subject: str, after: str) -> None:
    """Write down what an admin does with somebody else's things."""
    if owner_id != call.person.id:
        await audit.append(
            tx, actor=call.person.id, action=action, subject=subject, after=after, now_us=clock.now_us()
        )


def _told(answer: Answer) -> Response:
    """Answer 202; a replay says that it is one."""
    headers = {"Idempotent-Replayed": "true"} if answer.is_replayed else None
    return Response(answer.text, 202, headers=headers, media_type="application/json")


async def _ticket_of(call: Call, route: str) -> Ticket | None:
    """
    Read the request's ``Idempotency-Key``.

    Raises:
        Invalid: It is not 1 to 255 printable characters of ASCII.
    """
    key = call.request.headers.get("idempotency-key")
    if key is None:
        return None
    if not (1 <= len(key) <= _MOST_KEY_CHARS and key.isascii() and key.isprintable()):
        raise errors.Invalid(
            "the Idempotency-Key cannot be used",
            fields={"Idempotency-Key": f"1 to {_MOST_KEY_CHARS} printable characters of ASCII"},
        )
    body = await call.request.body()
    return Ticket.of(owner_id=call.person.id, route=route, key=key, path=call.request.url.path, body=body)
