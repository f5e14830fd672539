"""People in SQL: accounts, sessions and API keys."""

import hashlib
from dataclasses import dataclass, replace
from typing import Final

from nanohook.database import Row, Transaction


@dataclass(frozen=True, kw_only=True, slots=True)
class Person:
    """Who is asking."""

    id: str
    email: str
    is_admin: bool
    """Of the account, and of the key if one is used: both must carry the rights."""
    is_verified: bool
    created_at: int
    """µs."""
    key_id: str | None = None
    """The API key it is asked with."""
    session_id: str | None = None
    """The session it is asked in."""
    last_used_at: int | None = None
    """When that key or session was last noted as used, µs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Account:
    """A person's account as it is stored; for signing in, and for the command line."""

    person: Person
    password_hash: str | None
    """``None``: nobody has set a password, only keys open it."""
    is_disabled: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Key:
    """An API key as its owner sees it in a list."""

    id: str
    name: str | None
    prefix: str | None
    """How it begins: enough to tell one's keys apart."""
    is_admin: bool
    created_at: int
    last_used_at: int | None


MAX_USER_AGENT_CHARS: Final = 300
"""Kept of what a browser calls itself."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Session:
    """A login as its owner sees it in a list. Times are µs."""

    id: str
    user_agent: str | None
    """What the browser called itself."""
    address: str | None
    """Of the net, where the login came from."""
    created_at: int
    last_used_at: int | None
    expires_at: int


_ERASED: Final = "deleted "
"""Before the id, in the place of an address: nobody can have one with a blank."""
_PERSON = "users.id, users.email, users.verified_at, users.created_at"


async def insert(
    tx: Transaction,
    *,
    user_id: str,
    email: str,
    is_admin: bool,
    is_verified: bool,
    password_hash: str | None,
    now_us: int,
) -> bool:
    """Store a new person; ``False`` if the address has an account."""
    row = await tx.one(
        "INSERT INTO users (id, email, is_admin, verified_at, password_hash, created_at) "
        "VALUES (:id, :email, :is_admin, :verified_at, :password_hash, :now) ON CONFLICT DO NOTHING RETURNING id",
        {
            "id": user_id,
            "email": email,
            "is_admin": int(is_admin),
            "verified_at": now_us if is_verified else None,
            "password_hash": password_hash,
            "now": now_us,
        },
    )
    return row is not None


async def account(tx: Transaction, email: str) -> Account | None:
    """Find an account by address, a disabled one too."""
    row = await tx.one(
        f"SELECT {_PERSON}, users.is_admin, password_hash, disabled_at FROM users WHERE email = :email",
        {"email": email},
    )
    return None if row is None else _account(row)


async def account_of(tx: Transaction, user_id: str) -> Account | None:
    """Find a person's account by id, a disabled one too."""
    row = await tx.one(
        f"SELECT {_PERSON}, users.is_admin, password_hash, disabled_at FROM users WHERE id = :id", {"id": user_id}
    )
    return None if row is None else _account(row)


async def accounts(tx: Transaction) -> list[Account]:
    """List all accounts by address, but those that were erased."""
    rows = await tx.all(
        f"SELECT {_PERSON}, users.is_admin, password_hash, disabled_at FROM users "
        f"WHERE email <> '{_ERASED}' || id ORDER BY email"
    )
    return [_account(row) for row in rows]


async def verify(tx: Transaction, user_id: str, *, now_us: int) -> None:
    """Note that a person has shown that the address is theirs."""
    await tx.run(
        "UPDATE users SET verified_at = COALESCE(verified_at, :now) WHERE id = :id", {"now": now_us, "id": user_id}
    )


async def set_password(tx: Transaction, user_id: str, password_hash: str | None) -> None:
    """Store a password's hash in place of the former; ``None``: no password opens the account."""
    await tx.run("UPDATE users SET password_hash = :hash WHERE id = :id", {"hash": password_hash, "id": user_id})


async def set_disabled(tx: Transaction, user_id: str, *, at_us: int | None) -> None:
    """Shut a person out from *at_us* on, or let them in again (``None``)."""
    await tx.run("UPDATE users SET disabled_at = :at WHERE id = :id", {"at": at_us, "id": user_id})


