"""Credits: what a person has, and how it came to that."""

from starlette.responses import Response

from nanohook.clock import rfc3339
from nanohook.database import Transaction
from nanohook.stores import ledger
from nanohook.stores.ledger import Entry
from nanohook.web import query
from nanohook.web.answers import json_answer
from nanohook.web.parts import Call


async def listing(call: Call) -> Response:
    """Give the balance and the ledger, newest first."""
    asked = call.request.query_params
    before, most = query.number(asked, "cursor"), query.limit(asked)

    async def read(tx: Transaction) -> dict[str, object]:
        balance = await ledger.balance(tx, call.person.id)
        page = await ledger.page(tx, owner_id=call.person.id, before_id=before, most=most + 1)
        return {
            "available": balance.available,
            "reserved": balance.reserved,
            "entries": [_shown(entry) for entry in page[:most]],
            "next_cursor": page[most - 1].id if len(page) > most else None,
        }

    return json_answer(await call.parts.database.read(read))


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
