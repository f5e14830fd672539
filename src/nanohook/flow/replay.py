"""
Stored deliveries are applied again: those that could not be at first, and those that an operator asks for.

Nothing is verified again: the verdict stands with which a delivery was taken.
"""

import asyncio
import functools
import itertools
import logging
import traceback
from collections.abc import Sequence
from typing import Final

from nanohook import clock, errors
from nanohook.database import Database, Transaction
from nanohook.flow import receive
from nanohook.flow.receive import Receipt
from nanohook.flow.terms import SECOND_US, Terms
from nanohook.rules import callbacks
from nanohook.stores import deliveries
from nanohook.stores.deliveries import Delivery, Effect, Source

logger = logging.getLogger(__name__)

AT_ONCE: Final = 50
"""Deliveries that share a commit: callbacks that arrive meanwhile do not wait behind all of them."""
AGAIN_US: Final = SECOND_US
"""When one that could not be applied is tried again by itself."""
_REASON_CHARS: Final = 300


async def apply(tx: Transaction, delivery: Delivery, *, terms: Terms, now_us: int) -> Receipt:
    """
    Apply a delivery that is stored, and store what became of it.

    Raises:
        Exception: Whatever stood in its way; nothing is changed then.
    """
    if delivery.source is not Source.RECORD:
        reading = callbacks.read(delivery.body)
        return await receive.apply_again(tx, delivery, reading, terms=terms, now_us=now_us)
    # Its HTTP status was looked at when it came.
    record = callbacks.read_record(delivery.body, http_status=200)
    stage = None if record.reading is None else record.reading.stage
    # "Still running" was true when it was said: it tells nothing about a deadline that has passed since.
    at_us = now_us if stage is not None and stage.is_final else delivery.received_at
    return await receive.apply_again(tx, delivery, record, terms=terms, now_us=at_us)


async def replay(database: Database, delivery_ids: Sequence[str], *, terms: Terms) -> list[Receipt]:
    """
    Apply deliveries again, in this order, ``AT_ONCE`` a commit.

    One that was applied before normally has no effect now, and stays applied in the log. One that cannot be
    applied is ``UNAPPLIED`` with the reason, holds up no other, and is tried again by itself.

    Returns:
        A receipt for each, in the same order; those that are gone are left out.

    Raises:
        Unavailable: The database is away; asking again is safe.
    """
    receipts: list[Receipt] = []
    waiting = iter(delivery_ids)
    while chunk := list(itertools.islice(waiting, AT_ONCE)):
        # A unit each: they are committed together, and one that raises is undone alone.
        asked = (database.write(functools.partial(_one, delivery_id=name, terms=terms)) for name in chunk)
        came = await asyncio.gather(*asked, return_exceptions=True)
        for delivery_id, receipt in zip(chunk, came, strict=True):
            if isinstance(receipt, BaseException):
                receipts.append(await _put_off(database, delivery_id, receipt))
            elif receipt is not None:
                receipts.append(receipt)
    for receipt in receipts:
        logger.info(
            "delivery.replayed",
            extra={"delivery_id": receipt.delivery_id, "job_id": receipt.job_id, "effect": receipt.effect.value},
        )
    return receipts


def why(exc: BaseException) -> str:
    """
    Say what stood in the way, for the log of deliveries: the kind of error, and what it says.

    Our own errors and the database's hold no values. Of any other only its place is told: it may quote the body.
    """
    kind = type(exc)
    if isinstance(exc, errors.NanohookError) or kind.__module__ == "sqlite3":
        return f"{kind.__name__}: {exc}"[:_REASON_CHARS]
    steps = traceback.extract_tb(exc.__traceback__)
    return kind.__name__ + (f" in {steps[-1].name}, line {steps[-1].lineno}" if steps else "")


async def _one(tx: Transaction, *, delivery_id: str, terms: Terms) -> Receipt | None:
    delivery = await deliveries.load(tx, delivery_id)
    return None if delivery is None else await apply(tx, delivery, terms=terms, now_us=clock.now_us())


async def _put_off(database: Database, delivery_id: str, exc: BaseException) -> Receipt:
    if isinstance(exc, errors.Unavailable) or not isinstance(exc, Exception):
        raise exc
    logger.error("delivery.unapplied", extra={"delivery_id": delivery_id}, exc_info=exc)
    reason = why(exc)
    await database.write(
        lambda tx: deliveries.put_off(tx, delivery_id, reason=reason, due_at=clock.now_us() + AGAIN_US)
    )
    return Receipt(delivery_id=delivery_id, is_new=False, job_id=None, effect=Effect.UNAPPLIED, reason=reason)
