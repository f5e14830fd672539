"""People and their API keys in SQL."""

import hashlib
from dataclasses import dataclass

from nanohook.database import Row, Transaction


@dataclass(frozen=True, kw_only=True, slots=True)
class Person:
    """Who is asking."""

    id: str
    email: str
    is_admin: bool
    is_verified: bool


_PERSON = "users.id, users.email, users.verified_at"


async def insert(
    tx: Transaction, *, user_id: str, email: str, is_admin: bool, is_verified: bool, now_us: int
) -> bool:
    """Store a new person; ``False`` if the address has an account."""
    row = await tx.one(
        "INSERT INTO users (id, email, is_admin, verified_at, created_at) "
        "VALUES (:id, :email, :is_admin, :verified_at, :now) ON CONFLICT DO NOTHING RETURNING id",
        {
            "id": user_id,
            "email": email,
            "is_admin": int(is_admin),
            "verified_at": now_us if is_verified else None,
            "now": now_us,
        },
    )
    return row is not None


async def insert_key(
    tx: Transaction, *, key_id: str, owner_id: str, key: str, is_admin: bool, now_us: int
) -> None:
    """Store an API key: its sha256 alone."""
    await tx.run(
        "INSERT INTO api_keys (id, owner_id, sha256, is_admin, created_at) "
        "VALUES (:id, :owner_id, :sha256, :is_admin, :now)",
        {
            "id": key_id,
            "owner_id": owner_id,
            "sha256": _digest(key),
            "is_admin": int(is_admin),
            "now": now_us,
        },
    )


async def by_key(tx: Transaction, key: str) -> Person | None:
    """Find whose API key it is; a revoked key or a disabled account is nobody's."""
    row = await tx.one(
        f"SELECT {_PERSON}, api_keys.is_admin FROM api_keys JOIN users ON users.id = api_keys.owner_id "
        "WHERE sha256 = :sha256 AND revoked_at IS NULL AND disabled_at IS NULL",
        {"sha256": _digest(key)},
    )
    return None if row is None else _person(row)


async def by_id(tx: Transaction, user_id: str) -> Person | None:
    """Find a person who may still come in."""
    row = await tx.one(
        f"SELECT {_PERSON}, users.is_admin FROM users WHERE id = :id AND disabled_at IS NULL", {"id": user_id}
    )
    return None if row is None else _person(row)


async def by_email(tx: Transaction, email: str) -> Person | None:
    """Find a person by address."""
    row = await tx.one(
        f"SELECT {_PERSON}, users.is_admin FROM users WHERE email = :email AND disabled_at IS NULL",
        {"email": email},
    )
    return None if row is None else _person(row)


def _digest(key: str) -> bytes:
    # A key is 256 random bits: one round of sha256 is enough, nobody can guess it.
    return hashlib.sha256(key.encode()).digest()


def _person(row: Row) -> Person:
    return Person(
        id=row["id"],
        email=row["email"],
        is_admin=bool(row["is_admin"]),
        is_verified=row["verified_at"] is not None,
    )
