"""The keys that sign: those that are set, else one made on first use; and whether they are the right ones."""

import os
import pathlib
import secrets
from typing import Final

from nanohook import errors
from nanohook.database import Database, Transaction
from nanohook.rules import signing
from nanohook.settings import Settings
from nanohook.stores import facts

FINGERPRINTS: Final = "key_fingerprints"
"""The fact that keeps those of the keys which the database was used with."""


def secret_path(settings: Settings) -> pathlib.Path:
    """Tell where the signing key is that was generated, if none is set."""
    return settings.data_dir / "secret"


async def load(settings: Settings, opened: Database) -> list[str]:
    """
    Fetch the signing keys: those set, else the one generated in the data dir.

    Raises:
        ConfigError: The database has been used with other keys: every address given out would be void.
    """
    keys = [key.get_secret_value() for key in settings.secret_keys] or [_generated(secret_path(settings))]
    prints = [signing.fingerprint(key) for key in keys]

    async def remember(tx: Transaction) -> bool:
        known = (await facts.get(tx, FINGERPRINTS) or "").split()
        if known and not set(known) & set(prints):
            return False
        await facts.put(tx, FINGERPRINTS, " ".join(prints))
        return True

    if not await opened.write(remember):
        raise errors.ConfigError(
            "NANOHOOK_SECRET_KEYS: none of the keys is one this database was used with; add the former key"
        )
    return keys


def _generated(path: pathlib.Path) -> str:
    """Read the secret of the data dir, made on first use and readable by its owner alone."""
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_urlsafe(32))
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError:
        pass
    return path.read_text().strip()
