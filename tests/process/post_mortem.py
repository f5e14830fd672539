"""What a data folder holds when nobody works in it."""

import contextlib
import pathlib
import sqlite3
from typing import Any

from nanohook.stores.media import TABLES
from tests import books


def rows(data_dir: pathlib.Path, sql: str, *values: object) -> list[dict[str, Any]]:
    """Read the database of *data_dir*."""
    address = f"file:{data_dir / 'nanohook.db'}?mode=ro"
    with contextlib.closing(sqlite3.connect(address, uri=True)) as connection:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute(sql, values)]


def files(data_dir: pathlib.Path) -> set[str]:
    """The key of every file in the media folder."""
    media = data_dir / "media"
    return {path.relative_to(media).as_posix() for path in media.rglob("*") if path.is_file()}


def named_files(data_dir: pathlib.Path) -> set[str]:
    """The key of every file that a row names."""
    either = " UNION ALL ".join(f"SELECT key, thumbnail_key FROM {table}" for table in TABLES)
    return {key for row in rows(data_dir, either) for key in row.values() if key is not None}


async def audit(data_dir: pathlib.Path, *, orphans: int = 0) -> None:
    """
    Check that everything in *data_dir* agrees: what ``doctor --audit`` checks, and the books by other statements.

    Args:
        orphans: Files that no row names and that are so young that a sweep leaves them.
    """
    books.check(data_dir)
    assert await books.audited(data_dir) == []
    left = files(data_dir) - named_files(data_dir)
    assert len(left) == orphans, sorted(left)
