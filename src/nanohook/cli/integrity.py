"""``nanohook doctor --audit``: whether everything that is stored agrees. It reads, and changes nothing."""

import asyncio
import functools
import hashlib
import os
import pathlib
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Final

import typer

from nanohook import app, clock, database, migrations, storage
from nanohook.cli import opening
from nanohook.cli.findings import Level
from nanohook.cli.printing import counted, plain, print_json
from nanohook.database import ReadOnly
from nanohook.flow.cancel import RESTORE_US
from nanohook.settings import Settings
from nanohook.storage import Found
from nanohook.stores import integrity, media
from nanohook.stores.integrity import MOST_EXAMPLES
from nanohook.stores.media import Named
from nanohook.values import frozen
from nanohook.work.orphans import YOUNG_US

AGAIN_S: Final = 0.5
AGAIN: Final = 6
"""A file that seems to be missing is looked for again, so often: it may be on its way out, its row after it."""
_CHUNK_BYTES: Final = 1024 * 1024

Progress = Callable[[int], None]


@frozen
class Verdict:
    """How one check went."""

    name: str
    """For programs."""
    title: str
    level: Level
    number: int = 0
    """How many things are wrong."""
    examples: tuple[str, ...] = ()
    note: str | None = None

    def lines(self) -> Iterator[str]:
        """Write it for people: a line, and below it some examples."""
        found = f": {self.number} found" if self.number else ""
        yield plain(f"{self.level:<5} {self.title}{found}{f' ({self.note})' if self.note else ''}")
        yield from (f"      {plain(example)}" for example in self.examples)
        if self.number > len(self.examples) > 0:
            yield f"      and {self.number - len(self.examples)} more"

    def shown(self) -> dict[str, Any]:
        """Write it for programs."""
        return {
            "name": self.name,
            "title": self.title,
            "level": str(self.level),
            "number": self.number,
            "examples": list(self.examples),
            "note": self.note,
        }


def run(settings: Settings, *, json: bool = False) -> int:
    """
    Check everything that is stored, beside a running service or without one.

    Returns:
        The exit code: 1 if something is wrong.

    Raises:
        ConfigError: There is no database, or it cannot be read.
    """
    return asyncio.run(_run(settings, as_json=json))


async def _run(settings: Settings, *, as_json: bool) -> int:
    found = []
    async for verdict in examine(settings, now_us=clock.now_us(), progress=_progress()):
        found.append(verdict)
        if not as_json:
            for line in verdict.lines():
                typer.echo(line)
    is_ok = all(verdict.level is not Level.FAIL for verdict in found)
    if as_json:
        print_json({"ok": is_ok, "checks": [verdict.shown() for verdict in found]})
    return int(not is_ok)


async def examine(settings: Settings, *, now_us: int, progress: Progress) -> AsyncIterator[Verdict]:
    """
    Check the schema, then the rows, then the files.

    Raises:
        ConfigError: There is no database, or it cannot be read.
        StorageFailed: The folder of the media cannot be read.
    """
    path = app.database_path(settings)
    schema = await asyncio.to_thread(look_at_schema, path)
    yield schema
    if schema.level is Level.FAIL:
        return
    with database.open_read_only(path) as opened:
        for check in integrity.CHECKS:
            yield _judged(check, opened)
        files = settings.data_dir / "media"
        yield await _files(opened, files, now_us=now_us, progress=progress)
        yield await _strays(opened, files, now_us=now_us)


def look_at_schema(path: pathlib.Path) -> Verdict:
    """
    Check that the file at *path* is whole and of the schema that the statements here are for.

    Raises:
        ConfigError: It is not there, or cannot be read.
    """
    opening.check_there(path)
    standing = migrations.standing(path)
    is_newest = standing.present == standing.newest
    note = None
    if not is_newest:
        cure = "run nanohook migrate" if standing.is_known else "it is of a newer nanohook"
        note = f"it is at {standing.present or 'none'}, not at {standing.newest}: {cure}"
    return Verdict(
        name="schema",
        title="the database is whole and of this version's schema",
        level=Level.OK if is_newest else Level.FAIL,
        number=int(not is_newest),
        note=note,
    )


def _judged(check: integrity.Check, opened: ReadOnly) -> Verdict:
    wrong = opened.read(lambda tx: integrity.wrong(tx, check))
    bad = Level.WARN if check.is_warning else Level.FAIL
    level = bad if wrong.number else Level.OK
    return Verdict(name=check.name, title=check.title, level=level, number=wrong.number, examples=wrong.examples)


