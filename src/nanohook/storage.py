"""
Pictures as files, by key, through obstore: a folder now, a bucket later.

A ``put`` that returned is on the disk: obstore writes beside the key and renames, which is atomic but not
durable, so the file and every folder entry that leads to it are synced afterwards, before a row may name it.
A crash in between leaves a file, or a half of one named ``key#1``, that no row knows: a sweep walks the folder
for those, ``work/orphans.py``. No key contains ``#``.
"""

import asyncio
import contextlib
import itertools
import mmap
import os
import pathlib
import re
import shutil
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Final, NamedTuple

import obstore
import obstore.exceptions
import obstore.store

from nanohook import errors

MOST_KEY_CHARS = 512

MOST_SEGMENT_CHARS = 200
"""Between two slashes; file systems take 255 bytes, and obstore adds ``#1`` while it writes."""

MOST_SYNCED_FOLDERS = 4_096
"""Folders remembered as durable; forgetting one costs a sync of 0.1 ms."""

WALKED_AT_ONCE: Final = 500
"""Files told of at once when the folder is walked: no more of their names are in memory."""

_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]*")
_REFUSALS = (OSError, ValueError, obstore.exceptions.BaseError)


class Found(NamedTuple):
    """A file that lies in the folder, whatever it is."""

    name: str
    """Its way below the root, with slashes: a key, unless it is a leftover."""
    modified_at: int
    """When it was last written to, µs since the epoch."""

    @property
    def shown(self) -> str:
        """Its name as it can be printed: a leftover of somebody else's may have any bytes for one."""
        return self.name.encode("unicode_escape").decode()


