"""What a data folder holds when nobody works in it."""

import contextlib
import pathlib
import sqlite3
from typing import Any


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
    found = rows(
        data_dir, "SELECT key, thumbnail_key FROM originals UNION ALL SELECT key, thumbnail_key FROM pictures"
    )
    return {key for row in found for key in row.values()}
