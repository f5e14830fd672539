"""From a wish to a job, its end by a person's will, and its next attempt; what was asked goes on behind."""

import logging
from collections.abc import Awaitable, Callable
from typing import Final

import orjson
from starlette.responses import Response

from nanohook import clock, errors
from nanohook.database import Transaction
from nanohook.faults import reach
from nanohook.flow import cancel, create, retry
from nanohook.flow.once import Ticket, once
from nanohook.rules import views
from nanohook.rules.job import Job
from nanohook.stores import audit, ledger
from nanohook.web import shown, uploads, wire
from nanohook.web.answers import json_answer
from nanohook.web.parts import Call, Parts

logger = logging.getLogger(__name__)

_MOST_KEY_CHARS: Final = 255


async def generate(call: Call) -> Response:
    """Start a job; 202 with where to follow it."""
    asked = await wire.body_of(call.request, wire.Generate)
    wish = asked.wish(wire.language(call.request))

    async def start(tx: Transaction) -> Job:
        job = await create.generate(
            tx,
            wish,
            owner_id=call.person.id,
            image_id=asked.image_id,
            project_id=asked.project_id,
            price=call.parts.settings.prices.of(wish.model, wish.resolution),
            now_us=clock.now_us(),
        )
        check_reachable(call.parts, job)
        _note(tx, job)
        return job

    return await _accepted(call, start, route="generate-image")


async def again(call: Call) -> Response:
    """Start the next attempt of a job that failed, or of which a task failed."""
    asked = await wire.body_of(call.request, wire.Retry)

    async def start(tx: Transaction) -> Job:
        job = await retry.retry(
            tx,
            owner_id=call.sees,
            job_id=call.job_id,
            may_buy_again=asked.buy_again,
            prices=call.parts.settings.prices,
            now_us=clock.now_us(),
        )
        check_reachable(call.parts, job)
        await _audit(tx, call, job, action="job.retry")
        return job

    return await _accepted(call, start, route="retry")


async def stop(call: Call) -> Response:
    """Cancel an open job."""

    async def end(tx: Transaction) -> None:
        job = await cancel.cancel(tx, owner_id=call.sees, job_id=call.job_id, now_us=clock.now_us())
        await _audit(tx, call, job, action="job.cancel")

    await call.parts.database.write(end)
    return json_answer(await shown.one(call, call.job_id))


async def estimate(call: Call) -> Response:
    """Tell what pictures would cost."""
    asked = wire.values_of(call.request.query_params, wire.Estimate)
    each = call.parts.settings.prices.of(asked.model, asked.checked_resolution())
    balance = await call.parts.database.read(lambda tx: ledger.balance(tx, call.person.id))
    return json_answer(
        {
            "credits": each * asked.num_images,
            "per_image": each,
            "available": balance.available,
            "enough": balance.available >= each * asked.num_images,
        }
    )


def check_may_generate(parts: Parts) -> None:
    """
    Refuse what could never be submitted.

    Raises:
        Conflict: ``no_api_key``.
        DiskFull: There is no room for a result.
    """
    if parts.settings.nanobanana_api_key is None:
        raise errors.Conflict("set NANOBANANA_API_KEY to generate pictures", code="no_api_key")
    uploads.check_disk(parts)


def check_reachable(parts: Parts, job: Job) -> None:
    """
    Refuse a job whose input NanoBanana could not fetch; called before anything of it is committed.

    Raises:
        Conflict: ``no_public_url``.
    """
    has_input = job.original_id is not None or job.options.get("use") == "result"
    if has_input and parts.settings.public_url is None:
        raise errors.Conflict("NanoBanana must fetch the picture: set NANOHOOK_PUBLIC_URL", code="no_public_url")


async def _accepted(call: Call, start: Callable[[Transaction], Awaitable[Job]], *, route: str) -> Response:
    """Start what is asked, once for each ``Idempotency-Key``, and answer that it goes on in the background."""
    ticket = await _ticket(call, route)
    refusal = _refusal(call.parts)

    async def take(tx: Transaction) -> str:
        # Only here: what was taken under this key before is answered whatever has become of us.
        if refusal is not None:
            raise refusal
        job = await start(tx)
        costs = await ledger.costs(tx, [job.id])
        answer = {
            "job_id": job.id,
            "status": job.status,
            "progress": job.progress,
            "attempt": job.attempt,
            "credits": costs.get(job.id, 0),
            "event_id": job.last_event_id,
            "links": views.links(job.id),
        }
        return orjson.dumps(answer).decode()

    reach("accept.read")
    answer = await call.parts.database.write(lambda tx: once(tx, ticket, take, now_us=clock.now_us()))
    reach("accept.committed")
    headers = {"Idempotent-Replayed": "true"} if answer.is_replayed else None
    return Response(answer.text, 202, headers=headers, media_type="application/json")


def _refusal(parts: Parts) -> errors.NanohookError | None:
    try:
        check_may_generate(parts)
    except (errors.Conflict, errors.DiskFull) as exc:
        return exc
    return None


async def _ticket(call: Call, route: str) -> Ticket | None:
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


async def _audit(tx: Transaction, call: Call, job: Job, *, action: str) -> None:
    """Write down what an admin does with somebody else's job."""
    if job.owner_id != call.person.id:
        await audit.append(
            tx, actor=call.person.id, action=action, subject=job.id, after=job.status, now_us=clock.now_us()
        )


def _note(tx: Transaction, job: Job) -> None:
    line = {"job_id": job.id, "model": job.model, "num_images": job.options.get("num_images")}
    tx.after_commit.append(lambda: logger.info("job.created", extra=line))
