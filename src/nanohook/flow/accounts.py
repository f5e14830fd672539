"""Accounts: from an address to a person who may come in, and what an admin may change of them."""

import enum
import hashlib
import secrets
from typing import Final

from nanohook import errors, ids
from nanohook.database import Transaction
from nanohook.flow.terms import SECOND_US
from nanohook.rules.credit import MOST_CREDITS, Kind
from nanohook.stores import accounts, audit, ledger
from nanohook.stores.accounts import Account, Key, Person, Session
from nanohook.values import frozen

SESSION_S: Final = 30 * 24 * 3600
MOST_KEYS: Final = 50
"""API keys of a person that are not revoked."""


MAX_SESSIONS: Final = 100
"""Logins of a person at once; one more ends the oldest."""


@frozen
class Browser:
    """What is kept of a browser that a session begins in."""

    former: tuple[str, ...] = ()
    """Sessions that it has: they end."""
    user_agent: str | None = None
    address: str | None = None
    """Of the net."""


class Registered(enum.Enum):
    """What came of a registration; the one who asked is told the same each time."""

    NEW = "new"
    AGAIN = "again"
    """The address was never confirmed: no password counts any more, nor do the older links."""
    KNOWN = "known"
    """The address has an account."""


async def create(
    tx: Transaction,
    *,
    email: str,
    password_hash: str | None,
    is_admin: bool,
    is_verified: bool,
    credits: int,
    now_us: int,
) -> Person | None:
    """Make an account; ``None`` if the address has one."""
    user_id = ids.new_id()
    is_new = await accounts.insert(
        tx,
        user_id=user_id,
        email=email,
        is_admin=is_admin,
        is_verified=is_verified,
        password_hash=password_hash,
        now_us=now_us,
    )
    if not is_new:
        return None
    await ledger.open_account(tx, user_id)
    if credits:
        await _change(tx, user_id, credits, note="at the start", now_us=now_us)
    return await accounts.by_id(tx, user_id)


async def register(
    tx: Transaction, *, email: str, password_hash: str, now_us: int
) -> tuple[Registered, Account | None]:
    """
    Take a registration of a person whose address is yet to be confirmed.

    Returns:
        What came of it, and the account whose owner is to be written to; ``None`` for one that is disabled.
    """
    known = await accounts.account(tx, email)
    if known is None:
        await create(
            tx,
            email=email,
            password_hash=password_hash,
            is_admin=False,
            is_verified=False,
            credits=0,
            now_us=now_us,
        )
        return Registered.NEW, await accounts.account(tx, email)
    if known.is_disabled:
        return Registered.KNOWN, None
    if known.person.is_verified or known.person.is_admin:
        return Registered.KNOWN, known
    # One of the two does not own the address, and nobody knows which: neither password counts. Who can read the
    # mail chooses one, which confirms the address too.
    await accounts.set_password(tx, known.person.id, None)
    await accounts.end_sessions(tx, known.person.id)
    await accounts.revoke_keys(tx, known.person.id, now_us=now_us)
    return Registered.AGAIN, await accounts.account(tx, email)


def state_of(account: Account) -> str:
    """
    Name the state in which a mailed link finds *account*: it is good for that state alone.

    Confirming the address and setting a password each change it, so every link is good once, and never after a
    newer password.
    """
    state = f"{account.person.id} {account.person.is_verified} {account.password_hash}"
    return hashlib.sha256(state.encode()).hexdigest()[:16]


async def linked(tx: Transaction, subject: str) -> Account:
    """
    Find the account that a mailed link is for.

    Args:
        subject: What the link was signed for: a person's id and ``state_of`` their account.

    Raises:
        Invalid: ``token_invalid``: used already, or older than the account's newest password.
    """
    user_id, _, state = subject.partition(" ")
    account = await accounts.account_of(tx, user_id)
    if account is None or account.is_disabled or not secrets.compare_digest(state_of(account), state):
        raise errors.Invalid(
            "this link was used already, or is too old",
            code="token_invalid",
            fields={"token": "ask for a new one"},
        )
    return account