async def named_files(opened: ReadOnly, *, now_us: int) -> AsyncIterator[list[Named]]:
    """Tell all pictures that rows name, a page at a time."""
    for table in media.TABLES:
        after = ""
        page = functools.partial(media.page, table=table, deleted_since_us=now_us - RESTORE_US)
        while listed := opened.read(functools.partial(page, after_key=after)):
            yield listed
            after = listed[-1].key


async def _files(opened: ReadOnly, files: pathlib.Path, *, now_us: int, progress: Progress) -> Verdict:
    """Check that every row has its files, and that those are what was stored."""
    number = checked = 0
    examples: list[str] = []
    gate = asyncio.Semaphore(os.cpu_count() or 1)

    async def look(picture: Named) -> str | None:
        async with gate:
            return await asyncio.to_thread(_fault, files, picture)

    async for listed in named_files(opened, now_us=now_us):
        kept = [picture for picture in listed if picture.is_kept]
        said = await asyncio.gather(*map(look, kept))
        faults = [(picture, fault) for picture, fault in zip(kept, said, strict=True) if fault is not None]
        for picture, fault in await _lasting(opened, files, faults):
            number += 1
            examples += [f"{picture.key}: {fault}"][: MOST_EXAMPLES - len(examples)]
        checked += len(kept)
        progress(checked)
    progress(0)
    return Verdict(
        name="files",
        title="every picture has its files, of the stored size and sha256",
        level=Level.FAIL if number else Level.OK,
        number=number,
        examples=tuple(examples),
        note=counted(checked, "picture"),
    )


async def _lasting(
    opened: ReadOnly, files: pathlib.Path, faults: list[tuple[Named, str]]
) -> list[tuple[Named, str]]:
    """Tell which of *faults* are still there in a moment: housekeeping removes a file before its row."""
    for _ in range(AGAIN):
        if not faults:
            break
        await asyncio.sleep(AGAIN_S)
        keys = [picture.key for picture, _ in faults]
        named = opened.read(lambda tx: media.named(tx, keys))  # noqa: B023 - read here
        left = [picture for picture, _ in faults if picture.key in named]
        again = [(picture, await asyncio.to_thread(_fault, files, picture)) for picture in left]
        faults = [(picture, fault) for picture, fault in again if fault is not None]
    return faults


def _fault(files: pathlib.Path, picture: Named) -> str | None:
    """Compare the files of *picture* with its row."""
    try:
        with (files / picture.key).open("rb") as file:
            size_bytes = os.fstat(file.fileno()).st_size
            if size_bytes != picture.size_bytes:
                return f"it has {size_bytes} bytes instead of {picture.size_bytes}"
            if picture.sha256 is not None and _digest(file) != picture.sha256:
                return "its sha256 is another"
    except FileNotFoundError:
        return "it is missing"
    except OSError as exc:
        return f"it cannot be read: {exc.strerror}"
    return (
        None if (files / picture.thumbnail_key).is_file() else f"its thumbnail {picture.thumbnail_key} is missing"
    )


def _digest(file: Any) -> bytes:
    digest = hashlib.sha256()
    while chunk := file.read(_CHUNK_BYTES):
        digest.update(chunk)
    return digest.digest()


async def _strays(opened: ReadOnly, files: pathlib.Path, *, now_us: int) -> Verdict:
    """Check that some row names every file that is not young."""
    number = young = 0
    examples: list[str] = []
    async for found in storage.walk(files):
        nobodys = _nobodys(opened, found)
        old = [file for file in nobodys if file.modified_at < now_us - YOUNG_US]
        young += len(nobodys) - len(old)
        if old:
            # Of what nobody took the row goes first, then the file.
            await asyncio.sleep(AGAIN_S)
            old = [file for file in _nobodys(opened, old) if _is_there(files / file.name)]
        number += len(old)
        examples += [file.shown for file in old[: MOST_EXAMPLES - len(examples)]]
    return Verdict(
        name="strays",
        title="no file is without a row",
        level=Level.FAIL if number else Level.OK,
        number=number,
        examples=tuple(examples),
        note=f"{young} young, perhaps being written" if young else None,
    )


def _nobodys(opened: ReadOnly, found: list[Found]) -> list[Found]:
    named = opened.read(lambda tx: media.named(tx, [file.name for file in found]))
    return [file for file in found if file.name not in named]


def _is_there(path: pathlib.Path) -> bool:
    return os.path.lexists(path)


def _progress() -> Progress:
    """Show people how many pictures were looked at; 0 wipes the line."""
    if not sys.stderr.isatty():
        return lambda _number: None
    return lambda number: typer.echo(f"\r{number} pictures" if number else "\r\033[K", nl=False, err=True)
