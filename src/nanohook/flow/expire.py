"""What goes by itself when its time is over: uploads nobody used, late results nobody took, deleted jobs."""

from typing import Final

from nanohook.database import Transaction
from nanohook.flow import cancel
from nanohook.flow.quota import GRACE_US
from nanohook.flow.terms import SECOND_US
from nanohook.rules.job import Job, Unclaimed
from nanohook.stores import jobs, pictures, retention, unclaimed
from nanohook.stores import uploads as uploads_store

UPLOAD_US: Final = 7 * 24 * 3600 * SECOND_US
"""How long a picture waits for something to be asked for it."""
PURGE_MARGIN_US: Final = 60 * SECOND_US
"""Beyond the time in which a deletion can be taken back: the two never meet."""


async def upload(tx: Transaction, old: retention.Upload, *, now_us: int) -> bool:
    """
    Delete a picture for which nothing was asked in ``UPLOAD_US``, as its owner would: it can be restored.

    Returns:
        Whether it was: something may have been asked for it, or it may have gone, meanwhile.
    """
    job = await jobs.get(tx, owner_id=old.owner_id, job_id=old.job_id)
    if job is None or job.attempt or (job.updated_at or 0) >= now_us - UPLOAD_US:
        return False
    await cancel.delete(tx, owner_id=old.owner_id, job_id=old.job_id, now_us=now_us)
    return True


async def hasten(tx: Transaction, *, owner_id: str | None, most: int, now_us: int) -> int:
    """
    Give up on pictures that were never generated and were deleted ``GRACE_US`` ago: they are due to be purged.

    Args:
        owner_id: Whose; ``None``: everybody's.
        most: So many at once.

    Returns:
        How many those were.
    """
    return await uploads_store.hasten(
        tx,
        owner_id=owner_id,
        before_us=now_us - GRACE_US,
        until_us=now_us - cancel.RESTORE_US - PURGE_MARGIN_US - 1,
        most=most,
    )


async def late_result(tx: Transaction, late: Unclaimed) -> bool:
    """
    Forget a result that nobody took in time; the caller removes its files.

    Returns:
        Whether it was: its owner may have taken it meanwhile, or may yet, by a retry.
    """
    job = await jobs.load(tx, late.job_id)
    return (job is None or not job.is_open) and await unclaimed.remove(tx, late)


async def purge(tx: Transaction, job: Job, *, with_original: bool, now_us: int) -> None:
    """Forget a deleted job's pictures and words; their files are gone already."""
    await pictures.remove_results(tx, job.id)
    for late in (await unclaimed.of_jobs(tx, [job.id]))[job.id]:
        await unclaimed.remove(tx, late)
    await jobs.purge(tx, job.id, now_us=now_us)
    if with_original and job.original_id is not None:
        await pictures.remove_original(tx, job.original_id)