async def erase(tx: Transaction, user_id: str) -> None:
    """Forget who a person was, and what let them in; their row stays for the ledger."""
    await tx.run("DELETE FROM api_keys WHERE owner_id = ?", (user_id,))
    await end_sessions(tx, user_id)
    await tx.run(
        f"UPDATE users SET email = '{_ERASED}' || id, password_hash = NULL, verified_at = NULL WHERE id = ?",
        (user_id,),
    )


async def insert_session(tx: Transaction, session: Session, *, owner_id: str) -> None:
    """Store that somebody has signed in."""
    await tx.run(
        "INSERT INTO sessions (id, owner_id, user_agent, address, created_at, expires_at) "
        "VALUES (:id, :owner_id, :user_agent, :address, :now, :expires)",
        {
            "id": session.id,
            "owner_id": owner_id,
            "user_agent": session.user_agent,
            "address": session.address,
            "now": session.created_at,
            "expires": session.expires_at,
        },
    )


async def by_session(tx: Transaction, session_id: str, *, now_us: int) -> Person | None:
    """Find who is signed in by a session; one that has ended or expired is nobody's."""
    row = await tx.one(
        f"SELECT {_PERSON}, users.is_admin, sessions.id AS session_id, last_used_at FROM sessions "
        "JOIN users ON users.id = sessions.owner_id "
        "WHERE sessions.id = :id AND expires_at > :now AND disabled_at IS NULL",
        {"id": session_id, "now": now_us},
    )
    return None if row is None else _person(row, session_id=row["session_id"], last_used_at=row["last_used_at"])


async def sessions(tx: Transaction, *, owner_id: str, now_us: int) -> list[Session]:
    """List a person's sessions that have not ended, newest first."""
    rows = await tx.all(
        "SELECT id, user_agent, address, created_at, last_used_at, expires_at FROM sessions "
        "WHERE owner_id = :owner_id AND expires_at > :now ORDER BY created_at DESC, id",
        {"owner_id": owner_id, "now": now_us},
    )
    return [Session(**dict(row)) for row in rows]


async def end_session(tx: Transaction, session_id: str, *, owner_id: str | None = None) -> bool:
    """Sign out of one session, of *owner_id* if that is given; ``False`` if there is none."""
    return bool(
        await tx.run(
            "DELETE FROM sessions WHERE id = :id AND owner_id = COALESCE(:owner_id, owner_id)",
            {"id": session_id, "owner_id": owner_id},
        )
    )


async def end_oldest_sessions(tx: Transaction, owner_id: str, *, kept: int) -> None:
    """Sign out of a person's oldest sessions, so that no more than *kept* are left."""
    await tx.run(
        "DELETE FROM sessions WHERE id IN (SELECT id FROM sessions WHERE owner_id = ? "
        "ORDER BY created_at DESC, id LIMIT -1 OFFSET ?)",
        (owner_id, kept),
    )


async def end_sessions(tx: Transaction, owner_id: str) -> int:
    """Sign out of all of a person's sessions; return how many those were."""
    return await tx.run("DELETE FROM sessions WHERE owner_id = :owner_id", {"owner_id": owner_id})


async def forget_sessions(tx: Transaction, *, now_us: int) -> int:
    """Remove what has expired; return how many those were."""
    return await tx.run("DELETE FROM sessions WHERE expires_at <= :now", {"now": now_us})


async def insert_key(
    tx: Transaction, *, key_id: str, owner_id: str, key: str, name: str | None, is_admin: bool, now_us: int
) -> Key:
    """Store an API key: its sha256, and how it begins."""
    stored = Key(id=key_id, name=name, prefix=key[:8], is_admin=is_admin, created_at=now_us, last_used_at=None)
    await tx.run(
        "INSERT INTO api_keys (id, owner_id, sha256, name, prefix, is_admin, created_at) "
        "VALUES (:id, :owner_id, :sha256, :name, :prefix, :is_admin, :now)",
        {
            "id": key_id,
            "owner_id": owner_id,
            "sha256": _digest(key),
            "name": name,
            "prefix": stored.prefix,
            "is_admin": int(is_admin),
            "now": now_us,
        },
    )
    return stored


