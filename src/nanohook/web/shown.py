"""Jobs as they are shown, with all that belongs to them: read in five statements, rendered apart from these."""

from collections.abc import Sequence

from nanohook import errors
from nanohook.database import Transaction
from nanohook.flow import gate
from nanohook.rules import views
from nanohook.rules.job import Job, ResultPicture, Stored, Task, Unclaimed
from nanohook.stores import jobs, ledger, pictures, tasks, unclaimed
from nanohook.values import frozen
from nanohook.web.parts import Call, Parts, signed_address


@frozen
class JobRows:
    """A job as it was read, with the rows that belong to it."""

    job: Job
    original: Stored | None
    tasks: Sequence[Task]
    pictures: Sequence[ResultPicture]
    late: Sequence[Unclaimed]
    credits: int
    held_by: str | None
    """Why nobody's job is submitted at the moment."""


async def read_all(tx: Transaction, found: Sequence[Job]) -> list[JobRows]:
    """Read what belongs to *found*, in its order."""
    names = [job.id for job in found]
    if not names:
        return []
    originals = await pictures.originals(tx, [job.original_id for job in found if job.original_id])
    group = await tasks.of_jobs(tx, names)
    results = await pictures.results_of(tx, names)
    late = await unclaimed.of_jobs(tx, names)
    costs = await ledger.costs(tx, names)
    # What keeps everybody waiting is told to those who wait.
    waits = any(job.stage in views.BEFORE_SUBMIT for job in found)
    held_by = (await gate.read(tx)).reason if waits else None
    return [
        JobRows(
            job=job,
            original=originals.get(job.original_id or ""),
            tasks=group[job.id],
            pictures=results[job.id],
            late=late[job.id],
            credits=costs.get(job.id, 0),
            held_by=held_by,
        )
        for job in found
    ]


def rendered(parts: Parts, rows: JobRows) -> dict[str, object]:
    """Build the job object; the addresses of its pictures are signed here."""
    return views.whole_job(
        rows.job,
        original=rows.original,
        tasks=rows.tasks,
        pictures=rows.pictures,
        late=_takeable(rows.late, rows.pictures),
        credits=rows.credits,
        sign=lambda key: signed_address(parts.tokens, key),
        held_by=rows.held_by,
    )


async def one(call: Call, job_id: str) -> dict[str, object]:
    """
    Build the job object of a job that the caller may see.

    Raises:
        NotFound: There is none.
    """

    async def read(tx: Transaction) -> JobRows:
        return (await read_all(tx, [await job(tx, call, job_id)]))[0]

    return rendered(call.parts, await call.parts.database.read(read))


async def job(tx: Transaction, call: Call, job_id: str) -> Job:
    """
    Fetch a job that the caller may see.

    Raises:
        NotFound: There is none.
    """
    found = await jobs.get(tx, owner_id=call.sees, job_id=job_id)
    if found is None:
        raise errors.NotFound("no such image")
    return found


def _takeable(late: Sequence[Unclaimed], results: Sequence[ResultPicture]) -> list[Unclaimed]:
    """Choose what may be accepted: the newest for each task that has no picture."""
    has_picture = {picture.index for picture in results}
    newest: dict[int, Unclaimed] = {}
    for picture in late:
        newest.setdefault(picture.index, picture)
    return [picture for index, picture in newest.items() if index not in has_picture]