async def verify(tx: Transaction, subject: str, *, free_credits: int, now_us: int) -> str:
    """
    Note that a person has followed the link of a confirmation; they get their free credits by it.

    Args:
        subject: What the link was signed for: a person's id and ``state_of`` their account.

    Returns:
        The person's id.

    Raises:
        Invalid: ``token_invalid``: used already, or older than the account's newest password.
    """
    account = await linked(tx, subject)
    await accounts.verify(tx, account.person.id, now_us=now_us)
    if free_credits and not account.person.is_verified:
        await _change(tx, account.person.id, free_credits, note="at the start", now_us=now_us)
    return account.person.id


async def reset_password(
    tx: Transaction, subject: str, password_hash: str, *, free_credits: int, now_us: int
) -> None:
    """
    Set a new password by a mailed link, which also shows that the address is theirs; all sessions and keys end.

    Raises:
        Invalid: ``token_invalid``.
    """
    user_id = await verify(tx, subject, free_credits=free_credits, now_us=now_us)
    await accounts.set_password(tx, user_id, password_hash)
    await accounts.end_sessions(tx, user_id)
    await accounts.revoke_keys(tx, user_id, now_us=now_us)


async def change_password(
    tx: Transaction, person: Person, password_hash: str, *, present: str | None, browser: Browser, now_us: int
) -> str | None:
    """
    Set a new password; all sessions end.

    Args:
        present: The hash that the present password was checked against.
        browser: Where it is asked for.

    Returns:
        The new session of the one who asked, if they asked in one.

    Raises:
        Forbidden: ``bad_credentials``: meanwhile it became another.
    """
    account = await accounts.account_of(tx, person.id)
    if account is None or account.is_disabled or account.password_hash != present:
        raise errors.Forbidden("the present password is another", code="bad_credentials")
    await accounts.set_password(tx, person.id, password_hash)
    await accounts.end_sessions(tx, person.id)
    return None if person.session_id is None else await sign_in(tx, person.id, browser=browser, now_us=now_us)


async def log_in(
    tx: Transaction, account: Account, *, stronger: str | None, browser: Browser, now_us: int
) -> str | None:
    """
    Begin a session of who has shown the password of *account*, in place of those that *browser* had.

    Checking a password takes a while: whoever knows the old one must not come in, nor bring it back, after it
    was changed.

    Args:
        account: As it was when the password was checked.
        stronger: A new hash of the same password.

    Returns:
        The session's id; ``None`` if the account has another password by now, or is disabled.
    """
    present = await accounts.account_of(tx, account.person.id)
    if present is None or present.is_disabled or present.password_hash != account.password_hash:
        return None
    if stronger is not None:
        await accounts.set_password(tx, account.person.id, stronger)
    return await sign_in(tx, account.person.id, browser=browser, now_us=now_us)


async def sign_in(tx: Transaction, user_id: str, *, browser: Browser, now_us: int) -> str:
    """Begin a session in place of those that *browser* had; return its id."""
    for former in browser.former:
        await accounts.end_session(tx, former)
    session = Session(
        id=secrets.token_urlsafe(16),
        user_agent=browser.user_agent,
        address=browser.address,
        created_at=now_us,
        last_used_at=None,
        expires_at=now_us + SESSION_S * SECOND_US,
    )
    await accounts.end_oldest_sessions(tx, user_id, kept=MAX_SESSIONS - 1)
    await accounts.insert_session(tx, session, owner_id=user_id)
    return session.id