class Storage:
    """
    Files below one folder. Nothing needs closing, and methods may be called from any task or thread.

    Keys are letters, digits, ``.``, ``_``, ``-`` and ``/``, at most ``MOST_KEY_CHARS``; no segment is empty,
    ``.`` or ``..``. Folders that became empty stay: others may not remove them while this is in use, because
    those known to be durable are not synced again.

    Args:
        root: Made if it is not there.

    Raises:
        StorageFailed: *root* cannot be made or is no folder.
    """

    def __init__(self, root: pathlib.Path) -> None:
        self._root = root.absolute()
        self._synced: set[pathlib.Path] = set()
        missing = [folder for folder in (self._root, *self._root.parents) if not folder.exists()]
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            for folder in missing:
                sync(folder.parent)
            self._store = obstore.store.LocalStore(self._root)
        except _REFUSALS as exc:
            raise _failed("open", str(root), exc) from exc

    async def put(self, key: str, body: bytes | mmap.mmap) -> None:
        """
        Keep *body* under *key*, in place of what was there; it is on the disk when this returns.

        Readers see the old bytes or the new ones, never a part.

        Raises:
            StorageFailed: The disk refused, or *key* is malformed. What was there before is still there.
        """
        await asyncio.to_thread(self.put_now, {key: body})

    def put_now(self, bodies: Mapping[str, bytes | mmap.mmap]) -> None:
        """
        Keep each of *bodies* under its key, as ``put`` does, on the caller's own thread.

        Raises:
            StorageFailed: The disk refused one, or a key is malformed; the others may be there.
        """
        names = ", ".join(bodies)
        try:
            paths = [self._path(key) for key in bodies]
            for key, body in bodies.items():
                obstore.put(self._store, key, body, use_multipart=False)
            self._settle(paths)
        except (*_REFUSALS, errors.NotFound) as exc:
            raise _failed("keep", names, exc) from exc

    async def get(self, key: str) -> bytes:
        """
        All bytes under *key*.

        Raises:
            NotFound: Nothing is there, or *key* is malformed.
            StorageFailed: The disk refused.
        """
        self._path(key)
        try:
            result = await obstore.get_async(self._store, key)
            return bytes(await result.bytes_async())
        except FileNotFoundError as exc:
            raise errors.NotFound(f"there is no file {key}") from exc
        except _REFUSALS as exc:
            raise _failed("read", key, exc) from exc

    def path(self, key: str) -> pathlib.Path | None:
        """
        Where the file of *key* lies, to be served from there; ``None`` where there is none.

        One look at the folder, some microseconds: no thread is needed.

        Raises:
            NotFound: *key* is malformed.
        """
        path = self._path(key)
        return path if path.is_file() else None

    async def exists(self, key: str) -> bool:
        """
        Whether there is a file under *key*.

        Raises:
            NotFound: *key* is malformed.
            StorageFailed: The disk refused.
        """
        self._path(key)
        try:
            await obstore.head_async(self._store, key)
        except FileNotFoundError:
            return False
        except _REFUSALS as exc:
            raise _failed("look for", key, exc) from exc
        return True

    async def delete(self, key: str) -> None:
        """
        Remove the file under *key*; a missing one is fine. After a crash it may be back: a sweep finds it.

        Raises:
            NotFound: *key* is malformed.
            StorageFailed: The disk refused.
        """
        self._path(key)
        try:
            await obstore.delete_async(self._store, key)
        except FileNotFoundError:
            return
        except _REFUSALS as exc:
            raise _failed("remove", key, exc) from exc

    def walk(self) -> AsyncIterator[list[Found]]:
        """
        Tell every file that lies here, as the function ``walk`` does.

        Raises:
            StorageFailed: A folder cannot be read.
        """
        return walk(self._root)

    async def remove_stray(self, found: Found, *, before_us: int) -> bool:
        """
        Remove a file that ``walk`` told of, unless it was written to since *before_us* (µs).

        Returns:
            Whether it was removed: it may be gone, or somebody's by now.

        Raises:
            StorageFailed: The disk refused.
        """
        path = self._root / found.name

        def remove() -> bool:
            if path.lstat().st_mtime_ns // 1_000 >= before_us:
                return False
            path.unlink()
            return True

        try:
            return await asyncio.to_thread(remove)
        except FileNotFoundError:
            return False
        except OSError as exc:
            raise _failed("remove", found.shown, exc) from exc

    def free_bytes(self) -> int:
        """
        What this process may still write to the disk below the root.

        Raises:
            StorageFailed: The disk does not say.
        """
        try:
            return shutil.disk_usage(self._root).free
        except OSError as exc:
            raise _failed("measure", str(self._root), exc) from exc

    def _path(self, key: str) -> pathlib.Path:
        segments = key.split("/")
        if (
            len(key) > MOST_KEY_CHARS
            or _KEY.fullmatch(key) is None
            or not {"", ".", ".."}.isdisjoint(segments)
            or max(map(len, segments)) > MOST_SEGMENT_CHARS
        ):
            raise errors.NotFound("there is no file of that name: its key is malformed")
        return self._root.joinpath(*segments)

    def _settle(self, paths: list[pathlib.Path]) -> None:
        """
        Sync new files and the ways to them.

        A folder may have been made by a twin that has not synced it yet, so what counts is not who made it
        but whether this process has synced the entry that leads to it.
        """
        for path in paths:
            sync(path)
            for folder in path.relative_to(self._root).parents:
                entry = self._root / folder
                if entry == self._root or entry in self._synced:
                    continue
                sync(entry.parent)
                if len(self._synced) >= MOST_SYNCED_FOLDERS:
                    self._synced.clear()
                self._synced.add(entry)
        for folder in {path.parent for path in paths}:
            sync(folder)


async def walk(root: pathlib.Path) -> AsyncIterator[list[Found]]:
    """
    Tell every file below *root*, ``WALKED_AT_ONCE`` at a time and in no order; nothing if it is not there.

    What comes or goes meanwhile may or may not be told. Links are neither followed nor told.

    Raises:
        StorageFailed: A folder cannot be read.
    """
    found = _below(root, "")
    try:
        while some := await asyncio.to_thread(lambda: list(itertools.islice(found, WALKED_AT_ONCE))):
            yield some
    except OSError as exc:
        raise _failed("read", str(root), exc) from exc


def _below(folder: pathlib.Path | str, above: str) -> Iterator[Found]:
    # One folder is open on each level, and read entry by entry: their names are never all in memory.
    try:
        entries = os.scandir(folder)
    except FileNotFoundError:
        return
    with entries:
        for entry in entries:
            name = f"{above}{entry.name}"
            if entry.is_dir(follow_symlinks=False):
                yield from _below(entry.path, f"{name}/")
            elif entry.is_file(follow_symlinks=False):
                with contextlib.suppress(FileNotFoundError):
                    yield Found(name, entry.stat(follow_symlinks=False).st_mtime_ns // 1_000)


def sync(path: pathlib.Path) -> None:
    """Bring a file's bytes, or a folder's entries, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _failed(act: str, what: str, exc: Exception) -> errors.StorageFailed:
    reason = str(exc).partition("\n")[0]
    return errors.StorageFailed(f"the storage could not {act} {what}: {reason}")
