"""Images: upload, list, one, delete; and what may be done with the job that each of them is."""

import asyncio
import logging
from typing import Final

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from nanohook import clock, errors
from nanohook.database import Transaction
from nanohook.faults import reach
from nanohook.flow import cancel, create, retry
from nanohook.rules import imaging, views
from nanohook.rules.job import Job, Stored
from nanohook.rules.status import ImageJobStatus
from nanohook.stores import jobs, pictures, tasks
from nanohook.web import wire
from nanohook.web.answers import json_answer
from nanohook.web.parts import Call, Parts, signed_address

logger = logging.getLogger(__name__)

DEFAULT_LIMIT: Final = 50
MOST_LIMIT: Final = 200


async def upload(call: Call) -> Response:
    """Take a picture; 201 with its job, for which nothing is asked yet."""
    check_disk(call.parts)
    body, project_id = await _picture_of(call.request, most_bytes=call.parts.settings.max_upload_bytes)
    # Even the headers of a picture may be long, and are somebody else's: not on the event loop.
    probe = await asyncio.to_thread(imaging.probe, body, most_pixels=call.parts.settings.max_pixels)
    normalised = await call.parts.decoder.run(
        probe.pixels, imaging.normalise, body, most_pixels=call.parts.settings.max_pixels
    )
    stored = await _store(call.parts, normalised)
    reach("upload.stored")
    job = await call.parts.database.write(
        lambda tx: create.upload(
            tx,
            stored,
            owner_id=call.person.id,
            project_id=project_id,
            language=wire.language(call.request),
            now_us=clock.now_us(),
        )
    )
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
    return json_answer(await _shown(call, job.id), status=201)


async def listing(call: Call) -> Response:
    """List this person's images, newest first."""
    query = call.request.query_params
    limit = _limit(query.get("limit"))
    wanted = jobs.Filter(
        statuses=_statuses(query.getlist("status")),
        project_id=query.get("project_id"),
        text=query.get("q"),
        task_id=query.get("task_id"),
        before_id=query.get("cursor"),
    )

    async def read(tx: Transaction) -> tuple[list[dict[str, object]], str | None]:
        page = await jobs.page(tx, wanted, owner_id=call.person.id, most=limit + 1)
        more = page[limit - 1].id if len(page) > limit else None
        return [await _whole(tx, call.parts, job) for job in page[:limit]], more

    shown, more = await call.parts.database.read(read)
    return json_answer({"images": shown, "next_cursor": more})


async def one(call: Call) -> Response:
    """Show one image's job."""
    return json_answer(await _shown(call, _job_id(call)))


async def remove(call: Call) -> Response:
    """Hide an image at once; an open job of it is canceled."""
    await call.parts.database.write(
        lambda tx: cancel.delete(tx, owner_id=call.person.id, job_id=_job_id(call), now_us=clock.now_us())
    )
    return Response(status_code=204)


async def status(call: Call) -> Response:
    """Tell how far a job is."""
    job = await call.parts.database.read(lambda tx: _job(tx, call))
    return json_answer(views.status(job))


async def result(call: Call) -> Response:
    """Give a completed job's pictures; 409 before that, with the job's status."""

    async def read(tx: Transaction) -> tuple[Job, list[dict[str, object]]]:
        job = await _job(tx, call)
        found = await pictures.results(tx, job_id=job.id, owner_id=job.owner_id)
        return job, views.images(found, lambda key: signed_address(call.parts.tokens, key))

    job, images = await call.parts.database.read(read)
    if job.status is not ImageJobStatus.COMPLETED:
        return json_answer(
            {
                "type": "about:blank",
                "title": "Conflict",
                "status": 409,
                "detail": "the job has no result yet",
                "code": "not_completed",
                "job_status": job.status,
            },
            status=409,
            media_type="application/problem+json",
        )
    return json_answer({"job_id": job.id, "status": job.status, "images": images})


async def stop(call: Call) -> Response:
    """Cancel an open job."""
    await call.parts.database.write(
        lambda tx: cancel.cancel(tx, owner_id=call.person.id, job_id=_job_id(call), now_us=clock.now_us())
    )
    return json_answer(await _shown(call, _job_id(call)))


async def again(call: Call) -> Response:
    """Start the next attempt of a job that failed, or of which a task failed."""
    asked = await wire.body_of(call.request, wire.Retry)
    check_may_generate(call.parts)

    async def start(tx: Transaction) -> Job:
        job = await retry.retry(
            tx,
            owner_id=call.person.id,
            job_id=_job_id(call),
            may_buy_again=asked.buy_again,
            now_us=clock.now_us(),
        )
        check_reachable(call.parts, job)
        return job

    job = await call.parts.database.write(start)
    return json_answer(accepted(job), status=202)


def accepted(job: Job) -> dict[str, object]:
    """Build the answer to a job that was taken and goes on in the background."""
    return {
        "job_id": job.id,
        "status": job.status,
        "progress": job.progress,
        "attempt": job.attempt,
        "credits": None,
        "event_id": job.last_event_id,
        "links": views.links(job.id),
    }


