"""
Jobs and their attempts in SQL.

Where a function takes an *owner_id*, ``None`` stands for an admin, who may see everybody's.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import orjson

from nanohook.database import Row, Transaction
from nanohook.rules.job import Fault, Job
from nanohook.rules.status import ImageJobStatus, Stage
from nanohook.stores import counts

COLUMNS: Final = [
    "id",
    "owner_id",
    "project_id",
    "source_job_id",
    "batch_id",
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
SELECT: Final = f"SELECT {', '.join(f'jobs.{name}' for name in COLUMNS)} FROM jobs"
_LOAD: Final = f"{SELECT} WHERE id = :job_id AND deleted_at IS NULL"
_GET: Final = f"{_LOAD} AND owner_id = :owner_id"
_INSERT: Final = f"INSERT INTO jobs ({', '.join(COLUMNS)}) VALUES ({', '.join(f':{name}' for name in COLUMNS)})"
_UPDATE: Final = (
    "UPDATE jobs SET status = :status, stage = :stage, progress = :progress, error_code = :error_code, "
    "error_detail = :error_detail, attempt = :attempt, prompt = :prompt, "
    "transformation_type = :transformation_type, model = :model, options = :options, priority = :priority, "
    "language = :language, project_id = :project_id, batch_id = :batch_id, last_event_id = :last_event_id, "
    "updated_at = :updated_at, completed_at = :completed_at WHERE id = :id"
)
_NO_HEIR: Final = (
    "NOT EXISTS (SELECT 1 FROM jobs AS heir WHERE heir.source_job_id = jobs.id "
    "AND heir.attempt > 0 AND heir.completed_at IS NULL AND heir.deleted_at IS NULL)"
)


async def load(tx: Transaction, job_id: str) -> Job | None:
    """Fetch a job for the service itself: its owner is known from the row."""
    return _of(await tx.one(_LOAD, {"job_id": job_id}))


async def get(tx: Transaction, *, owner_id: str | None, job_id: str) -> Job | None:
    """Fetch a job of *owner_id*; somebody else's is as unknown as none."""
    if owner_id is None:
        return await load(tx, job_id)
    return _of(await tx.one(_GET, {"job_id": job_id, "owner_id": owner_id}))


async def attempt_of(tx: Transaction, job_id: str) -> int | None:
    """Tell which attempt a job is in, a hidden one too; ``None``: there is no such job."""
    row = await tx.one("SELECT attempt FROM jobs WHERE id = ?", (job_id,))
    return None if row is None else int(row["attempt"])


async def insert(tx: Transaction, job: Job) -> None:
    """Store a new job."""
    await tx.run(_INSERT, _values(job))
    await counts.moved(tx, None, job)


async def update(tx: Transaction, job: Job, *, before: Job) -> None:
    """Store what may change of a job that was *before*."""
    await tx.run(_UPDATE, _values(job))
    await counts.moved(tx, before, job)


async def update_progress(tx: Transaction, job: Job) -> None:
    """Store only how far a job is, its status being the same: no index is touched."""
    await tx.run(
        "UPDATE jobs SET stage = ?, progress = ?, last_event_id = ?, updated_at = ? WHERE id = ?",
        (job.stage.value, job.progress, job.last_event_id, job.updated_at, job.id),
    )


async def hide(tx: Transaction, job: Job, *, now_us: int) -> None:
    """Hide a job from everybody; housekeeping removes what belongs to it later."""
    await tx.run("UPDATE jobs SET deleted_at = ? WHERE id = ? AND deleted_at IS NULL", (now_us, job.id))
    await counts.moved(tx, job, None)


async def hidden(tx: Transaction, *, owner_id: str, job_id: str, since_us: int) -> Job | None:
    """Fetch a job of *owner_id* that was hidden after *since_us*."""
    row = await tx.one(
        f"{SELECT} WHERE id = ? AND owner_id = ? AND deleted_at > ? AND purged_at IS NULL",
        (job_id, owner_id, since_us),
    )
    return _of(row)


async def show(tx: Transaction, job: Job) -> None:
    """Let a hidden job be seen again."""
    await tx.run("UPDATE jobs SET deleted_at = NULL, project_id = ? WHERE id = ?", (job.project_id, job.id))
    await counts.moved(tx, None, job)


