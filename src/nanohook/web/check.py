"""
``POST /api/check-generation-status``: the question of those who still poll, word for word as they know it.

It asks NanoBanana in its person's turn, and at most once in ``claims.ASK_AGAIN_US`` for each task. Whatever the
answer is, it takes the way of every callback; what is said here is what the database says after that.
"""

import asyncio
from typing import Final, NamedTuple

from starlette.responses import Response

from nanohook import clock, errors
from nanohook.database import Transaction
from nanohook.rules.job import Job, ResultPicture, Task
from nanohook.rules.status import ImageJobStatus
from nanohook.stores import claims, jobs, pictures, tasks
from nanohook.web import wire
from nanohook.web.answers import json_answer
from nanohook.web.parts import Call, signed_address

WAIT_S: Final = 10.0
"""How long one who asks waits for NanoBanana; then the database has to do."""

_WORDS: Final = {401: "Unauthorized", 403: "Forbidden", 404: "Image not found", 429: "Rate limit exceeded"}


class _Seen(NamedTuple):
    """A job as it is asked for."""

    job: Job
    group: list[Task]
    """Of its present attempt."""
    to_ask: list[Task]
    """Those of them for which NanoBanana may be asked."""


def worded(exc: errors.NanohookError, status: int) -> str:
    """Name an error as this route's callers know it."""
    if exc.code == "email_unverified":
        return "Email verification required"
    return str(exc) if exc.code in {"no_task_id", "unknown_task"} else _WORDS.get(status, str(exc))


async def check(call: Call, *, wait_s: float = WAIT_S) -> Response:
    """Tell whether an image is still in progress, completed or failed."""
    asked = await wire.body_of(call.request, wire.Check)
    seen = await call.parts.database.read(lambda tx: _seen(tx, call, asked))
    lost: list[Task] = []
    if seen.job.is_open:
        if not any(task.task_id for task in seen.group):
            raise errors.Conflict("No task ID found for this image", code="no_task_id")
        # All are waited for, whatever comes of one: no question is left behind without an owner.
        found = await asyncio.gather(*(_knows(call, task, wait_s) for task in seen.to_ask), return_exceptions=True)
        for one in found:
            if isinstance(one, BaseException):
                raise one
        lost = [task for task, is_known in zip(seen.to_ask, found, strict=True) if not is_known]
    job, group, first = await call.parts.database.read(lambda tx: _now(tx, call, asked.image_id))
    return json_answer(_answer(call, job, group, first, lost))


async def _seen(tx: Transaction, call: Call, asked: wire.Check) -> _Seen:
    job = await jobs.load(tx, asked.image_id)
    if job is None:
        raise errors.NotFound("no such image")
    if call.sees not in {None, job.owner_id}:
        # Elsewhere another's image is unknown; the callers of this route know the difference.
        raise errors.Forbidden("this image is somebody else's")
    if asked.task_id is not None and not await tasks.knows(tx, job_id=job.id, task_id=asked.task_id):
        raise _unknown_task()
    group = await tasks.of_attempt(tx, job_id=job.id, attempt=job.attempt)
    return _Seen(job, group, await claims.to_ask(tx, job_id=job.id, attempt=job.attempt, now_us=clock.now_us()))


async def _knows(call: Call, task: Task, wait_s: float) -> bool:
    """Ask NanoBanana after *task*; ``False``: it firmly says that it has none."""
    if call.parts.check is None:
        return True
    record = await call.parts.check(task, owner_id=call.person.id, wait_s=wait_s)
    return record is None or not record.is_gone


async def _now(tx: Transaction, call: Call, image_id: str) -> tuple[Job, list[Task], ResultPicture | None]:
    """
    Read how a job stands; with its first picture, if it has any.

    Raises:
        NotFound: The job is gone.
    """
    job = await jobs.get(tx, owner_id=call.sees, job_id=image_id)
    if job is None:
        raise errors.NotFound("no such image")
    found = await pictures.results(tx, job_id=job.id, owner_id=job.owner_id)
    group = await tasks.of_attempt(tx, job_id=job.id, attempt=job.attempt)
    return job, group, next(iter(found), None)


def _answer(
    call: Call, job: Job, group: list[Task], first: ResultPicture | None, lost: list[Task]
) -> dict[str, object]:
    """
    Tell how a job stands.

    Args:
        lost: Its tasks that NanoBanana has just said it does not have.

    Raises:
        NotFound: ``unknown_task``: there is nothing left to wait for.
    """
    if job.status is ImageJobStatus.COMPLETED and first is not None:
        return {
            "success": True,
            "status": "completed",
            "imageId": job.id,
            "transformedUrl": signed_address(call.parts.tokens, first.stored.key),
        }
    if job.status is ImageJobStatus.FAILED:
        return {"success": False, "status": "failed", "message": "Generation failed"}
    if job.status is ImageJobStatus.CANCELED:
        return {"success": False, "status": "failed", "message": "Generation canceled"}
    if not job.is_open:
        raise errors.Conflict("No task ID found for this image", code="no_task_id")
    gone = {(task.attempt, task.index, task.task_id) for task in lost}
    # What a retry makes anew is no longer waited for under that id.
    if all((task.attempt, task.index, task.task_id) in gone for task in group if not task.is_ended):
        raise _unknown_task()
    return {"success": True, "status": "processing", "message": "Image generation still in progress"}


def _unknown_task() -> errors.NotFound:
    return errors.NotFound("Failed to check task status: 404", code="unknown_task")
