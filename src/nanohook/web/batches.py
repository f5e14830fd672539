"""Batches: up to a hundred jobs of one request, all or none of them; how they stand; canceling them."""

import collections
import logging
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import orjson
from starlette.responses import Response

from nanohook import clock, errors
from nanohook.database import Lane, Transaction
from nanohook.flow import batch
from nanohook.flow.batch import Wanted
from nanohook.rules import views
from nanohook.rules.job import Job
from nanohook.rules.status import ImageJobStatus
from nanohook.stores import events, ledger
from nanohook.web import acceptance, wire, work_wire
from nanohook.web.parts import Call

logger = logging.getLogger(__name__)

AT_ONCE: Final = 25
"""Jobs canceled in one transaction: a callback never waits behind more."""


async def create(call: Call) -> Response:
    """Start many jobs; 202 with where to follow them, or 422 with everything that is wrong with any of them."""
    # Some megabytes, which may take minutes to come: with a place, as an upload.
    with call.parts.shares.batches.take(call.person.id):
        asked = await wire.body_of(call.request, work_wire.Batch)
    read, wrong = asked.wishes(wire.language(call.request))
    wanted = {
        number: Wanted(wish=wish, image_id=one.image_id, project_id=one.project_id)
        for number, (one, wish) in read.items()
    }

    async def start(tx: Transaction) -> dict[str, object]:
        refused = await batch.refusals(
            tx, wanted, owner_id=call.person.id, can_fetch=call.parts.terms.has_public_url
        )
        if wrong or refused:
            raise _invalid(wrong, refused)
        batch_id, group = await batch.start(
            tx,
            list(wanted.values()),
            owner_id=call.person.id,
            prices=call.parts.settings.prices,
            now_us=clock.now_us(),
        )
        tx.after_commit.append(
            lambda: logger.info("batch.created", extra={"batch_id": batch_id, "jobs": len(group)})
        )
        return _rendered(await _read(tx, batch_id, group))

    size_bytes = len(await call.request.body())
    return await acceptance.accepted(call, start, route="batches", size_bytes=size_bytes)


async def one(call: Call) -> Response:
    """Tell how the jobs of a batch stand."""
    batch_id = _id(call)

    async def read(tx: Transaction) -> _Rows:
        return await _read(tx, batch_id, await batch.load(tx, batch_id, owner_id=call.sees))

    async with call.turn():
        return _answer(call, await call.read(read, lane=Lane.PAGE))


async def stop(call: Call) -> Response:
    """Cancel every open job of a batch."""
    batch_id = _id(call)

    async def end(tx: Transaction) -> list[Job]:
        return await batch.stop(tx, batch_id, owner_id=call.sees, most=AT_ONCE, now_us=clock.now_us())

    async def end_and_note(tx: Transaction) -> list[Job]:
        group = await end(tx)
        await acceptance.note_admin(
            tx, call, owner_id=group[0].owner_id, action="batch.cancel", subject=batch_id, after="CANCELED"
        )
        return group

    group = await call.write(end_and_note)
    for _ in range(batch.MOST_JOBS // AT_ONCE):
        if not any(job.is_open for job in group):
            break
        group = await call.write(end)
    async with call.turn():
        return _answer(call, await call.read(lambda tx: _read(tx, batch_id, group), lane=Lane.PAGE))


def _id(call: Call) -> str:
    return str(call.request.path_params["batch_id"])


def _invalid(wrong: Mapping[int, Mapping[str, str]], refused: Mapping[int, errors.Rejected]) -> errors.Invalid:
    """Name everything that is wrong with the jobs of a batch, in their order."""
    fields: dict[str, str] = {}
    for number in sorted({*wrong, *refused}):
        if number in refused:
            fields[f"jobs[{number}]"] = str(refused[number])
        for name, text in wrong.get(number, {}).items():
            fields[f"jobs[{number}]" if name == "body" else f"jobs[{number}].{name}"] = text
    codes = {f"jobs[{number}]": exc.code for number, exc in refused.items()}
    return errors.Invalid("some jobs cannot be started, so none was", fields=fields, codes=codes)


class _Rows(NamedTuple):
    """A batch as it was read."""

    batch_id: str
    jobs: Sequence[Job]
    credits: int
    head: int
    """Of the log, in the same snapshot: a stream of these jobs from there misses nothing."""


async def _read(tx: Transaction, batch_id: str, group: Sequence[Job]) -> _Rows:
    costs = await ledger.costs(tx, [job.id for job in group])
    return _Rows(batch_id, group, sum(costs.values()), await events.head(tx))


def _answer(call: Call, rows: _Rows) -> Response:
    return call.parts.shares.outgoing.answer(call.person.id, orjson.dumps(_rendered(rows)))


def _rendered(rows: _Rows) -> dict[str, object]:
    numbers = collections.Counter(job.status for job in rows.jobs)
    return {
        "batch_id": rows.batch_id,
        "counts": {status.value: numbers[status] for status in ImageJobStatus},
        "credits": rows.credits,
        "job_ids": [job.id for job in rows.jobs],
        "failed": [
            {"job_id": job.id, "error": views.fault(job.fault, job.language)}
            for job in rows.jobs
            if job.status is ImageJobStatus.FAILED
        ],
        "is_final": all(job.status.is_final for job in rows.jobs),
        "event_id": rows.head,
        "links": {
            "self": f"/api/batches/{rows.batch_id}",
            "cancel": f"/api/batches/{rows.batch_id}/cancel",
            "events": "/api/events",
        },
    }
