"""
``nanohook backup``: a copy of the database and of the pictures that its rows name, beside a running service.

The database is copied first, as it is at one moment; then the files that this copy names. A picture's file is
there before its row and is never written again, so it is found unless housekeeping has removed it meanwhile:
then the database is copied once more, and only what is new is fetched.
"""

import asyncio
import contextlib
import functools
import os
import pathlib
import shutil
import sqlite3
from typing import Final

from nanohook import app, clock, database, errors, ids, storage, units
from nanohook.cli import integrity
from nanohook.cli.findings import Level
from nanohook.database import ReadOnly, Transaction
from nanohook.faults import reach
from nanohook.flow import gate
from nanohook.settings import Settings
from nanohook.stores import events, media
from nanohook.stores.audit import COMMAND_LINE
from nanohook.stores.media import Named
from nanohook.values import frozen

ROUNDS: Final = 5
"""Copies of the database that are taken before it is given up."""
AT_ONCE: Final = 8
"""Files copied side by side: most of it is waiting for the disk."""

_CHUNK_BYTES: Final = 1024 * 1024
_SECRET: Final = "secret"  # noqa: S105 - the name of a file


@frozen
class Copied:
    """What a backup holds."""

    pictures: int
    size_bytes: int
    """Of the files in it, all together."""


def run(settings: Settings, folder: pathlib.Path) -> Copied:
    """
    Back up into *folder*, which is made, or is there and empty; it is whole, or it is not there.

    Raises:
        ConfigError: *folder* cannot be used, or there is no database of this version's schema.
        StorageFailed: Something cannot be copied.
    """
    source = app.database_path(settings)
    folder = folder.absolute()
    _check(folder, settings)
    schema = integrity.look_at_schema(source)
    if schema.level is Level.FAIL:
        raise errors.ConfigError(f"the database at {source} cannot be backed up: {schema.note}")
    # Beside it, on the same disk: renamed when it is whole, so a half of one is never taken for a backup.
    half = folder.with_name(f".{folder.name}.half-{ids.new_id()}")
    try:
        half.mkdir(mode=0o700, parents=True)
        try:
            pictures = asyncio.run(_copy(settings, half))
            _part(half / app.database_path(settings).name)
            _copy_secret(settings, half)
            storage.sync(half / app.database_path(settings).name)
            size_bytes = _settle(half)
            half.rename(folder)
            storage.sync(folder.parent)
        finally:
            shutil.rmtree(half, ignore_errors=True)
    except (OSError, sqlite3.Error) as exc:
        raise errors.StorageFailed(f"the backup could not be written: {exc}") from exc
    return Copied(pictures=pictures, size_bytes=size_bytes)


def _check(folder: pathlib.Path, settings: Settings) -> None:
    """
    Refuse a folder that a backup cannot become.

    Raises:
        ConfigError: It holds something, is no folder, is a mounted disk, or lies among the pictures.
    """
    if (settings.data_dir / "media").resolve() in (folder.resolve(), *folder.resolve().parents):
        raise errors.ConfigError(f"{folder} lies in the service's own media folder: choose another one")
    if folder.is_mount():
        raise errors.ConfigError(f"{folder} is a disk of its own: name a folder on it, which need not be there")
    if (folder.exists() or folder.is_symlink()) and not (folder.is_dir() and not folder.is_symlink()):
        raise errors.ConfigError(f"{folder} is no folder")
    if folder.exists() and any(folder.iterdir()):
        raise errors.ConfigError(f"{folder} is not empty: a backup needs a folder of its own")


async def _copy(settings: Settings, half: pathlib.Path) -> int:
    """Copy the database and its files until the two agree; return how many pictures that are."""
    source = app.database_path(settings)
    copy = half / source.name
    for _ in range(ROUNDS):
        await asyncio.to_thread(_copy_database, source, copy)
        reach("backup.database_copied")
        with database.open_read_only(copy) as copied:
            number, gone = await _copy_files(copied, settings.data_dir / "media", half / "media")
            if not gone:
                await _drop_strays(copied, half / "media")
                return number
        with database.open_read_only(source) as live:
            named = live.read(functools.partial(media.named, keys=gone[: media.PAGE]))
        if named:
            raise errors.StorageFailed(
                f"pictures have lost a file, {min(named)} for one: nanohook doctor --audit tells all of them"
            )
    raise errors.StorageFailed("pictures were removed faster than they could be copied: try again later")


