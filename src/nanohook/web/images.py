"""Images: upload, list, one, its history; delete and restore."""

import logging
from dataclasses import replace
from typing import Final

import limits
import orjson
from starlette.responses import Response

from nanohook import clock, errors, ids
from nanohook.clock import rfc3339
from nanohook.database import Lane, Transaction
from nanohook.faults import reach
from nanohook.flow import cancel, create, gate
from nanohook.flow.gate import Gate
from nanohook.flow.terms import SECOND_US
from nanohook.rules import estimate, views
from nanohook.rules.job import Job, ResultPicture
from nanohook.rules.status import ImageJobStatus
from nanohook.stores import events, job_lists, jobs, line, pictures, projects, stats
from nanohook.stores.events import Event
from nanohook.stores.jobs import Attempt
from nanohook.web import failures, paging, query, shown, uploads, wire
from nanohook.web.answers import json_answer
from nanohook.web.parts import Call, Parts, signed_address
from nanohook.web.shown import JobRows

logger = logging.getLogger(__name__)

_TYPICAL_OF: Final = 20
"""Newest completed jobs that tell how long one takes."""


async def upload(call: Call) -> Response:
    """Take a picture; 201 with its job, for which nothing is asked yet."""
    if not uploads.is_form(call.request):
        raise errors.UnknownMediaType("send the picture as multipart/form-data, field: file")
    most_bytes = call.parts.settings.max_upload_bytes
    async with uploads.place(call), uploads.received(call.request, name="file", most_bytes=most_bytes) as form:
        if form.file is None:
            raise errors.Invalid("no picture came", fields={"file": "is needed"})
        project_id = form.fields.get("project_id") or None
        stored = await uploads.store(call, form.file, folder="originals")
    reach("upload.stored")

    async def keep(tx: Transaction) -> Job:
        await uploads.check_quota(tx, call.parts, owner_id=call.person.id, adds_bytes=stored.size_bytes)
        return await create.upload(
            tx,
            stored,
            owner_id=call.person.id,
            project_id=project_id,
            language=wire.language(call.request),
            now_us=clock.now_us(),
        )

    job = await uploads.keep(call, stored, keep)
    reach("upload.settled")
    # The server measures the original before anything is asked upstream.
    logger.info(
        "image.uploaded",
        extra={
            "job_id": job.id,
            "width_px": stored.width_px,
            "height_px": stored.height_px,
            "ratio": round(stored.width_px / stored.height_px, 2),
        },
    )
    return json_answer(await shown.one(call, job.id), status=201)


async def listing(call: Call) -> Response:
    """List this person's images, newest first; an admin may list everybody's."""
    asked = call.request.query_params
    most = query.limit(asked)
    wanted = job_lists.Filter(
        owner_id=call.whose(),
        statuses=query.statuses(asked),
        project_id=asked.get("project_id"),
        text=query.words(asked, "q"),
        task_id=asked.get("task_id"),
        ids=query.ids(asked),
        before_id=asked.get("cursor"),
    )

    async def read(tx: Transaction) -> tuple[list[JobRows], str | None, int]:
        owner_id = wanted.owner_id
        if owner_id is None and wanted.project_id is not None:
            # Among everybody's, a project is found by whose it is: there the index begins.
            owner_id = await projects.owner_of(tx, wanted.project_id) or ""
        found, after = await job_lists.page(tx, replace(wanted, owner_id=owner_id), most=most)
        # The head of the log in this same snapshot: a stream from there misses nothing, not even a first job.
        return await shown.read_all(tx, found), after, await events.head(tx)

    lane = Lane.SEARCH if wanted.text else Lane.PAGE
    if most <= query.DEFAULT_LIMIT and wanted == job_lists.Filter(owner_id=call.person.id):
        # What a person sees first: the newest of theirs, which are in memory if they have just been written. In a
        # thread each of these rows would have to win the interpreter back from the event loop.
        lane = Lane.POINT
    async with call.turn(lane, rows=most):
        page, after, head = await call.read(read, lane=lane)
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug("images.listed", extra={"images": list(map(_in_short, page))})
        return await paging.page(
            call,
            "images",
            page,
            render=lambda rows: shown.rendered(call.parts, rows),
            cursor_of=lambda rows: rows.job.id,
            next_cursor=after,
            more={"event_id": head},
        )


async def one(call: Call) -> Response:
    """Show one image's job."""
    return json_answer(await shown.one(call, call.job_id))


