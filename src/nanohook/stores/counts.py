"""How many jobs of each status there are, in SQL: counted as they change, so that telling it stays quick."""

import itertools
import logging
from collections.abc import Sequence

from nanohook.database import Transaction
from nanohook.rules.job import Job
from nanohook.rules.status import ImageJobStatus

logger = logging.getLogger(__name__)


async def moved(tx: Transaction, before: Job | None, after: Job | None) -> None:
    """
    Keep the counts right: *before* became *after*, which is stored already; ``None`` is no job that anybody sees.

    A count that has drifted below what it counts is made anew: it is no reason to refuse what people ask for.
    """
    if before is not None and after is not None and _bin(before) == _bin(after):
        return
    if before is not None:
        changed = await tx.run(
            "UPDATE job_counts SET number = number - 1 "
            "WHERE owner_id = ? AND project_id = ? AND status = ? AND number > 0",
            _bin(before),
        )
        if not changed:
            await _recount(tx, before)
    if after is not None:
        await tx.run(
            "INSERT INTO job_counts (owner_id, project_id, status, number) VALUES (?, ?, ?, 1) "
            "ON CONFLICT (owner_id, project_id, status) DO UPDATE SET number = number + 1",
            _bin(after),
        )


async def _recount(tx: Transaction, of: Job) -> None:
    """Count the jobs that are counted together with *of* from their rows."""
    await tx.run(
        "INSERT INTO job_counts (owner_id, project_id, status, number) SELECT ?, ?, ?, COUNT(*) FROM jobs "
        "WHERE owner_id = ? AND project_id IS ? AND status = ? AND deleted_at IS NULL "
        "ON CONFLICT (owner_id, project_id, status) DO UPDATE SET number = excluded.number",
        (*_bin(of), of.owner_id, of.project_id, of.status.value),
    )
    extra = {"owner_id": of.owner_id, "project_id": of.project_id, "status": of.status.value}
    tx.after_commit.append(lambda: logger.error("job_count.recounted", extra=extra))


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
