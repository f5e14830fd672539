"""Pictures that came when their task had ended already, in SQL: kept for their owner to take."""

from collections.abc import Sequence

from nanohook.database import Row, Transaction
from nanohook.rules.job import Stored, Task, Unclaimed


async def insert(tx: Transaction, picture: Unclaimed) -> bool:
    """Keep a picture; ``False`` if there is one of the same task already."""
    stored = picture.stored
    return bool(
        await tx.run(
            "INSERT INTO unclaimed (job_id, attempt, idx, owner_id, key, thumbnail_key, content_type, width_px, "
            "height_px, bytes, sha256, created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) "
            "ON CONFLICT (job_id, attempt, idx) DO NOTHING",
            (
                picture.job_id,
                picture.attempt,
                picture.index,
                picture.owner_id,
                stored.key,
                stored.thumbnail_key,
                stored.content_type,
                stored.width_px,
                stored.height_px,
                stored.size_bytes,
                picture.sha256,
                picture.created_at,
            ),
        )
    )


async def of_jobs(tx: Transaction, job_ids: Sequence[str]) -> dict[str, list[Unclaimed]]:
    """Fetch what there is for several jobs, by index, the newest attempt first."""
    found: dict[str, list[Unclaimed]] = {job_id: [] for job_id in job_ids}
    rows = await tx.all(
        f"SELECT * FROM unclaimed WHERE job_id IN ({', '.join('?' * len(job_ids))}) "
        "ORDER BY job_id, idx, attempt DESC",
        tuple(job_ids),
    )
    for row in rows:
        found[row["job_id"]].append(_unclaimed(row))
    return found


async def of_task(tx: Transaction, *, job_id: str, index: int) -> Unclaimed | None:
    """Fetch the newest there is for one task of a job, of whichever attempt."""
    row = await tx.one(
        "SELECT * FROM unclaimed WHERE job_id = ? AND idx = ? ORDER BY attempt DESC LIMIT 1", (job_id, index)
    )
    return None if row is None else _unclaimed(row)


async def is_kept(tx: Transaction, task: Task) -> bool:
    """Tell whether there is one of this very task."""
    row = await tx.one(
        "SELECT 1 FROM unclaimed WHERE job_id = ? AND attempt = ? AND idx = ?",
        (task.job_id, task.attempt, task.index),
    )
    return row is not None


async def remove(tx: Transaction, picture: Unclaimed) -> bool:
    """Forget a picture: it is somebody's now, or its files are gone; ``False`` if it was not there any more."""
    return bool(
        await tx.run(
            "DELETE FROM unclaimed WHERE job_id = ? AND attempt = ? AND idx = ?",
            (picture.job_id, picture.attempt, picture.index),
        )
    )


async def older_than(tx: Transaction, before_us: int, *, most: int) -> list[Unclaimed]:
    """List pictures that came before *before_us* (µs), the oldest first; none that an open job may yet take."""
    rows = await tx.all(
        "SELECT * FROM unclaimed WHERE created_at < ? AND NOT EXISTS (SELECT 1 FROM jobs "
        "WHERE jobs.id = unclaimed.job_id AND jobs.completed_at IS NULL) ORDER BY created_at LIMIT ?",
        (before_us, most),
    )
    return [_unclaimed(row) for row in rows]


def _unclaimed(row: Row) -> Unclaimed:
    return Unclaimed(
        job_id=row["job_id"],
        attempt=row["attempt"],
        index=row["idx"],
        owner_id=row["owner_id"],
        stored=Stored(
            key=row["key"],
            thumbnail_key=row["thumbnail_key"],
            content_type=row["content_type"],
            width_px=row["width_px"],
            height_px=row["height_px"],
            size_bytes=row["bytes"],
        ),
        sha256=row["sha256"],
        created_at=row["created_at"],
    )