async def end_session(tx: Transaction, person: Person, session_id: str) -> None:
    """
    Sign *person* out of one session.

    Raises:
        NotFound: They have none of this id.
        Forbidden: It carries rights that the one who asks does not have.
    """
    account = await accounts.account_of(tx, person.id)
    if account is None or not await accounts.end_session(tx, session_id, owner_id=person.id):
        raise errors.NotFound("no such session")
    if account.person.is_admin and not person.is_admin:
        # Undone with the rest of this transaction.
        raise errors.Forbidden("only a key or login with admin rights ends the sessions of an admin")


async def add_key(
    tx: Transaction,
    person: Person,
    key: str,
    *,
    name: str | None,
    is_admin: bool,
    actor: str | None = None,
    now_us: int,
) -> Key:
    """
    Store a new API key of *person*; return it as its owner sees it from now on.

    Args:
        actor: Who makes it, if that is not *person*.

    Raises:
        Forbidden: It shall carry rights that the one who asks does not have.
        Conflict: ``too_many_keys``.
    """
    if is_admin and not person.is_admin:
        raise errors.Forbidden("only an admin makes keys with admin rights")
    if len(await accounts.keys(tx, owner_id=person.id)) >= MOST_KEYS:
        raise errors.Conflict(f"there are {MOST_KEYS} keys already: revoke one first", code="too_many_keys")
    added = await accounts.insert_key(
        tx, key_id=ids.new_id(), owner_id=person.id, key=key, name=name, is_admin=is_admin, now_us=now_us
    )
    if is_admin:
        await audit.append(tx, actor=actor or person.id, action="key.create", subject=added.id, now_us=now_us)
    return added


async def revoke_key(tx: Transaction, person: Person, key_id: str, *, now_us: int) -> None:
    """
    Make an API key of *person* worthless.

    Raises:
        NotFound: They have none of this id.
        Forbidden: It carries rights that the one who asks does not have.
    """
    key = next((key for key in await accounts.keys(tx, owner_id=person.id) if key.id == key_id), None)
    if key is None:
        raise errors.NotFound("no such key")
    if key.is_admin and not person.is_admin:
        raise errors.Forbidden("only an admin revokes keys with admin rights")
    await accounts.revoke_key(tx, key_id=key_id, owner_id=person.id, now_us=now_us)
    if key.is_admin:
        await audit.append(tx, actor=person.id, action="key.revoke", subject=key_id, now_us=now_us)


async def change_credits(tx: Transaction, *, user_id: str, amount: int, actor: str, now_us: int) -> ledger.Balance:
    """
    Give credits to a person, or take them back (*amount* below 0); it is written into the audit.

    Raises:
        TooPoor: They have fewer than that.
        Invalid: They would have more than a balance can hold.
    """
    before = await ledger.balance(tx, user_id)
    after = await _change(tx, user_id, amount, note="by an admin", now_us=now_us)
    await audit.append(
        tx,
        actor=actor,
        action="credits.change",
        subject=user_id,
        before=str(before.available),
        after=str(after.available),
        now_us=now_us,
    )
    return after


async def disable(tx: Transaction, *, user_id: str, is_disabled: bool, actor: str, now_us: int) -> None:
    """Shut a person out, or let them in again; their sessions end, their keys stay for the day they come back."""
    await accounts.set_disabled(tx, user_id, at_us=now_us if is_disabled else None)
    await accounts.end_sessions(tx, user_id)
    await audit.append(
        tx,
        actor=actor,
        action="user.disable" if is_disabled else "user.enable",
        subject=user_id,
        now_us=now_us,
    )


async def _change(tx: Transaction, user_id: str, amount: int, *, note: str, now_us: int) -> ledger.Balance:
    after = await ledger.post(
        tx, Kind.GRANT, owner_id=user_id, available=amount, reserved=0, note=note, now_us=now_us
    )
    if after is None:
        raise errors.TooPoor("a balance does not go below nothing")
    if after.available >= MOST_CREDITS:
        raise errors.Invalid(f"a balance stays below {MOST_CREDITS:,} credits", fields={"credits": "are too many"})
    return after
