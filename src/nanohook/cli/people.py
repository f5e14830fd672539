"""Accounts and tokens made from the command line, beside a running service or without one."""

import contextlib

from nanohook import clock, errors, ids, passwords, signing_keys
from nanohook.cli.opening import opened
from nanohook.database import Database, Transaction
from nanohook.flow import account_deletion
from nanohook.flow import accounts as flow
from nanohook.passwords import Passwords
from nanohook.rules import signing, smtp
from nanohook.settings import Settings
from nanohook.stores import accounts, audit, jobs, ledger
from nanohook.stores.accounts import Person
from nanohook.stores.audit import COMMAND_LINE
from nanohook.values import frozen


@frozen
class NewAccount:
    """What is asked of an account that is to be made."""

    email: str
    password: str | None = None
    is_verified: bool = False
    is_admin: bool = False
    credits: int = 0


async def create(settings: Settings, asked: NewAccount) -> str:
    """
    Make an account, and the database if there is none yet; return its API key.

    Raises:
        ConfigError: No e-mail address, one that has an account, or a password that cannot be used.
    """
    _check(asked)
    async with opened(settings, may_make=True) as found:
        return await create_in(found, asked)


async def create_in(found: Database, asked: NewAccount) -> str:
    """
    Do the same in a database that is open.

    Raises:
        ConfigError: As ``create``.
    """
    _check(asked)
    password_hash = None
    if asked.password is not None:
        with contextlib.closing(Passwords()) as hasher:
            password_hash = await hasher.hash(asked.password)
    key = ids.new_key()

    async def insert(tx: Transaction) -> bool:
        now = clock.now_us()
        person = await flow.create(
            tx,
            email=spelt(asked.email),
            password_hash=password_hash,
            is_admin=asked.is_admin,
            is_verified=asked.is_verified,
            credits=asked.credits,
            now_us=now,
        )
        if person is not None:
            rights = "admin" if asked.is_admin else "none"
            await audit.append(
                tx, actor=COMMAND_LINE, action="user.create", subject=person.id, after=rights, now_us=now
            )
            await flow.add_key(
                tx, person, key, name="first", is_admin=asked.is_admin, actor=COMMAND_LINE, now_us=now
            )
        return person is not None

    if not await found.write(insert):
        raise errors.ConfigError("this address has an account already")
    return key


def _check(asked: NewAccount) -> None:
    spelt(asked.email)
    reason = None if asked.password is None else passwords.check(asked.password)
    if reason is not None:
        raise errors.ConfigError(f"the password {reason}")


def spelt(email: str) -> str:
    """
    Spell an address the one way in which an account is kept.

    Raises:
        ConfigError: It is none.
    """
    try:
        return smtp.bare(email)
    except ValueError as exc:
        raise errors.ConfigError(f"this is no e-mail address: {exc}") from None


async def accounts_of(settings: Settings) -> list[dict[str, object]]:
    """List every account by address, with its credits."""
    async with opened(settings) as found:
        return await found.read(_listed)


async def change_credits(settings: Settings, *, email: str, amount: int) -> int:
    """
    Give an account credits, or take some back; return what it has then.

    Raises:
        ConfigError: There is no such account.
        TooPoor: It has fewer than shall be taken.
    """
    address = spelt(email)
    async with opened(settings) as found:
        person = await _known(found, address)
        balance = await found.write(
            lambda tx: flow.change_credits(
                tx, user_id=person.id, amount=amount, actor=COMMAND_LINE, now_us=clock.now_us()
            )
        )
        return balance.available


async def disable(settings: Settings, *, email: str, is_disabled: bool) -> None:
    """
    Shut an account out, or let it in again.

    Raises:
        ConfigError: There is no such account.
    """
    address = spelt(email)
    async with opened(settings) as found:
        person = await _known(found, address)
        await found.write(
            lambda tx: flow.disable(
                tx, user_id=person.id, is_disabled=is_disabled, actor=COMMAND_LINE, now_us=clock.now_us()
            )
        )


async def delete(settings: Settings, *, email: str) -> None:
    """
    Delete an account with all its images.

    Raises:
        ConfigError: There is no such account.
    """
    address = spelt(email)
    async with opened(settings) as found:
        gone = await _known(found, address)
        await found.write(
            lambda tx: flow.disable(
                tx, user_id=gone.id, is_disabled=True, actor=COMMAND_LINE, now_us=clock.now_us()
            )
        )
        while not await found.write(
            lambda tx: account_deletion.delete(tx, user_id=gone.id, actor=COMMAND_LINE, now_us=clock.now_us())
        ):
            pass


async def person(found: Database, email: str, *, credits: int) -> Person:
    """Find the account of *email*, made now if there is none; for ``dev``."""
    known = await found.read(lambda tx: accounts.account(tx, email))
    if known is None:
        await create_in(found, NewAccount(email=email, is_verified=True, is_admin=True, credits=credits))
        known = await found.read(lambda tx: accounts.account(tx, email))
    if known is None or known.is_disabled:
        raise errors.ConfigError(f"the account {email} is disabled")
    return known.person


async def _known(found: Database, email: str) -> Person:
    known = await found.read(lambda tx: accounts.account(tx, email))
    if known is None:
        raise errors.ConfigError("there is no account of this address")
    return known.person


async def _listed(tx: Transaction) -> list[dict[str, object]]:
    listed = []
    for account in await accounts.accounts(tx):
        balance = await ledger.balance(tx, account.person.id)
        listed.append(
            {
                "email": account.person.email,
                "id": account.person.id,
                "is_admin": account.person.is_admin,
                "is_verified": account.person.is_verified,
                "is_disabled": account.is_disabled,
                "available": balance.available,
                "reserved": balance.reserved,
            }
        )
    return listed


async def callback_token(settings: Settings, *, job_id: str, index: int, expires_at_s: int) -> str:
    """
    Sign a callback for a job's present attempt.

    Raises:
        ConfigError: No such job, or nothing was asked for yet.
    """
    async with opened(settings) as found:
        job = await found.read(lambda tx: jobs.load(tx, job_id))
        if job is None or job.attempt == 0:
            raise errors.ConfigError("there is no job of this id that was generated")
        tokens = signing.Tokens(await signing_keys.load(settings, found))
        await found.write(
            lambda tx: audit.append(
                tx, actor=COMMAND_LINE, action="callback.sign", subject=job.id, now_us=clock.now_us()
            )
        )
        return tokens.sign_callback(job_id=job.id, attempt=job.attempt, index=index, expires_at_s=expires_at_s)