def check_may_generate(parts: Parts) -> None:
    """
    Refuse what could never be submitted.

    Raises:
        Conflict: ``no_api_key``.
        DiskFull: There is no room for a result.
    """
    if parts.settings.nanobanana_api_key is None:
        raise errors.Conflict("set NANOBANANA_API_KEY to generate pictures", code="no_api_key")
    check_disk(parts)


def check_reachable(parts: Parts, job: Job) -> None:
    """
    Refuse a job whose input NanoBanana could not fetch; called before anything of it is committed.

    Raises:
        Conflict: ``no_public_url``.
    """
    has_input = job.original_id is not None or job.options.get("use") == "result"
    if has_input and parts.settings.public_url is None:
        raise errors.Conflict("NanoBanana must fetch the picture: set NANOHOOK_PUBLIC_URL", code="no_public_url")


def check_disk(parts: Parts) -> None:
    """
    Keep the reserve free for jobs that already run.

    Raises:
        DiskFull: Less is free.
    """
    if parts.storage.free_bytes() < parts.settings.disk_reserve_bytes:
        raise errors.DiskFull("the disk is nearly full, nothing new is taken", retry_after_s=60)


def _job_id(call: Call) -> str:
    return str(call.request.path_params["job_id"])


async def _job(tx: Transaction, call: Call) -> Job:
    job = await jobs.get(tx, owner_id=call.person.id, job_id=_job_id(call))
    if job is None:
        raise errors.NotFound("no such image")
    return job


async def _shown(call: Call, job_id: str) -> dict[str, object]:
    async def read(tx: Transaction) -> dict[str, object]:
        job = await jobs.get(tx, owner_id=call.person.id, job_id=job_id)
        if job is None:
            raise errors.NotFound("no such image")
        return await _whole(tx, call.parts, job)

    return await call.parts.database.read(read)


async def _whole(tx: Transaction, parts: Parts, job: Job) -> dict[str, object]:
    """Build the job object with what belongs to it."""
    return views.whole_job(
        job,
        original=await pictures.original(tx, job.original_id, owner_id=job.owner_id),
        tasks=await tasks.of_attempt(tx, job_id=job.id, attempt=job.attempt),
        pictures=await pictures.results(tx, job_id=job.id, owner_id=job.owner_id),
        sign=lambda key: signed_address(parts.tokens, key),
    )


async def _store(parts: Parts, normalised: imaging.Normalised) -> Stored:
    name = f"originals/{create.new_id()}"
    stored = Stored(
        key=f"{name}.{normalised.picture.extension}",
        thumbnail_key=f"{name}-small.{normalised.thumbnail.extension}",
        content_type=normalised.picture.content_type,
        width_px=normalised.picture.width_px,
        height_px=normalised.picture.height_px,
        size_bytes=len(normalised.picture.body),
    )
    await parts.storage.put(stored.key, normalised.picture.body)
    await parts.storage.put(stored.thumbnail_key, normalised.thumbnail.body)
    return stored


async def _picture_of(request: Request, *, most_bytes: int) -> tuple[bytes, str | None]:
    """Read the ``file`` of a multipart body, and ``project_id`` if it is there."""
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise errors.UnknownMediaType("send the picture as multipart/form-data, field: file")
    too_large = errors.TooLarge(f"a picture has at most {most_bytes} bytes")
    try:
        async with request.form(max_files=1, max_fields=4, max_part_size=1024) as form:
            file, project_id = form.get("file"), form.get("project_id")
            if not isinstance(file, UploadFile):
                raise errors.Invalid("no picture came", fields={"file": "is needed"})
            body = await file.read(most_bytes + 1)
    except (HTTPException, UnicodeError):
        # The parser's own refusals, and what a form may name as its character set.
        raise errors.Rejected("the multipart body cannot be read", code="bad_multipart") from None
    if len(body) > most_bytes:
        raise too_large
    if not project_id:
        return body, None
    if not isinstance(project_id, str) or len(project_id) > wire.MOST_ID_CHARS or not project_id.isascii():
        raise errors.Invalid("project_id cannot be used", fields={"project_id": "is not an id"})
    return body, project_id


def _limit(text: str | None) -> int:
    if text is None:
        return DEFAULT_LIMIT
    if not (text.isascii() and text.isdigit() and len(text) <= 3 and 1 <= int(text) <= MOST_LIMIT):  # noqa: PLR2004
        raise errors.Invalid("limit cannot be used", fields={"limit": f"must be 1 to {MOST_LIMIT}"})
    return int(text)


def _statuses(texts: list[str]) -> tuple[ImageJobStatus, ...]:
    if len(texts) > len(ImageJobStatus) or not set(texts) <= set(ImageJobStatus):
        raise errors.Invalid("status cannot be used", fields={"status": f"one of {', '.join(ImageJobStatus)}"})
    return tuple(ImageJobStatus(text) for text in texts)
