"""The service's database, opened by a command beside a running service or without one."""

import asyncio
import contextlib
import pathlib
from collections.abc import AsyncIterator

from nanohook import app, database, errors, migrations
from nanohook.database import Database
from nanohook.settings import Settings


@contextlib.asynccontextmanager
async def opened(settings: Settings, *, may_make: bool = False) -> AsyncIterator[Database]:
    """
    Open the service's database, at the newest schema.

    Args:
        may_make: It is made if there is none. Whoever only looks would else take an empty one, of a folder
            that nobody meant, for an answer.

    Raises:
        ConfigError: There is none, or it cannot be brought up.
    """
    path = app.database_path(settings)
    if not may_make:
        check_there(path)
    await asyncio.to_thread(migrations.upgrade, path)
    async with database.open_database(path) as found:
        yield found


def check_there(path: pathlib.Path) -> None:
    """
    Check that there is a database at *path*.

    Raises:
        ConfigError: There is none.
    """
    if not path.is_file():
        raise errors.ConfigError(
            f"NANOHOOK_DATA_DIR: there is no database at {path.absolute()}; name the folder of the service's data"
        )
