"""
``POST /api/check-generation-status``: the question of those who still poll, word for word as they know it.

It asks NanoBanana at most once in ``AGAIN_AFTER_S`` for each task. Whatever the answer is, it takes the way of
every callback; what is said here is what the database says after that.
"""

import asyncio
import logging
from typing import Final

from starlette.responses import Response

from nanohook import clock, errors
from nanohook.database import Transaction
from nanohook.flow.terms import SECOND_US
from nanohook.rules.job import Job, Step, Task
from nanohook.rules.status import ImageJobStatus
from nanohook.stores import claims, jobs, pictures, tasks
from nanohook.web import wire
from nanohook.web.answers import json_answer
from nanohook.web.parts import Call, signed_address

logger = logging.getLogger(__name__)

AGAIN_AFTER_S: Final = 5
_LEASE_S: Final = 30
WAIT_S: Final = 10.0
"""How long one who asks waits for NanoBanana; then the database has to do."""

_WORDS: Final = {401: "Unauthorized", 403: "Forbidden", 404: "Image not found", 429: "Rate limit exceeded"}


def worded(exc: errors.NanohookError, status: int) -> str:
    """Name an error as this route's callers know it."""
    if exc.code == "email_unverified":
        return "Email verification required"
    return str(exc) if exc.code in {"no_task_id", "unknown_task"} else _WORDS.get(status, str(exc))


async def check(call: Call, *, wait_s: float = WAIT_S) -> Response:
    """Tell whether an image is still in progress, completed or failed."""
    asked = await wire.body_of(call.request, wire.Check)
    job, group = await call.parts.database.read(lambda tx: _seen(tx, call, asked))
    lost: list[Task] = []
    if job.is_open:
        if not any(task.task_id for task in group):
            raise errors.Conflict("No task ID found for this image", code="no_task_id")
        waiting = [task for task in group if task.step is Step.ASK and task.task_id]
        # All are waited for, whatever comes of one: no question is left behind without an owner.
        found = await asyncio.gather(*(_knows(call, task, wait_s) for task in waiting), return_exceptions=True)
        for one in found:
            if isinstance(one, BaseException):
                raise one
        lost = [task for task, is_known in zip(waiting, found, strict=True) if not is_known]
    return json_answer(await call.parts.database.read(lambda tx: _answer(tx, call, asked.image_id, lost)))


async def _seen(tx: Transaction, call: Call, asked: wire.Check) -> tuple[Job, list[Task]]:
    job = await jobs.load(tx, asked.image_id)
    if job is None:
        raise errors.NotFound("no such image")
    if call.sees not in {None, job.owner_id}:
        # Elsewhere another's image is unknown; the callers of this route know the difference.
        raise errors.Forbidden("this image is somebody else's")
    if asked.task_id is not None and not await tasks.knows(tx, job_id=job.id, task_id=asked.task_id):
        raise _unknown_task()
    return job, await tasks.of_attempt(tx, job_id=job.id, attempt=job.attempt)


async def _knows(call: Call, task: Task, wait_s: float) -> bool:
    """Ask NanoBanana after *task*, unless somebody just did; ``False``: it firmly says that it has none."""
    ask = call.parts.ask
    now = clock.now_us()
    if ask is None:
        return True
    claimed = await call.parts.database.write(
        lambda tx: claims.claim_to_ask(
            tx,
            task,
            asked_before_us=now - AGAIN_AFTER_S * SECOND_US,
            now_us=now,
            lease_until_us=now + _LEASE_S * SECOND_US,
        )
    )
    if claimed is None:
        return True
    try:
        async with asyncio.timeout(wait_s):
            record = await ask(claimed)
    except TimeoutError:
        logger.warning("check.no_answer", extra={"job_id": task.job_id, "waited_s": wait_s})
        await call.parts.database.write(
            lambda tx: claims.release(tx, claimed, Step.ASK, due_at=clock.now_us() + SECOND_US)
        )
        return True
    finally:
        # A person's question comes on top of the service's own: those keep their time.
        await call.parts.database.write(lambda tx: claims.put_off(tx, claimed, until_us=task.due_at or 0))
    return record is None or not record.is_gone


async def _answer(tx: Transaction, call: Call, image_id: str, lost: list[Task]) -> dict[str, object]:
    """
    Tell how a job stands.

    Args:
        lost: Its tasks that NanoBanana has just said it does not have.

    Raises:
        NotFound: The job is gone; or ``unknown_task``: there is nothing left to wait for.
    """
    job = await jobs.get(tx, owner_id=call.sees, job_id=image_id)
    if job is None:
        raise errors.NotFound("no such image")
    if job.status is ImageJobStatus.COMPLETED:
        first = (await pictures.results(tx, job_id=job.id, owner_id=job.owner_id))[0]
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
    group = await tasks.of_attempt(tx, job_id=job.id, attempt=job.attempt)
    gone = {(task.attempt, task.index, task.task_id) for task in lost}
    # What a retry makes anew is no longer waited for under that id.
    if all((task.attempt, task.index, task.task_id) in gone for task in group if not task.is_ended):
        raise _unknown_task()
    return {"success": True, "status": "processing", "message": "Image generation still in progress"}


def _unknown_task() -> errors.NotFound:
    return errors.NotFound("Failed to check task status: 404", code="unknown_task")
