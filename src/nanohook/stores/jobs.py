"""Jobs and their attempts in SQL."""

import re
from dataclasses import dataclass
from typing import Final

import orjson

from nanohook.database import Row, Transaction
from nanohook.rules.job import Fault, Job
from nanohook.rules.status import ImageJobStatus, Stage

_COLUMNS: Final = [
    "id",
    "owner_id",
    "project_id",
    "source_job_id",
    "original_id",
    "status",
    "stage",
    "progress",
    "error_code",
    "error_detail",
    "attempt",
    "prompt",
    "transformation_type",
    "model",
    "options",
    "priority",
    "language",
    "metadata",
    "last_event_id",
    "created_at",
    "updated_at",
    "completed_at",
]
_SELECT: Final = f"SELECT {', '.join(f'jobs.{name}' for name in _COLUMNS)} FROM jobs"
_LOAD: Final = f"{_SELECT} WHERE id = :job_id AND deleted_at IS NULL"
_GET: Final = f"{_LOAD} AND owner_id = :owner_id"
_INSERT: Final = f"INSERT INTO jobs ({', '.join(_COLUMNS)}) VALUES ({', '.join(f':{name}' for name in _COLUMNS)})"
_UPDATE: Final = (
    "UPDATE jobs SET status = :status, stage = :stage, progress = :progress, error_code = :error_code, "
    "error_detail = :error_detail, attempt = :attempt, prompt = :prompt, "
    "transformation_type = :transformation_type, model = :model, options = :options, priority = :priority, "
    "language = :language, project_id = :project_id, last_event_id = :last_event_id, "
    "updated_at = :updated_at, completed_at = :completed_at WHERE id = :id"
)


async def load(tx: Transaction, job_id: str) -> Job | None:
    """Fetch a job for the service itself: its owner is known from the row."""
    return _of(await tx.one(_LOAD, {"job_id": job_id}))


async def get(tx: Transaction, *, owner_id: str, job_id: str) -> Job | None:
    """Fetch a job of *owner_id*; somebody else's is as unknown as none."""
    return _of(await tx.one(_GET, {"job_id": job_id, "owner_id": owner_id}))


async def insert(tx: Transaction, job: Job) -> None:
    """Store a new job."""
    await tx.run(_INSERT, _values(job))


async def update(tx: Transaction, job: Job) -> None:
    """Store what may change of a job."""
    await tx.run(_UPDATE, _values(job))


async def update_progress(tx: Transaction, job: Job) -> None:
    """Store only how far a job is, its status being the same: no index is touched."""
    await tx.run(
        "UPDATE jobs SET stage = ?, progress = ?, last_event_id = ?, updated_at = ? WHERE id = ?",
        (job.stage.value, job.progress, job.last_event_id, job.updated_at, job.id),
    )


