"""From a wish to a job, its end by a person's will, and its next attempt; what was asked goes on behind."""

import logging

from starlette.responses import Response

from nanohook import clock
from nanohook.database import Transaction
from nanohook.flow import accept, cancel, create, retry
from nanohook.rules import views
from nanohook.rules.job import Job
from nanohook.stores import ledger
from nanohook.web import acceptance, shown, wire
from nanohook.web.answers import json_answer
from nanohook.web.parts import Call

logger = logging.getLogger(__name__)


async def generate(call: Call) -> Response:
    """Start a job; 202 with where to follow it."""
    asked = await wire.body_of(call.request, wire.Generate)
    wish = asked.wish(wire.language(call.request))

    async def start(tx: Transaction) -> dict[str, object]:
        job = await create.generate(
            tx,
            wish,
            owner_id=call.person.id,
            image_id=asked.image_id,
            project_id=asked.project_id,
            price=call.parts.settings.prices.of(wish.model, wish.resolution),
            now_us=clock.now_us(),
        )
        acceptance.check_reachable(call.parts, job)
        _note(tx, job)
        return await _told(tx, job)

    return await acceptance.accepted(call, start, route="generate-image")


async def again(call: Call) -> Response:
    """Start the next attempt of a job that failed, or of which a task failed."""
    asked = await wire.body_of(call.request, wire.Retry)

    async def start(tx: Transaction) -> dict[str, object]:
        job = await retry.retry(
            tx,
            owner_id=call.sees,
            job_id=call.job_id,
            may_buy_again=asked.buy_again,
            can_fetch=call.parts.terms.has_public_url,
            prices=call.parts.settings.prices,
            now_us=clock.now_us(),
        )
        await _audit(tx, call, job, action="job.retry")
        return await _told(tx, job)

    return await acceptance.accepted(call, start, route="retry")


async def stop(call: Call) -> Response:
    """Cancel an open job."""

    async def end(tx: Transaction) -> None:
        job = await cancel.cancel(tx, owner_id=call.sees, job_id=call.job_id, now_us=clock.now_us())
        await _audit(tx, call, job, action="job.cancel")

    await call.write(end)
    return json_answer(await shown.one(call, call.job_id))


async def accept_late(call: Call) -> Response:
    """Take results that came when the job had ended already."""

    async def take(tx: Transaction) -> None:
        job = await accept.accept_late(tx, owner_id=call.sees, job_id=call.job_id, now_us=clock.now_us())
        await _audit(tx, call, job, action="job.accept_late")

    await call.write(take)
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


async def _told(tx: Transaction, job: Job) -> dict[str, object]:
    """Say that a job was taken, and where to follow it."""
    costs = await ledger.costs(tx, [job.id])
    return {
        "job_id": job.id,
        "status": job.status,
        "progress": job.progress,
        "attempt": job.attempt,
        "credits": costs.get(job.id, 0),
        "event_id": job.last_event_id,
        "links": views.links(job.id),
    }


async def _audit(tx: Transaction, call: Call, job: Job, *, action: str) -> None:
    await acceptance.note_admin(tx, call, owner_id=job.owner_id, action=action, subject=job.id, after=job.status)


def _note(tx: Transaction, job: Job) -> None:
    line = {"job_id": job.id, "model": job.model, "num_images": job.options.get("num_images")}
    tx.after_commit.append(lambda: logger.info("job.created", extra=line))
