"""Credentials in SQL: whether what let somebody in still would."""

from collections.abc import Iterable
from typing import Final, NamedTuple

from nanohook.database import Transaction
from nanohook.stores.accounts import Person

_AT_ONCE: Final = 500
"""Ids in one statement: half of what the oldest SQLite takes."""


class Credential(NamedTuple):
    """What a request was let in by: an account, and its API key or session, if it was not a token of ours."""

    user_id: str
    key_id: str | None = None
    session_id: str | None = None


def credential_of(person: Person) -> Credential:
    """Name what *person* was let in by."""
    return Credential(person.id, person.key_id, person.session_id)


async def revoked(tx: Transaction, used: Iterable[Credential], *, now_us: int) -> set[Credential]:
    """
    Find those of *used* that let nobody in any more.

    An account that is disabled or gone, a key that was revoked, a session that was ended or has expired.
    """
    known = set(used)
    users = await _found(
        tx, "SELECT id FROM users WHERE disabled_at IS NULL AND id IN", {each.user_id for each in known}
    )
    keys = await _found(
        tx, "SELECT id FROM api_keys WHERE revoked_at IS NULL AND id IN", {each.key_id for each in known}
    )
    sessions = await _found(
        tx,
        f"SELECT id FROM sessions WHERE expires_at > {now_us:d} AND id IN",
        {each.session_id for each in known},
    )
    # What was used without a key, or without a session, misses none.
    keys.add(None)
    sessions.add(None)
    return {
        each
        for each in known
        if each.user_id not in users or each.key_id not in keys or each.session_id not in sessions
    }


async def _found(tx: Transaction, sql: str, ids: set[str | None]) -> set[str | None]:
    asked = [each for each in ids if each is not None]
    found: set[str | None] = set()
    for start in range(0, len(asked), _AT_ONCE):
        some = asked[start : start + _AT_ONCE]
        rows = await tx.all(f"{sql} ({', '.join('?' * len(some))})", tuple(some))
        found.update(row["id"] for row in rows)
    return found
