"""Deliveries, for admins: the log, what came in each, applying them again, and a test of the way in."""

import asyncio
import logging
import secrets
import time
from typing import Final
from urllib.parse import urlsplit

import orjson
from starlette.responses import Response

from nanohook import clock, errors, replays, reports
from nanohook.database import Lane, Transaction
from nanohook.flow import receive
from nanohook.remote import probe
from nanohook.remote.probe import Probe, Seen
from nanohook.stores import audit, delivery_log
from nanohook.stores.deliveries import Effect, Source
from nanohook.stores.delivery_log import Filter, Verdict, Whole
from nanohook.web import delivery_wire, paging, query, wire
from nanohook.web.answers import json_answer
from nanohook.web.parts import Call

logger = logging.getLogger(__name__)

TEST_FOR_S: Final = 60
"""How long the address of a test callback is valid."""
TEST_AGENT: Final = "nanohook-test"


async def listing(call: Call) -> Response:
    """List what came, taken and refused, newest first."""
    asked = call.request.query_params
    wanted = Filter(
        verdict=query.one_of(asked, "verdict", Verdict),
        effect=query.one_of(asked, "effect", Effect),
        source=query.one_of(asked, "source", Source),
        job_id=asked.get("job_id"),
        task_id=asked.get("task_id"),
        since_us=query.moment(asked, "since"),
        until_us=query.moment(asked, "until"),
    )
    before, most = asked.get("cursor"), query.limit(asked)
    lane = Lane.SEARCH if wanted.is_looked_for else Lane.PAGE
    async with call.turn(lane, rows=most):
        page, after = await call.parts.database.read(
            lambda tx: delivery_log.page(tx, wanted, before_id=before, most=most), lane=lane
        )
        return await paging.page(
            call, "deliveries", page, render=reports.delivery, cursor_of=lambda line: line.id, next_cursor=after
        )


async def one(call: Call) -> Response:
    """Show one, with what came; what opens something is masked."""
    # A megabyte from outside is looked through for what opens something: in turn, and not on the event loop.
    async with call.turn():
        found = await _found(call, call.request.path_params["delivery_id"])
        shown = await asyncio.to_thread(lambda: orjson.dumps(reports.whole_delivery(found)))
    return call.parts.shares.outgoing.answer(call.person.id, shown)


async def again(call: Call) -> Response:
    """Apply one again: by the verdict that it has, whatever it did before."""
    line = (await _found(call, call.request.path_params["delivery_id"])).line
    if line.verdict is Verdict.REJECTED:
        raise errors.Conflict(
            "it was refused at the door, and a replay does not verify again", code="not_accepted"
        )
    before = None if line.effect is None else line.effect.value
    await _note(call, "delivery.replay", line.id, before=before)
    receipts = await replays.replay(call.parts.database, [line.id], terms=call.parts.terms)
    if not receipts:
        raise errors.NotFound("there is no such delivery")
    [receipt] = receipts
    return json_answer({"delivery_id": line.id, "effect": receipt.effect, "reason": receipt.reason})


async def several(call: Call) -> Response:
    """Apply those again that a filter finds, or that are named; oldest first, 1,000 a request."""
    asked = await wire.body_of(call.request, delivery_wire.Replay)
    named = sorted(set(asked.delivery_ids or ()))
    found, after = (await _known(call, named), None) if named else await _wanted(call, asked)
    receipts = await replays.replay(call.parts.database, found, terms=call.parts.terms)
    told = [receipt.effect for receipt in receipts]
    effects = {effect.value: told.count(effect) for effect in Effect if effect in told}
    return json_answer({"replayed": len(told), "effects": effects, "next_cursor": after}, status=202)


async def _known(call: Call, named: list[str]) -> list[str]:
    known = await call.parts.database.read(lambda tx: delivery_log.taken(tx, named))
    if len(known) < len(named):
        raise errors.NotFound("one of the deliveries is not there, or was refused at the door")
    await _note(call, "delivery.replay", *named)
    return named


async def _wanted(call: Call, asked: delivery_wire.Replay) -> tuple[list[str], str | None]:
    wanted = Filter(
        effect=asked.effect,
        source=asked.source,
        job_id=asked.job_id,
        task_id=asked.task_id,
        since_us=asked.since,
        until_us=asked.until,
    )
    async with call.turn(Lane.SEARCH):
        found, after = await call.read(
            lambda tx: delivery_log.oldest(tx, wanted, after_id=asked.cursor, most=delivery_wire.MOST_REPLAYED),
            lane=Lane.SEARCH,
        )
    await _note(call, "deliveries.replay", wanted.written(), after=str(len(found)))
    return found, after


async def test(call: Call) -> Response:
    """Send a callback to our own public address, and tell whether it came in here."""
    url = call.parts.terms.public_url
    if url is None:
        raise errors.Conflict("NANOHOOK_PUBLIC_URL is not set: nobody can call back", code="no_public_url")
    token = call.parts.tokens.sign_callback(
        job_id=receive.TEST_JOB, attempt=1, index=0, expires_at_s=int(time.time()) + TEST_FOR_S
    )
    host = urlsplit(url).netloc
    await _note(call, "deliveries.test", host)
    body = orjson.dumps(
        {"job_id": receive.TEST_JOB, "status": "generating", "data": {"nonce": secrets.token_urlsafe(16)}}
    )
    started = time.perf_counter()
    seen = await _sent(f"{url}/api/webhooks/image-completion/{token}", body)
    took_ms = round((time.perf_counter() - started) * 1_000)
    delivery_id, reason = (None, seen) if isinstance(seen, str) else await _arrived(call, seen, body)
    logger.info(
        "deliveries.tested", extra={"host": host, "ok": reason is None, "reason": reason, "took_ms": took_ms}
    )
    return json_answer(
        {
            "ok": reason is None,
            "http_status": None if isinstance(seen, str) else seen.http_status,
            "took_ms": took_ms,
            "delivery_id": delivery_id,
            "sent_to": host,
            "reason": reason,
        }
    )


async def _found(call: Call, delivery_id: str) -> Whole:
    found = await call.parts.database.read(lambda tx: delivery_log.one(tx, delivery_id))
    if found is None:
        raise errors.NotFound("there is no such delivery")
    return found


async def _note(
    call: Call, action: str, *subjects: str, before: str | None = None, after: str | None = None
) -> None:
    """Write an admin's act down before it is done: what it leads to stands in the log of deliveries."""

    async def append(tx: Transaction) -> None:
        now_us = clock.now_us()
        for subject in subjects:
            await audit.append(
                tx,
                actor=call.person.id,
                action=action,
                subject=subject,
                before=before,
                after=after,
                now_us=now_us,
            )

    # Of what was done already: written down whoever may do no more of it.
    await call.parts.database.write(append)


async def _sent(url: str, body: bytes) -> Seen | str:
    """Send a test from outside; a text tells why nobody answered."""
    try:
        async with Probe() as prober:
            return await prober.post(url, body, user_agent=TEST_AGENT)
    except errors.Transient as exc:
        return f"the public URL is not reached: {exc}"


async def _arrived(call: Call, seen: Seen, body: bytes) -> tuple[str | None, str | None]:
    """Find the delivery that a test became; or tell who answered, if that was not this service."""
    named = seen.said.get("delivery_id")
    if isinstance(named, str):
        found = await call.parts.database.read(lambda tx: delivery_log.one(tx, named))
        if found is not None and found.body == body:
            return named, None
    return None, probe.stranger(seen)[1]
