"""What a data folder holds when nobody works in it."""

import contextlib
import pathlib
import sqlite3
from typing import Any

from nanohook import clock, settings
from nanohook.cli import integrity
from nanohook.cli.findings import Level
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
    tables = ("originals", "pictures", "unclaimed")
    found = rows(data_dir, " UNION ALL ".join(f"SELECT key, thumbnail_key FROM {table}" for table in tables))
    return {key for row in found for key in row.values()}


async def audit(data_dir: pathlib.Path, *, orphans: int = 0) -> None:
    """
    Check that everything in *data_dir* agrees: what ``doctor --audit`` checks, and the books by other statements.

    Args:
        orphans: Files that no row names and that are so young that a sweep leaves them.
    """
    books.check(data_dir)
    found = [
        verdict
        async for verdict in integrity.examine(
            settings.fixed(data_dir=data_dir), now_us=clock.now_us(), progress=lambda _number: None
        )
    ]
    assert [line for verdict in found if verdict.level is not Level.OK for line in verdict.lines()] == []
    left = files(data_dir) - named_files(data_dir)
    assert len(left) == orphans, sorted(left)


def audited(data_dir: pathlib.Path) -> list[str]:
    """What `doctor --audit` finds wrong, in its own words: rows, files, and whether the two agree."""

    async def found() -> list[str]:
        verdicts = integrity.examine(
            settings.fixed(data_dir=data_dir), now_us=clock.now_us(), progress=lambda _number: None
        )
        return [line async for verdict in verdicts if verdict.level is not Level.OK for line in verdict.lines()]

    return asyncio.run(found())
