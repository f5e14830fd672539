"""From an upload or a wish to a job."""

from typing import Final

import orjson

from nanohook import errors, ids
from nanohook.database import Topic, Transaction
from nanohook.flow import credits, history
from nanohook.rules import views, wishes
from nanohook.rules.job import Job, Step, Stored, Task
from nanohook.rules.status import ImageJobStatus, Stage
from nanohook.rules.wishes import Wish
from nanohook.stores import events, jobs, pictures, projects, tasks, uploads
from nanohook.values import replace

NO_PUBLIC_URL: Final = "NanoBanana must fetch the picture: set NANOHOOK_PUBLIC_URL"
_NO_JOB: Final = "no such image"


async def upload(
    tx: Transaction, stored: Stored, *, owner_id: str, project_id: str | None, language: str, now_us: int
) -> Job:
    """
    Make a job of an uploaded picture, for which nothing is asked yet.

    Raises:
        NotFound: *project_id* is no project of this person.
    """
    await _check_project(tx, owner_id=owner_id, project_id=project_id)
    original_id = ids.new_id()
    await pictures.insert_original(tx, stored, original_id=original_id, owner_id=owner_id, now_us=now_us)
    job = _blank(owner_id=owner_id, language=language, now_us=now_us)
    made = await _introduce(tx, replace(job, original_id=original_id, project_id=project_id), now_us=now_us)
    await uploads.note(tx, made.id, size_bytes=stored.size_bytes)
    return made


async def generate(
    tx: Transaction,
    wish: Wish,
    *,
    owner_id: str,
    image_id: str | None,
    project_id: str | None,
    price: int,
    batch_id: str | None = None,
    now_us: int,
) -> Job:
    """
    Start a job: the uploaded one that was never generated, or a new one.

    Args:
        price: Credits for one picture.
        batch_id: The request of many jobs that this is part of.

    Raises:
        NotFound: *image_id* is no job, or *project_id* no project, of this person.
        Conflict: ``job_running``: it is being generated; ``no_result``: there is none to use.
        TooPoor: They have fewer credits than this costs.
    """
    named = await check(tx, wish, owner_id=owner_id, image_id=image_id, project_id=project_id)
    await credits.require(tx, owner_id, price * wish.num_images)
    job = await _place(tx, named, owner_id=owner_id, wish=wish, now_us=now_us)
    original = await pictures.original(tx, job.original_id, owner_id=owner_id)
    size = None if original is None else (original.width_px, original.height_px)
    asked = replace(
        job,
        project_id=project_id or job.project_id,
        status=ImageJobStatus.PENDING,
        stage=Stage.QUEUED,
        progress=Stage.QUEUED.progress or 0,
        attempt=1,
        prompt=wish.prompt,
        transformation_type=wish.transformation_type,
        model=wish.model,
        options=wish.options(upstream_ratio=wishes.upstream_ratio(wish, size)),
        priority=wish.priority,
        language=wish.language,
        batch_id=batch_id,
    )
    started = await history.record(tx, job, asked, now_us=now_us)
    await jobs.start_attempt(tx, started, now_us=now_us)
    await credits.reserve(tx, started, range(wish.num_images), price=price, now_us=now_us)
    for index in range(wish.num_images):
        task = fresh_task(started, index, now_us=now_us)
        await tasks.insert(tx, task, priority=started.priority, now_us=now_us)
    tx.wake(Topic.WORK)
    return started


async def check(
    tx: Transaction, wish: Wish, *, owner_id: str, image_id: str | None, project_id: str | None
) -> Job | None:
    """
    Check that *wish* can be started, and find the job that it names; nothing is changed.

    Raises:
        NotFound: As ``generate``.
        Conflict: As ``generate``.
    """
    await _check_project(tx, owner_id=owner_id, project_id=project_id)
    named = None
    if image_id is not None:
        named = await jobs.get(tx, owner_id=owner_id, job_id=image_id)
        if named is None:
            raise errors.NotFound(_NO_JOB)
        if named.is_open:
            raise errors.Conflict("this image is being generated", code="job_running")
    if wish.use == "result" and (named is None or named.status is not ImageJobStatus.COMPLETED):
        raise errors.Conflict("there is no result to start from", code="no_result")
    return named


def fresh_task(job: Job, index: int, *, now_us: int) -> Task:
    """Build a task that waits for its submit."""
    return Task(
        job_id=job.id,
        attempt=job.attempt,
        index=index,
        owner_id=job.owner_id,
        task_id=None,
        stage=Stage.QUEUED,
        progress=Stage.QUEUED.progress or 0,
        fault=None,
        step=Step.SUBMIT,
        due_at=now_us,
        claim=0,
        tries=0,
        asks=0,
        submit_started_at=None,
        accepted_at=None,
        finish_since=None,
        candidates=(),
        suspect_deaths=None,
        is_held=False,
        said=None,
        may_buy=False,
    )


async def _place(tx: Transaction, named: Job | None, *, owner_id: str, wish: Wish, now_us: int) -> Job:
    """Choose the job's row: *named* if it was never generated, else a new one that shares its original."""
    if named is not None and named.stage is Stage.UPLOADED:
        return named
    job = _blank(owner_id=owner_id, language=wish.language, now_us=now_us)
    if named is not None:
        job = replace(job, original_id=named.original_id, source_job_id=named.id, project_id=named.project_id)
    await jobs.insert(tx, job)
    return job


async def _check_project(tx: Transaction, *, owner_id: str, project_id: str | None) -> None:
    if project_id is not None and await projects.get(tx, owner_id=owner_id, project_id=project_id) is None:
        raise errors.NotFound("no such project")


async def _introduce(tx: Transaction, job: Job, *, now_us: int) -> Job:
    """Store a new job with its first event: streams of all a person's jobs see it appear."""
    await jobs.insert(tx, job)
    event_id = await events.append(
        tx,
        owner_id=job.owner_id,
        job_id=job.id,
        name="status",
        is_last=False,
        payload=orjson.dumps(views.event(job, (), now_us=now_us)).decode(),
        now_us=now_us,
    )
    stored = replace(job, last_event_id=event_id)
    await jobs.update(tx, stored, before=job)
    history.announce(tx, stored)
    return stored


def _blank(*, owner_id: str, language: str, now_us: int) -> Job:
    return Job(
        id=ids.new_id(),
        owner_id=owner_id,
        project_id=None,
        source_job_id=None,
        batch_id=None,
        original_id=None,
        status=ImageJobStatus.PENDING,
        stage=Stage.UPLOADED,
        progress=0,
        fault=None,
        attempt=0,
        prompt=None,
        transformation_type=None,
        model=None,
        options={},
        priority="normal",
        language=language,
        metadata={},
        last_event_id=0,
        created_at=now_us,
        updated_at=now_us,
        completed_at=None,
    )