def _copy_database(source: pathlib.Path, target: pathlib.Path) -> None:
    """Copy the database as it is now, its log included, in place of an older copy."""
    target.unlink(missing_ok=True)
    with (
        contextlib.closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True)) as live,
        contextlib.closing(sqlite3.connect(target)) as copy,
    ):
        # In one step: nobody waits for it, and what is written meanwhile is not in it.
        live.backup(copy)
        # One file, until somebody serves from it.
        copy.execute("PRAGMA journal_mode=DELETE").close()


async def _copy_files(copied: ReadOnly, source: pathlib.Path, target: pathlib.Path) -> tuple[int, list[str]]:
    """
    Copy the files that the copy of the database names and that are not there yet.

    Returns:
        How many pictures there are, and the keys of those of which a file is gone.
    """
    number = 0
    gone: list[str] = []
    places = asyncio.Semaphore(AT_ONCE)

    async def copy(picture: Named) -> bool:
        async with places:
            return await asyncio.to_thread(_copy_picture, picture, source, target)

    async for listed in integrity.named_files(copied, now_us=clock.now_us()):
        is_there = await asyncio.gather(*map(copy, listed))
        number += sum(is_there)
        gone += [
            picture.key
            for picture, was_there in zip(listed, is_there, strict=True)
            if picture.is_kept and not was_there
        ]
    return number, gone


def _copy_picture(picture: Named, source: pathlib.Path, target: pathlib.Path) -> bool:
    """Copy a picture and its thumbnail; ``False``: one of them is gone."""
    for key in (picture.key, picture.thumbnail_key):
        copy = target / key
        if copy.exists():
            continue
        copy.parent.mkdir(parents=True, exist_ok=True)
        try:
            with (source / key).open("rb") as file, copy.open("wb") as made:
                shutil.copyfileobj(file, made, _CHUNK_BYTES)
                made.flush()
                os.fsync(made.fileno())
        except FileNotFoundError:
            return False
    return True


async def _drop_strays(copied: ReadOnly, files: pathlib.Path) -> None:
    """Remove what an older copy of the database named, and half a picture whose other half is gone."""
    async for found in storage.walk(files):
        named = copied.read(functools.partial(media.named, keys=[file.name for file in found]))
        for file in found:
            if file.name not in named:
                (files / file.name).unlink()


def _part(copy: pathlib.Path) -> None:
    """
    Let the copy go its own way: its work is paused, until who serves from it says that it goes on.

    What stands in line there may have been bought since, and the copy cannot know. Nor can it know which events
    were sent since: what it sends has other ids.
    """

    async def part(tx: Transaction) -> None:
        await gate.pause(tx, actor=COMMAND_LINE, now_us=clock.now_us())
        await events.begin_anew(tx)

    with contextlib.closing(sqlite3.connect(copy, isolation_level=None)) as connection:
        connection.row_factory = sqlite3.Row
        connection.execute("BEGIN IMMEDIATE")
        units.drive(part, Transaction(connection))
        connection.execute("COMMIT")


def _copy_secret(settings: Settings, half: pathlib.Path) -> None:
    """Copy the generated secret, if there is one: addresses that were given out stay valid."""
    with contextlib.suppress(FileNotFoundError):
        body = (settings.data_dir / _SECRET).read_bytes()
        with os.fdopen(os.open(half / _SECRET, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())


def _settle(half: pathlib.Path) -> int:
    """Bring every folder to the disk; return the size of all files, in bytes."""
    size_bytes = 0
    for folder, _, names in os.walk(half, topdown=False):
        size_bytes += sum((pathlib.Path(folder) / name).stat().st_size for name in names)
        storage.sync(pathlib.Path(folder))
    return size_bytes
