"""Deleting and restoring many jobs: each as ``cancel`` does it alone, and what may not be is passed by."""

from collections.abc import Sequence

from nanohook import errors
from nanohook.database import Transaction
from nanohook.flow import cancel
from nanohook.stores import jobs
from nanohook.values import frozen


@frozen
class BulkResult:
    """What came of it."""

    done: list[str]
    """Ids of the jobs that are as they were asked to be, some of them since before."""
    refused: list[tuple[str, str]]
    """The others, with the code of what stood against it."""


async def delete(tx: Transaction, job_ids: Sequence[str], *, owner_id: str, now_us: int) -> BulkResult:
    """Hide jobs of *owner_id*; one that is hidden already, and could be restored, counts as done."""
    result = BulkResult(done=[], refused=[])
    for job_id in job_ids:
        try:
            await cancel.delete(tx, owner_id=owner_id, job_id=job_id, now_us=now_us)
        except errors.NotFound as exc:
            since_us = now_us - cancel.RESTORE_US
            if await jobs.hidden(tx, owner_id=owner_id, job_id=job_id, since_us=since_us) is None:
                result.refused.append((job_id, exc.code))
                continue
        result.done.append(job_id)
    return result


async def restore(tx: Transaction, job_ids: Sequence[str], *, owner_id: str, now_us: int) -> BulkResult:
    """Take deletions of *owner_id* back; a job that is there already counts as done."""
    result = BulkResult(done=[], refused=[])
    for job_id in job_ids:
        try:
            await cancel.restore(tx, owner_id=owner_id, job_id=job_id, now_us=now_us)
        except errors.NotFound as exc:
            result.refused.append((job_id, exc.code))
        else:
            result.done.append(job_id)
    return result