async def by_key(tx: Transaction, key: str) -> Person | None:
    """Find whose API key it is; a revoked key or a disabled account is nobody's."""
    row = await tx.one(
        f"SELECT {_PERSON}, users.is_admin AND api_keys.is_admin AS is_admin, api_keys.id AS key_id, last_used_at "
        "FROM api_keys JOIN users ON users.id = api_keys.owner_id "
        "WHERE sha256 = :sha256 AND revoked_at IS NULL AND disabled_at IS NULL",
        {"sha256": _digest(key)},
    )
    return None if row is None else _person(row, key_id=row["key_id"], last_used_at=row["last_used_at"])


async def note_use(tx: Transaction, person: Person, *, now_us: int) -> None:
    """Note when the key or session that *person* asks with was last used."""
    await tx.run("UPDATE api_keys SET last_used_at = ? WHERE id = ?", (now_us, person.key_id))
    await tx.run("UPDATE sessions SET last_used_at = ? WHERE id = ?", (now_us, person.session_id))


async def keys(tx: Transaction, *, owner_id: str) -> list[Key]:
    """List a person's API keys that are not revoked, newest first."""
    rows = await tx.all(
        "SELECT id, name, prefix, is_admin, created_at, last_used_at FROM api_keys "
        "WHERE owner_id = :owner_id AND revoked_at IS NULL ORDER BY id DESC",
        {"owner_id": owner_id},
    )
    return [
        Key(
            id=row["id"],
            name=row["name"],
            prefix=row["prefix"],
            is_admin=bool(row["is_admin"]),
            created_at=row["created_at"],
            last_used_at=row["last_used_at"],
        )
        for row in rows
    ]


async def revoke_key(tx: Transaction, *, key_id: str, owner_id: str, now_us: int) -> bool:
    """Make a key of *owner_id* worthless; ``False`` if they have none of this id."""
    changed = await tx.run(
        "UPDATE api_keys SET revoked_at = :now WHERE id = :id AND owner_id = :owner_id AND revoked_at IS NULL",
        {"now": now_us, "id": key_id, "owner_id": owner_id},
    )
    return bool(changed)


async def revoke_keys(tx: Transaction, owner_id: str, *, now_us: int) -> None:
    """Make all of a person's keys worthless."""
    await tx.run(
        "UPDATE api_keys SET revoked_at = :now WHERE owner_id = :owner_id AND revoked_at IS NULL",
        {"now": now_us, "owner_id": owner_id},
    )


async def by_credential(tx: Transaction, user_id: str, credential_id: str, *, now_us: int) -> Person | None:
    """Find a person by the id of their key or session, if it still lets them in."""
    row = await tx.one(
        "SELECT (SELECT id FROM api_keys WHERE id = :id AND owner_id = :owner_id AND revoked_at IS NULL) key_id, "
        "(SELECT id FROM sessions WHERE id = :id AND owner_id = :owner_id AND expires_at > :now) session_id",
        {"id": credential_id, "owner_id": user_id, "now": now_us},
    )
    if row is None or (row["key_id"] is None and row["session_id"] is None):
        return None
    person = await by_id(tx, user_id)
    return None if person is None else replace(person, key_id=row["key_id"], session_id=row["session_id"])


async def by_id(tx: Transaction, user_id: str) -> Person | None:
    """Find a person who may still come in."""
    found = await account_of(tx, user_id)
    return None if found is None or found.is_disabled else found.person


async def may_come_in(tx: Transaction, user_id: str) -> bool:
    """Tell whether a person's account is there, and not disabled."""
    return await tx.one("SELECT 1 FROM users WHERE id = ? AND disabled_at IS NULL", (user_id,)) is not None


def _digest(key: str) -> bytes:
    # A key is 256 random bits: one round of sha256 is enough, nobody can guess it.
    return hashlib.sha256(key.encode()).digest()


def _account(row: Row) -> Account:
    return Account(
        person=_person(row),
        password_hash=row["password_hash"],
        is_disabled=row["disabled_at"] is not None,
    )


def _person(
    row: Row, *, key_id: str | None = None, session_id: str | None = None, last_used_at: int | None = None
) -> Person:
    return Person(
        id=row["id"],
        email=row["email"],
        is_admin=bool(row["is_admin"]),
        is_verified=row["verified_at"] is not None,
        created_at=row["created_at"],
        key_id=key_id,
        session_id=session_id,
        last_used_at=last_used_at,
    )
