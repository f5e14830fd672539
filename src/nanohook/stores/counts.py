"""How many jobs of each status there are, in SQL: counted as they change, so that telling it stays quick."""

import itertools
from collections.abc import Sequence

from nanohook.database import Transaction
from nanohook.rules.job import Job
from nanohook.rules.status import ImageJobStatus


async def moved(tx: Transaction, before: Job | None, after: Job | None) -> None:
    """Keep the counts right: *before* became *after*, and ``None`` is no job that anybody sees."""
    if before is not None and after is not None and _bin(before) == _bin(after):
        return
    if before is not None:
        await tx.run(
            "UPDATE job_counts SET number = number - 1 WHERE owner_id = ? AND project_id = ? AND status = ?",
            _bin(before),
        )
    if after is not None:
        await tx.run(
            "INSERT INTO job_counts (owner_id, project_id, status, number) VALUES (?, ?, ?, 1) "
            "ON CONFLICT (owner_id, project_id, status) DO UPDATE SET number = number + 1",
            _bin(after),
        )


async def of_projects(tx: Transaction, owned: Sequence[tuple[str, str]]) -> dict[str, dict[ImageJobStatus, int]]:
    """Tell how many jobs of each status projects have; each is named by its owner's id and its own."""
    found = {project_id: dict.fromkeys(ImageJobStatus, 0) for _, project_id in owned}
    # Not pairs IN pairs: SQLite looks at every row for that.
    either = " OR ".join(["(owner_id = ? AND project_id = ?)"] * len(owned))
    values = tuple(itertools.chain.from_iterable(owned))
    sql = f"SELECT project_id, status, number FROM job_counts WHERE {either or 'FALSE'}"
    for row in await tx.all(sql, values):
        found[row["project_id"]][ImageJobStatus(row["status"])] = row["number"]
    return found


async def of_owner(tx: Transaction, owner_id: str | None) -> dict[ImageJobStatus, int]:
    """Tell how many jobs of each status a person has, or (``None``) all people together."""
    whose, values = ("", ()) if owner_id is None else (" WHERE owner_id = ?", (owner_id,))
    sql = f"SELECT status, SUM(number) AS number FROM job_counts{whose} GROUP BY status"
    found = {row["status"]: int(row["number"]) for row in await tx.all(sql, values)}
    return {status: found.get(status.value, 0) for status in ImageJobStatus}


def _bin(job: Job) -> tuple[str, str, str]:
    return job.owner_id, job.project_id or "", job.status.value
