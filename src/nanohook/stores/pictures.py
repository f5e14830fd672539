"""Originals and finished pictures in SQL: where their bytes are, and what they are."""

from collections.abc import Iterable, Sequence

from nanohook.database import Row, Transaction
from nanohook.rules.job import ResultPicture, Stored


async def insert_original(
    tx: Transaction, stored: Stored, *, original_id: str, owner_id: str, now_us: int
) -> None:
    """Store an uploaded picture."""
    await tx.run(
        "INSERT INTO originals (id, owner_id, key, thumbnail_key, content_type, width_px, height_px, bytes, "
        "created_at) VALUES (:id, :owner_id, :key, :thumbnail_key, :content_type, :width_px, :height_px, "
        ":bytes, :now)",
        {**_values(stored), "id": original_id, "owner_id": owner_id, "now": now_us},
    )


async def original(tx: Transaction, original_id: str | None, *, owner_id: str) -> Stored | None:
    """Fetch an uploaded picture of *owner_id*."""
    if original_id is None:
        return None
    row = await tx.one(
        "SELECT * FROM originals WHERE id = :id AND owner_id = :owner_id",
        {"id": original_id, "owner_id": owner_id},
    )
    return None if row is None else _stored(row)


async def insert_result(
    tx: Transaction, picture: ResultPicture, *, job_id: str, owner_id: str, sha256: bytes, now_us: int
) -> None:
    """Store a finished picture; each task of a job has at most one."""
    await tx.run(
        "INSERT INTO pictures (job_id, idx, owner_id, attempt, key, thumbnail_key, content_type, width_px, "
        "height_px, bytes, sha256, created_at) VALUES (:job_id, :idx, :owner_id, :attempt, :key, "
        ":thumbnail_key, :content_type, :width_px, :height_px, :bytes, :sha256, :now)",
        {
            **_values(picture.stored),
            "job_id": job_id,
            "idx": picture.index,
            "owner_id": owner_id,
            "attempt": picture.attempt,
            "sha256": sha256,
            "now": now_us,
        },
    )


async def results(tx: Transaction, *, job_id: str, owner_id: str) -> list[ResultPicture]:
    """Fetch a job's finished pictures by index."""
    rows = await tx.all(
        "SELECT * FROM pictures WHERE job_id = :job_id AND owner_id = :owner_id ORDER BY idx",
        {"job_id": job_id, "owner_id": owner_id},
    )
    return [ResultPicture(index=row["idx"], attempt=row["attempt"], stored=_stored(row)) for row in rows]


async def originals(tx: Transaction, original_ids: Iterable[str]) -> dict[str, Stored]:
    """Fetch uploaded pictures by id, for whom the jobs are that name them."""
    marks, values = _marked(sorted(set(original_ids)))
    rows = await tx.all(f"SELECT * FROM originals WHERE id IN ({marks})", values)
    return {row["id"]: _stored(row) for row in rows}


async def results_of(tx: Transaction, job_ids: Sequence[str]) -> dict[str, list[ResultPicture]]:
    """Fetch the finished pictures of several jobs, each by index."""
    marks, values = _marked(job_ids)
    found: dict[str, list[ResultPicture]] = {job_id: [] for job_id in job_ids}
    for row in await tx.all(f"SELECT * FROM pictures WHERE job_id IN ({marks}) ORDER BY job_id, idx", values):
        found[row["job_id"]].append(ResultPicture(index=row["idx"], attempt=row["attempt"], stored=_stored(row)))
    return found


async def is_last_use(tx: Transaction, original_id: str, *, job_id: str) -> bool:
    """Tell whether no job but *job_id* has this original."""
    row = await tx.one("SELECT 1 FROM jobs WHERE original_id = ? AND id != ? LIMIT 1", (original_id, job_id))
    return row is None


async def remove_results(tx: Transaction, job_id: str) -> None:
    """Forget a job's finished pictures; their files are gone already."""
    await tx.run("DELETE FROM pictures WHERE job_id = ?", (job_id,))


async def remove_original(tx: Transaction, original_id: str) -> None:
    """Forget an uploaded picture that no job has any more; its files are gone already."""
    await tx.run("DELETE FROM originals WHERE id = ?", (original_id,))


def _marked(names: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    return ", ".join("?" * len(names)), tuple(names)


def _values(stored: Stored) -> dict[str, str | int]:
    return {
        "key": stored.key,
        "thumbnail_key": stored.thumbnail_key,
        "content_type": stored.content_type,
        "width_px": stored.width_px,
        "height_px": stored.height_px,
        "bytes": stored.size_bytes,
    }


def _stored(row: Row) -> Stored:
    return Stored(
        key=row["key"],
        thumbnail_key=row["thumbnail_key"],
        content_type=row["content_type"],
        width_px=row["width_px"],
        height_px=row["height_px"],
        size_bytes=row["bytes"],
    )
