"""
A stored delivery is applied again: one that could not be at first, or that an operator asks for.

Nothing is verified again: the verdict stands with which a delivery was taken.
"""

import traceback
from typing import Final

from nanohook import errors
from nanohook.database import Transaction
from nanohook.flow import receive
from nanohook.flow.receive import Receipt
from nanohook.flow.terms import SECOND_US, Terms
from nanohook.rules import callbacks
from nanohook.stores.deliveries import Delivery, Source

AGAIN_US: Final = SECOND_US
"""When one that could not be applied is tried again by itself."""
_REASON_CHARS: Final = 300

Said = callbacks.Reading | callbacks.Record
"""What a delivery says: a ``Record`` if it is an answer of ``record-info``."""


def read(delivery: Delivery) -> Said:
    """
    Read what a stored delivery says.

    Raises:
        NotJson: Its bytes are none.
        Unreadable: They are no callback, or no answer of ``record-info``.
    """
    if delivery.source is not Source.RECORD:
        return callbacks.read(delivery.body)
    # Its HTTP status was looked at when it came.
    return callbacks.read_record(delivery.body, http_status=200)


async def apply(
    tx: Transaction, delivery: Delivery, *, terms: Terms, now_us: int, said: Said | None = None
) -> Receipt:
    """
    Apply a delivery that is stored, and store what became of it.

    Args:
        said: What ``read`` has told of it; ``None``: it is read here, which for a megabyte takes milliseconds.

    Raises:
        Exception: Whatever stood in its way; nothing is changed then.
    """
    said = read(delivery) if said is None else said
    at_us = now_us
    if isinstance(said, callbacks.Record):
        stage = None if said.reading is None else said.reading.stage
        # "Still running" was true when it was said: it tells nothing about a deadline that has passed since.
        at_us = now_us if stage is not None and stage.is_final else delivery.received_at
    return await receive.apply_again(tx, delivery, said, terms=terms, now_us=at_us)


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
