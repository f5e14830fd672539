"""``POST /api/generate-image``: from a wish to a job; NanoBanana is called in the background."""

import logging

from starlette.responses import Response

from nanohook import clock
from nanohook.database import Transaction
from nanohook.flow import create
from nanohook.rules.job import Job
from nanohook.web import images, wire
from nanohook.web.answers import json_answer
from nanohook.web.parts import Call

logger = logging.getLogger(__name__)


async def generate(call: Call) -> Response:
    """Start a job; 202 with where to follow it."""
    asked = await wire.body_of(call.request, wire.Generate)
    wish = asked.wish(wire.language(call.request))
    images.check_may_generate(call.parts)

    async def start(tx: Transaction) -> Job:
        job = await create.generate(
            tx,
            wish,
            owner_id=call.person.id,
            image_id=asked.image_id,
            project_id=asked.project_id,
            now_us=clock.now_us(),
        )
        images.check_reachable(call.parts, job)
        return job

    job = await call.parts.database.write(start)
    logger.info(
        "job.created",
        extra={"job_id": job.id, "model": job.model, "num_images": asked.num_images},
    )
    return json_answer(images.accepted(job), status=202)