async def to_purge(tx: Transaction, *, before_us: int, most: int) -> list[Job]:
    """
    List jobs that were hidden before *before_us* and still have what belongs to them.

    One that an open job starts from is left for later: NanoBanana may be fetching its picture.
    """
    rows = await tx.all(
        f"{SELECT} WHERE deleted_at IS NOT NULL AND purged_at IS NULL AND deleted_at < ? "
        f"AND {_NO_HEIR} ORDER BY deleted_at LIMIT ?",
        (before_us, most),
    )
    return [read(row) for row in rows]


async def uploads_to_purge(tx: Transaction, *, owner_id: str, before_us: int, most: int) -> list[Job]:
    """List those of a person's pictures that were never generated: by their own index, whatever others deleted."""
    rows = await tx.all(
        f"{SELECT} WHERE owner_id = ? AND deleted_at IS NOT NULL AND deleted_at < ? AND purged_at IS NULL "
        f"AND upload_bytes IS NOT NULL AND {_NO_HEIR} ORDER BY deleted_at LIMIT ?",
        (owner_id, before_us, most),
    )
    return [read(row) for row in rows]


async def purge(tx: Transaction, job_id: str, *, now_us: int) -> None:
    """Forget what a person put into a job: what is left says that there was one."""
    await tx.run("UPDATE jobs SET purged_at = ?, prompt = NULL, original_id = NULL WHERE id = ?", (now_us, job_id))


async def of_project(tx: Transaction, *, owner_id: str, project_id: str, most: int) -> list[Job]:
    """List jobs of a project."""
    rows = await tx.all(
        f"{SELECT} WHERE owner_id = ? AND project_id = ? AND deleted_at IS NULL LIMIT ?",
        (owner_id, project_id, most),
    )
    return [read(row) for row in rows]


async def of_owner(tx: Transaction, owner_id: str, *, most: int) -> list[Job]:
    """List jobs of a person."""
    rows = await tx.all(f"{SELECT} WHERE owner_id = ? AND deleted_at IS NULL LIMIT ?", (owner_id, most))
    return [read(row) for row in rows]


async def of_batch(tx: Transaction, batch_id: str, *, owner_id: str | None, most: int) -> list[Job]:
    """List the jobs of one request in the order in which they were asked for."""
    whose = "" if owner_id is None else "AND jobs.owner_id = :owner_id"
    rows = await tx.all(
        f"{SELECT} JOIN attempts ON attempts.job_id = jobs.id AND attempts.number = 1 "
        f"WHERE jobs.batch_id = :batch_id AND jobs.deleted_at IS NULL {whose} "
        "ORDER BY attempts.created_at LIMIT :most",
        {"batch_id": batch_id, "most": most, **({} if owner_id is None else {"owner_id": owner_id})},
    )
    return [read(row) for row in rows]


async def some(tx: Transaction, job_ids: Iterable[str], *, owner_id: str | None) -> list[Job]:
    """Fetch those of the jobs named that there are, in no order."""
    names = {f"job{number}": job_id for number, job_id in enumerate(job_ids)}
    whose = "" if owner_id is None else "AND owner_id = :owner_id"
    rows = await tx.all(
        f"{SELECT} WHERE id IN ({', '.join(f':{name}' for name in names)}) AND deleted_at IS NULL {whose}",
        {**names, **({} if owner_id is None else {"owner_id": owner_id})},
    )
    return [read(row) for row in rows]


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


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """One run of a job; times are µs."""

    number: int
    status: ImageJobStatus
    error_code: str | None
    created_at: int
    ended_at: int | None


async def attempts(tx: Transaction, job_id: str, *, most: int) -> list[Attempt]:
    """List the newest attempts of a job, oldest first."""
    rows = await tx.all(
        "SELECT number, status, error_code, created_at, ended_at FROM attempts WHERE job_id = ? "
        "ORDER BY number DESC LIMIT ?",
        (job_id, most),
    )
    return [Attempt(**{**dict(row), "status": ImageJobStatus(row["status"])}) for row in reversed(rows)]


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
    if job.is_prompt_cut:
        raise ValueError(f"job {job.id} is one of a list: most of its prompt would be lost")
    return {
        "id": job.id,
        "owner_id": job.owner_id,
        "project_id": job.project_id,
        "source_job_id": job.source_job_id,
        "batch_id": job.batch_id,
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
    return None if row is None else read(row)


def read(row: Row) -> Job:
    """Read a job from ``COLUMNS``, in their order: by place, a search by name costs more than the row."""
    (
        job_id,
        owner_id,
        project_id,
        source_job_id,
        batch_id,
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
        batch_id=batch_id,
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