async def hide(tx: Transaction, *, owner_id: str, job_id: str, now_us: int) -> None:
    """Hide a job from everybody; housekeeping removes it later."""
    await tx.run(
        "UPDATE jobs SET deleted_at = :now WHERE id = :job_id AND owner_id = :owner_id",
        {"now": now_us, "job_id": job_id, "owner_id": owner_id},
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Filter:
    """Which jobs of a person to list; ``None`` or nothing means all."""

    statuses: tuple[ImageJobStatus, ...] = ()
    project_id: str | None = None
    text: str | None = None
    """Part of the prompt."""
    task_id: str | None = None
    before_id: str | None = None
    """The page begins below this id."""


async def page(tx: Transaction, wanted: Filter, *, owner_id: str, most: int) -> list[Job]:
    """List jobs of *owner_id*, newest first."""
    sql, values = page_statement(wanted)
    return [_job(row) for row in await tx.all(sql, {**values, "owner_id": owner_id, "most": most})]


def page_statement(wanted: Filter) -> tuple[str, dict[str, str]]:
    """Compose the statement of ``page`` and its values; a test reads the plan of each."""
    where = ["owner_id = :owner_id", "deleted_at IS NULL"]
    values: dict[str, str] = {}
    if wanted.statuses:
        names = {f"status{number}": status for number, status in enumerate(wanted.statuses)}
        where.append(f"status IN ({', '.join(f':{name}' for name in names)})")
        values.update(names)
    if wanted.text:
        where.append("prompt LIKE :text ESCAPE '!'")
        literally = re.sub("[!%_]", r"!\g<0>", wanted.text)
        values["text"] = f"%{literally}%"
    for condition, name, value in (
        ("project_id = :project_id", "project_id", wanted.project_id),
        ("id IN (SELECT job_id FROM tasks WHERE task_id = :task_id)", "task_id", wanted.task_id),
        ("id < :before_id", "before_id", wanted.before_id),
    ):
        if value is not None:
            where.append(condition)
            values[name] = value
    return f"{_SELECT} WHERE {' AND '.join(where)} ORDER BY id DESC LIMIT :most", values


async def start_attempt(tx: Transaction, job: Job, *, now_us: int) -> None:
    """Store the attempt *job* is in."""
    await tx.run(
        "INSERT INTO attempts (job_id, number, owner_id, status, created_at) "
        "VALUES (:job_id, :number, :owner_id, :status, :now)",
        {
            "job_id": job.id,
            "number": job.attempt,
            "owner_id": job.owner_id,
            "status": job.status,
            "now": now_us,
        },
    )


async def end_attempt(tx: Transaction, job: Job, *, now_us: int) -> None:
    """Store how the attempt *job* is in has ended."""
    await tx.run(
        "UPDATE attempts SET status = :status, error_code = :error_code, ended_at = :now "
        "WHERE job_id = :job_id AND number = :number",
        {
            "status": job.status,
            "error_code": None if job.fault is None else job.fault.code,
            "now": now_us,
            "job_id": job.id,
            "number": job.attempt,
        },
    )


def _values(job: Job) -> dict[str, str | int | None]:
    return {
        "id": job.id,
        "owner_id": job.owner_id,
        "project_id": job.project_id,
        "source_job_id": job.source_job_id,
        "original_id": job.original_id,
        "status": job.status,
        "stage": job.stage,
        "progress": job.progress,
        "error_code": None if job.fault is None else job.fault.code,
        "error_detail": None if job.fault is None else job.fault.detail,
        "attempt": job.attempt,
        "prompt": job.prompt,
        "transformation_type": job.transformation_type,
        "model": job.model,
        "options": orjson.dumps(job.options).decode(),
        "priority": job.priority,
        "language": job.language,
        "metadata": orjson.dumps(job.metadata).decode(),
        "last_event_id": job.last_event_id,
        "created_at": job.created_at,
        "updated_at": job.updated_at,
        "completed_at": job.completed_at,
    }


def _of(row: Row | None) -> Job | None:
    return None if row is None else _job(row)


def _job(row: Row) -> Job:
    """Read a job from ``_COLUMNS``: by place, a search by name costs more than the row."""
    (
        job_id,
        owner_id,
        project_id,
        source_job_id,
        original_id,
        status,
        stage,
        progress,
        error_code,
        error_detail,
        attempt,
        prompt,
        transformation_type,
        model,
        options,
        priority,
        language,
        metadata,
        last_event_id,
        created_at,
        updated_at,
        completed_at,
    ) = row
    return Job(
        id=job_id,
        owner_id=owner_id,
        project_id=project_id,
        source_job_id=source_job_id,
        original_id=original_id,
        status=ImageJobStatus(status),
        stage=Stage(stage),
        progress=progress,
        fault=None if error_code is None else Fault(code=error_code, detail=error_detail),
        attempt=attempt,
        prompt=prompt,
        transformation_type=transformation_type,
        model=model,
        options=orjson.loads(options),
        priority=priority,
        language=language,
        metadata=orjson.loads(metadata),
        last_event_id=last_event_id,
        created_at=created_at,
        updated_at=updated_at,
        completed_at=completed_at,
    )
