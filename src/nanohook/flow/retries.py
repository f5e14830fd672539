"""The next attempts of many jobs: each as ``retry`` does it alone, and what may not be retried is passed by."""

from collections.abc import Sequence

from nanohook import errors
from nanohook.database import Transaction
from nanohook.flow import retry
from nanohook.rules import words
from nanohook.rules.credit import Prices
from nanohook.rules.job import Job
from nanohook.rules.status import ImageJobStatus
from nanohook.stores import audit, job_lists
from nanohook.values import frozen


@frozen
class Rights:
    """Who has jobs retried, and what they may."""

    owner_id: str | None
    """Whose they must be; ``None`` for an admin, who may retry anybody's."""
    actor: str
    """Who does it: an account's id, or the command line. What is not their own is written down."""
    can_fetch: bool
    """NanoBanana can fetch pictures of ours."""
    prices: Prices
    may_buy_again: bool = False
    """As ``retry`` has it; for jobs that somebody has named, one by one."""


@frozen
class Retried:
    """What came of it."""

    retried: list[str]
    """Ids of the jobs that are at their next attempt."""
    skipped: list[tuple[str, str]]
    """The others, with the code of what stood against it."""


async def some(tx: Transaction, job_ids: Sequence[str], *, rights: Rights, now_us: int) -> Retried:
    """Retry those of *job_ids* that may be; ``retry`` refuses before it changes anything."""
    done = Retried(retried=[], skipped=[])
    for job_id in job_ids:
        try:
            await _one(tx, job_id, rights=rights, now_us=now_us)
        except (errors.NotFound, errors.Conflict, errors.TooPoor) as exc:
            done.skipped.append((job_id, exc.code))
        else:
            done.retried.append(job_id)
    return done


async def failed(
    tx: Transaction, *, before_id: str | None, most: int, rights: Rights, now_us: int
) -> tuple[Retried, str | None]:
    """
    Retry failed jobs, newest first, whose error says that trying again can help.

    Args:
        before_id: Only jobs with an id below this one.
        most: So many failed jobs are looked at.

    Returns:
        What came of it, and the *before_id* to go on with; ``None``: there are no more.
    """
    wanted = job_lists.Filter(owner_id=rights.owner_id, statuses=(ImageJobStatus.FAILED,), before_id=before_id)
    page, after = await job_lists.page(tx, wanted, most=most)
    retryable = [job.id for job in page if _is_retryable(job)]
    return await some(tx, retryable, rights=rights, now_us=now_us), after


async def _one(tx: Transaction, job_id: str, *, rights: Rights, now_us: int) -> None:
    started = await retry.retry(
        tx,
        owner_id=rights.owner_id,
        job_id=job_id,
        may_buy_again=rights.may_buy_again,
        can_fetch=rights.can_fetch,
        prices=rights.prices,
        now_us=now_us,
    )
    if started.owner_id != rights.actor:
        await audit.append(
            tx, actor=rights.actor, action="job.retry", subject=job_id, after=started.status, now_us=now_us
        )


def _is_retryable(job: Job) -> bool:
    return job.fault is not None and words.FAULTS.get(job.fault.code, words.FAULTS["internal"]).retryable
