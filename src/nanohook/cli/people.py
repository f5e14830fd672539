"""Accounts and tokens made from the command line, beside a running service or without one."""

import asyncio
import contextlib
import re
import secrets
from collections.abc import AsyncIterator
from typing import Final

from nanohook import app, clock, database, errors, migrations
from nanohook.database import Database, Transaction
from nanohook.flow import create as ids
from nanohook.rules import signing
from nanohook.settings import Settings
from nanohook.stores import accounts, jobs
from nanohook.stores.accounts import Person

_EMAIL: Final = re.compile(r"[^\s@]{1,64}@[^\s@]{1,190}")


@contextlib.asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Database]:
    """Open the service's database, at the newest schema."""
    path = app.database_path(settings)
    await asyncio.to_thread(migrations.upgrade, path)
    async with database.open_database(path) as found:
        yield found


async def create(settings: Settings, *, email: str, is_verified: bool, is_admin: bool) -> str:
    """
    Make an account and return its API key.

    Raises:
        ConfigError: No e-mail address, or it has an account.
    """
    async with opened(settings) as found:
        return await create_in(found, email=email, is_verified=is_verified, is_admin=is_admin)


async def create_in(found: Database, *, email: str, is_verified: bool, is_admin: bool) -> str:
    """Do the same in a database that is open."""
    if not _EMAIL.fullmatch(email):
        raise errors.ConfigError("this is not an e-mail address")
    key = new_key()

    async def insert(tx: Transaction) -> bool:
        user_id, now = ids.new_id(), clock.now_us()
        is_new = await accounts.insert(
            tx,
            user_id=user_id,
            email=email.lower(),
            is_admin=is_admin,
            is_verified=is_verified,
            now_us=now,
        )
        if is_new:
            await accounts.insert_key(
                tx, key_id=ids.new_id(), owner_id=user_id, key=key, is_admin=is_admin, now_us=now
            )
        return is_new

    if not await found.write(insert):
        raise errors.ConfigError("this address has an account already")
    return key


async def person(found: Database, email: str) -> Person:
    """Find the account of *email*, made now if there is none; for ``dev``."""
    known = await found.read(lambda tx: accounts.by_email(tx, email))
    if known is None:
        await create_in(found, email=email, is_verified=True, is_admin=True)
        known = await found.read(lambda tx: accounts.by_email(tx, email))
    if known is None:
        raise errors.ConfigError(f"the account {email} is disabled")
    return known


def new_key() -> str:
    """Make an API key: 256 random bits."""
    return f"nh_{secrets.token_urlsafe(32)}"


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
        tokens = signing.Tokens(await app.keys(settings, found))
        return tokens.sign_callback(job_id=job.id, attempt=job.attempt, index=index, expires_at_s=expires_at_s)
