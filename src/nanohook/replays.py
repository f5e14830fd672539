"""
Many stored deliveries are applied again, as an operator asks for it.

Each is a unit of its own (``flow.replay``). Here many share a commit, yet no more than callbacks that arrive
meanwhile can wait for.
"""

import asyncio
import functools
import logging
from collections.abc import Sequence
from typing import Final

from nanohook import clock, errors
from nanohook.database import Database, Lane, Transaction
from nanohook.flow import replay as flow
from nanohook.flow.receive import Receipt
from nanohook.flow.replay import Said
from nanohook.flow.terms import Terms
from nanohook.stores import deliveries
from nanohook.stores.deliveries import Delivery, Effect

logger = logging.getLogger(__name__)

AT_ONCE: Final = 50
"""Deliveries that share a commit, if they are small."""
AT_ONCE_BYTES: Final = 256 * 1024
"""Of the bodies of those that share a commit; a larger one stands alone."""


async def replay(database: Database, delivery_ids: Sequence[str], *, terms: Terms) -> list[Receipt]:
    """
    Apply deliveries again, in this order.

    One that was applied before normally has no effect now, and stays applied in the log. One that cannot be
    applied is ``UNAPPLIED`` with the reason, holds up no other, and is tried again by itself.

    Returns:
        A receipt for each, in the same order; those that are gone are left out.

    Raises:
        Unavailable: The database is away; asking again is safe.
    """
    receipts: list[Receipt] = []
    done = 0
    while done < len(delivery_ids):
        names = delivery_ids[done : done + AT_ONCE]
        chunk, looked_at = await database.read(functools.partial(_load, names=names), lane=Lane.HOUSEKEEPING)
        done += looked_at
        receipts += await _some(database, chunk, terms=terms)
    return receipts


async def _load(tx: Transaction, names: Sequence[str]) -> tuple[list[Delivery], int]:
    """Fetch the first of *names*, as many as may share a commit; tell how many names were looked at."""
    found: list[Delivery] = []
    size_bytes = 0
    for number, name in enumerate(names):
        delivery = await deliveries.load(tx, name)
        if delivery is None:
            continue
        size_bytes += len(delivery.body)
        if found and size_bytes > AT_ONCE_BYTES:
            return found, number
        found.append(delivery)
    return found, len(names)


async def _some(database: Database, chunk: Sequence[Delivery], *, terms: Terms) -> list[Receipt]:
    # Read in threads, one by one: a megabyte takes milliseconds, and the event loop gets its turn in between.
    reading = (asyncio.to_thread(flow.read, delivery) for delivery in chunk)
    said = await asyncio.gather(*reading, return_exceptions=True)
    # A unit each: they are committed together, and one that raises is undone alone.
    asked = (_again(database, delivery.id, what, terms=terms) for delivery, what in zip(chunk, said, strict=True))
    receipts = []
    for delivery, came in zip(chunk, await asyncio.gather(*asked, return_exceptions=True), strict=True):
        receipt = await _put_off(database, delivery.id, came) if isinstance(came, BaseException) else came
        if receipt is not None:
            receipts.append(receipt)
            logger.info(
                "delivery.replayed",
                extra={"delivery_id": delivery.id, "job_id": receipt.job_id, "effect": receipt.effect.value},
            )
    return receipts


async def _again(
    database: Database, delivery_id: str, said: Said | BaseException, *, terms: Terms
) -> Receipt | None:
    if isinstance(said, BaseException):
        raise said

    async def apply(tx: Transaction) -> Receipt | None:
        # Its bytes are what was read, but whose it is may be known better by now.
        delivery = await deliveries.load(tx, delivery_id)
        if delivery is None:
            return None
        return await flow.apply(tx, delivery, said=said, terms=terms, now_us=clock.now_us())

    return await database.write(apply)


async def _put_off(database: Database, delivery_id: str, exc: BaseException) -> Receipt:
    if isinstance(exc, errors.Unavailable) or not isinstance(exc, Exception):
        raise exc
    logger.error("delivery.unapplied", extra={"delivery_id": delivery_id}, exc_info=exc)
    reason = flow.why(exc)
    await database.write(
        lambda tx: deliveries.put_off(tx, delivery_id, reason=reason, due_at=clock.now_us() + flow.AGAIN_US)
    )
    return Receipt(delivery_id=delivery_id, is_new=False, job_id=None, effect=Effect.UNAPPLIED, reason=reason)
