"""What goes by itself when its time is over: uploads nobody used, late results nobody took, deleted jobs."""

from typing import Final

from nanohook.database import Transaction
from nanohook.flow import cancel
from nanohook.flow.terms import SECOND_US
from nanohook.rules.job import UNCLAIMED_FOR_US, Job, Unclaimed
from nanohook.stores import jobs, pictures, retention, unclaimed

UPLOAD_US: Final = 7 * 24 * 3600 * SECOND_US
"""How long a picture waits for something to be asked for it."""


async def uploads(tx: Transaction, *, most: int, now_us: int) -> list[str]:
    """
    Delete pictures for which nothing was asked in ``UPLOAD_US``, as their owners would: a day long that can
    be undone.

    Returns:
        Ids of their jobs, *most* at once.
    """
    old = await retention.old_uploads(tx, before_us=now_us - UPLOAD_US, most=most)
    for upload in old:
        await cancel.delete(tx, owner_id=upload.owner_id, job_id=upload.job_id, now_us=now_us)
    return [upload.job_id for upload in old]


async def late_results(tx: Transaction, *, most: int, now_us: int) -> list[Unclaimed]:
    """Forget results that nobody took in time, *most* at once; the caller removes their files."""
    old = await unclaimed.older_than(tx, now_us - UNCLAIMED_FOR_US, most=most)
    for late in old:
        await unclaimed.remove(tx, late)
    return old


async def purge(tx: Transaction, job: Job, *, with_original: bool, now_us: int) -> None:
    """Forget a deleted job's pictures and words; their files are gone already."""
    await pictures.remove_results(tx, job.id)
    for late in (await unclaimed.of_jobs(tx, [job.id]))[job.id]:
        await unclaimed.remove(tx, late)
    await jobs.purge(tx, job.id, now_us=now_us)
    if with_original and job.original_id is not None:
        await pictures.remove_original(tx, job.original_id)
