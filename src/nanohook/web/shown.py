"""Jobs as they are shown: with all that belongs to them, however many, in five reads."""

from collections.abc import Sequence

from nanohook import errors
from nanohook.database import Transaction
from nanohook.flow import gate
from nanohook.rules import views
from nanohook.rules.job import Job, ResultPicture, Unclaimed
from nanohook.stores import jobs, ledger, pictures, tasks, unclaimed
from nanohook.web.parts import Call, Parts, signed_address


async def all_of(tx: Transaction, parts: Parts, found: Sequence[Job]) -> list[dict[str, object]]:
    """Build the job objects of *found*, in its order."""
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
        views.whole_job(
            job,
            original=originals.get(job.original_id or ""),
            tasks=group[job.id],
            pictures=results[job.id],
            late=_takeable(late[job.id], results[job.id]),
            credits=costs.get(job.id, 0),
            sign=lambda key: signed_address(parts.tokens, key),
            held_by=held_by,
        )
        for job in found
    ]


async def one(call: Call, job_id: str) -> dict[str, object]:
    """
    Build the job object of a job that the caller may see.

    Raises:
        NotFound: There is none.
    """

    async def read(tx: Transaction) -> dict[str, object]:
        return (await all_of(tx, call.parts, [await job(tx, call, job_id)]))[0]

    return await call.parts.database.read(read)


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
