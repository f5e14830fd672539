"""Credits: what a person has, and how it came to that."""

from starlette.responses import Response

from nanohook.clock import rfc3339
from nanohook.database import Lane, Transaction
from nanohook.stores import ledger
from nanohook.stores.ledger import Balance, Entry
from nanohook.web import paging, query
from nanohook.web.parts import Call


async def listing(call: Call) -> Response:
    """Give the balance and the ledger, newest first."""
    asked = call.request.query_params
    before, most = query.number(asked, "cursor"), query.limit(asked)

    async def read(tx: Transaction) -> tuple[Balance, list[Entry]]:
        balance = await ledger.balance(tx, call.person.id)
        return balance, await ledger.page(tx, owner_id=call.person.id, before_id=before, most=most + 1)

    async with call.turn(rows=most):
        balance, page = await call.read(read, lane=Lane.PAGE)
        return await paging.page(
            call,
            "entries",
            page[:most],
            render=_shown,
            cursor_of=lambda entry: entry.id,
            next_cursor=page[most - 1].id if len(page) > most else None,
            more={"available": balance.available, "reserved": balance.reserved},
        )


def _shown(entry: Entry) -> dict[str, object]:
    return {
        "id": entry.id,
        "at": rfc3339(entry.created_at),
        "kind": entry.kind,
        "credits": entry.available,
        "reserved": entry.reserved,
        "job_id": entry.job_id,
        "attempt": entry.attempt,
        "index": entry.index,
        "note": entry.note,
    }
