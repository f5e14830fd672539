"""
The same request twice: under one ``Idempotency-Key`` it is done once and answered twice.

What is remembered is written in the transaction of what was done: a crash keeps both or neither, and a twin that
comes meanwhile waits its turn at the one writer, then finds the answer.
"""

import hashlib
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from nanohook import errors
from nanohook.database import Transaction
from nanohook.faults import reach
from nanohook.stores import idempotency
from nanohook.stores.idempotency import Remembered
from nanohook.values import frozen


@frozen
class Ticket:
    """A request that may come again."""

    owner_id: str
    route: str
    key: str
    request_sha256: bytes
    """Of its path and body: what must be the same."""

    @classmethod
    def of(cls, *, owner_id: str, route: str, key: str, path: str, body: bytes) -> "Ticket":
        """Build the ticket of a request."""
        digest = hashlib.sha256(path.encode() + b"\n" + body).digest()
        return cls(owner_id=owner_id, route=route, key=key, request_sha256=digest)


class Answer(NamedTuple):
    """What a request is answered."""

    text: str
    """JSON."""
    is_replayed: bool


async def once(
    tx: Transaction, ticket: Ticket | None, do: Callable[[Transaction], Awaitable[str]], *, now_us: int
) -> Answer:
    """
    Do what is asked and remember its answer; or give the one remembered.

    Args:
        ticket: ``None``: this request does not mind being done twice.

    Raises:
        Invalid: ``key_reused``: the key came with another request before.
    """
    if ticket is None:
        return Answer(await do(tx), is_replayed=False)
    former = await _answered(tx, ticket, now_us=now_us)
    if former is not None:
        return former
    text = await do(tx)
    reach("once.done")
    await idempotency.put(tx, Remembered(ticket.request_sha256, text), **_whose(ticket), now_us=now_us)
    return Answer(text, is_replayed=False)


async def _answered(tx: Transaction, ticket: Ticket, *, now_us: int) -> Answer | None:
    """
    Find the answer that a request was given before; ``None``: it was not, or too long ago.

    Raises:
        Invalid: ``key_reused``: the key came with another request before.
    """
    former = await idempotency.get(tx, **_whose(ticket), now_us=now_us)
    if former is None:
        return None
    if former.request_sha256 != ticket.request_sha256:
        raise errors.Invalid(
            "this Idempotency-Key came with another request before",
            code="key_reused",
            fields={"Idempotency-Key": "use a new one for a new request"},
        )
    return Answer(former.answer, is_replayed=True)


def _whose(ticket: Ticket) -> dict[str, str]:
    return {"owner_id": ticket.owner_id, "route": ticket.route, "key": ticket.key}
