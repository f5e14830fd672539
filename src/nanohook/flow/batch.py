"""Many jobs of one request: taken together or not at all, and canceled together."""

from collections.abc import Mapping, Sequence
from typing import Final

from nanohook import errors, ids
from nanohook.database import Transaction
from nanohook.flow import cancel, create, credits
from nanohook.rules.credit import Prices
from nanohook.rules.job import Job
from nanohook.rules.status import Stage
from nanohook.rules.wishes import Wish
from nanohook.stores import jobs
from nanohook.values import frozen

MOST_JOBS: Final = 100
"""Of one batch."""


@frozen
class Wanted:
    """One job of a batch, as it is asked for."""

    wish: Wish
    image_id: str | None
    project_id: str | None


async def refusals(
    tx: Transaction, wanted: Mapping[int, Wanted], *, owner_id: str, can_fetch: bool
) -> dict[int, errors.Rejected]:
    """
    Tell which of *wanted* cannot be started, all of them, and why; nothing is changed.

    Args:
        wanted: By their number in the request.
        can_fetch: NanoBanana can fetch pictures of ours.

    Returns:
        By number, what ``create.generate`` would raise; ``no_public_url`` and, for an uploaded picture that is
        named a second time, ``job_running``.
    """
    refused: dict[int, errors.Rejected] = {}
    taken: set[str] = set()
    for number, one in wanted.items():
        try:
            await _check(tx, one, taken, owner_id=owner_id, can_fetch=can_fetch)
        except (errors.NotFound, errors.Conflict) as exc:
            refused[number] = exc
    return refused


async def _check(tx: Transaction, one: Wanted, taken: set[str], *, owner_id: str, can_fetch: bool) -> None:
    """Check one of a batch; uploaded pictures that become jobs by it are added to *taken*."""
    named = await create.check(tx, one.wish, owner_id=owner_id, image_id=one.image_id, project_id=one.project_id)
    if named is None:
        return
    if named.id in taken:
        raise errors.Conflict("another job of this batch generates this image", code="job_running")
    if not can_fetch and (named.original_id is not None or one.wish.use == "result"):
        raise errors.Conflict(create.NO_PUBLIC_URL, code="no_public_url")
    if named.stage is Stage.UPLOADED:
        taken.add(named.id)


async def start(
    tx: Transaction, wanted: Sequence[Wanted], *, owner_id: str, prices: Prices, now_us: int
) -> tuple[str, list[Job]]:
    """
    Start all of *wanted*, of which ``refusals`` has refused none.

    Returns:
        The id of the batch, and its jobs in the order of *wanted*.

    Raises:
        TooPoor: The person has fewer credits than all of them cost together; nothing was changed.
    """
    each = [prices.of(one.wish.model, one.wish.resolution) for one in wanted]
    cost = sum(price * one.wish.num_images for price, one in zip(each, wanted, strict=True))
    await credits.require(tx, owner_id, cost)
    batch_id = ids.new_id()
    started = [
        await create.generate(
            tx,
            one.wish,
            owner_id=owner_id,
            image_id=one.image_id,
            project_id=one.project_id,
            price=price,
            batch_id=batch_id,
            # A microsecond apart: what was asked for first is first in every list, and in the line.
            now_us=now_us + number,
        )
        for number, (price, one) in enumerate(zip(each, wanted, strict=True))
    ]
    return batch_id, started


async def load(tx: Transaction, batch_id: str, *, owner_id: str | None) -> list[Job]:
    """
    Fetch the jobs of a batch in the order in which they were asked for, deleted ones left out.

    Args:
        owner_id: ``None`` for an admin, who may see anybody's.

    Raises:
        NotFound: No such batch of this person.
    """
    group = await jobs.of_batch(tx, batch_id, owner_id=owner_id, most=MOST_JOBS)
    if not group:
        raise errors.NotFound("no such batch")
    return group


async def stop(tx: Transaction, batch_id: str, *, owner_id: str | None, most: int, now_us: int) -> list[Job]:
    """
    Cancel open jobs of a batch, *most* of them at once; those that have ended stay as they are.

    Args:
        owner_id: ``None`` for an admin, who may cancel anybody's.

    Returns:
        All jobs of the batch as they are now.

    Raises:
        NotFound: No such batch of this person.
    """
    group = await load(tx, batch_id, owner_id=owner_id)
    chosen = {job.id for job in [job for job in group if job.is_open][:most]}
    return [
        await cancel.cancel(tx, owner_id=owner_id, job_id=job.id, now_us=now_us) if job.id in chosen else job
        for job in group
    ]