async def remove(call: Call) -> Response:
    """Hide an image at once; an open job of it is canceled."""
    await call.write(
        lambda tx: cancel.delete(tx, owner_id=call.person.id, job_id=call.job_id, now_us=clock.now_us())
    )
    return Response(status_code=204)


async def restore(call: Call) -> Response:
    """Take a deletion back."""
    await call.write(
        lambda tx: cancel.restore(tx, owner_id=call.person.id, job_id=call.job_id, now_us=clock.now_us())
    )
    return json_answer(await shown.one(call, call.job_id))


async def status(call: Call) -> Response:
    """Tell how far a job is."""

    async def read(tx: Transaction) -> tuple[Job, Gate | None, int | None, float | None]:
        job = await shown.job(tx, call, call.job_id)
        if job.stage not in views.BEFORE_SUBMIT:
            return job, None, None, None
        stands = await gate.read(tx)
        place = await line.place(tx, job_id=job.id, attempt=job.attempt)
        wait_s = None if place is None or not stands.is_open else await _wait_s(tx, call.parts, place)
        return job, stands, place, wait_s

    job, stands, place, wait_s = await call.parts.database.read(read)
    held_by = None if stands is None else stands.reason
    return json_answer(views.status(job, held_by=held_by, place=place, estimated_wait_s=wait_s))


async def result(call: Call) -> Response:
    """Give a completed job's pictures; 409 before that, with the job's status."""

    async def read(tx: Transaction) -> tuple[Job, list[ResultPicture]]:
        job = await shown.job(tx, call, call.job_id)
        return job, await pictures.results(tx, job_id=job.id, owner_id=job.owner_id)

    job, found = await call.parts.database.read(read)
    if job.status is not ImageJobStatus.COMPLETED:
        return failures.problem(
            409, code="not_completed", detail="the job has no result yet", more={"job_status": job.status}
        )
    images = views.images(found, lambda key: signed_address(call.parts.tokens, key))
    return json_answer({"job_id": job.id, "status": job.status, "images": images})


async def history(call: Call) -> Response:
    """Tell what happened to a job: its newest attempts, and its events from the first on."""
    asked = call.request.query_params
    after, most = query.number(asked, "cursor") or 0, query.limit(asked)

    async def read(tx: Transaction) -> tuple[list[Attempt], list[Event]]:
        job = await shown.job(tx, call, call.job_id)
        page = await events.of_jobs_after(tx, after, owner_id=job.owner_id, job_ids=(job.id,), most=most + 1)
        return await jobs.attempts(tx, job.id, most=query.MOST_LIMIT), page

    async with call.turn(rows=most):
        attempts, page = await call.read(read, lane=Lane.PAGE)
        return await paging.page(
            call,
            "events",
            page[:most],
            render=lambda event: _happened(call, event),
            cursor_of=lambda event: event.id,
            next_cursor=page[most - 1].id if len(page) > most else None,
            more={"job_id": call.job_id, "attempts": list(map(_tried, attempts))},
        )


async def _wait_s(tx: Transaction, parts: Parts, place: int) -> float:
    """Estimate how long the task at *place* in the line waits, by what the newest jobs took."""
    newest = await stats.runs(tx, owner_id=None, statuses=(ImageJobStatus.COMPLETED,), most=_TYPICAL_OF)
    typical_us = estimate.percentile([run.took for run in newest], 0.5)
    rate = limits.parse(parts.settings.upstream_rate)
    return estimate.wait_s(
        place,
        room=parts.settings.open_tasks - await stats.count_running(tx),
        open_tasks=parts.settings.open_tasks,
        rate=(rate.amount, rate.get_expiry()),
        run_s=estimate.RUN_S if typical_us is None else typical_us / SECOND_US,
    )


def _tried(attempt: Attempt) -> dict[str, object]:
    return {
        "number": attempt.number,
        "status": attempt.status,
        "error_code": attempt.error_code,
        "created_at": rfc3339(attempt.created_at),
        "ended_at": None if attempt.ended_at is None else rfc3339(attempt.ended_at),
    }


def _happened(call: Call, event: Event) -> dict[str, object]:
    told = views.addressed(orjson.loads(event.payload), lambda key: signed_address(call.parts.tokens, key))
    del told["job_id"]
    return {"id": event.id, "name": event.name, **told}


def _in_short(rows: JobRows) -> dict[str, object]:
    task_id = next((task.task_id for task in rows.tasks if task.index == 0), None)
    return {
        "id": ids.short(rows.job.id),
        "status": rows.job.status,
        "task_id": None if task_id is None else ids.short(task_id),
    }
