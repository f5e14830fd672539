"""
Where bodies lie while they come in: in memory up to a bound for all of them together, else in files.

The files have no name, or lose it as soon as they are open, so that a process that is killed leaves none; where
the system cannot do that at once, the next process removes what was left.
"""

import asyncio
import contextlib
import io
import mmap
import pathlib
import tempfile
import threading
import types
from collections.abc import Callable, Iterator
from typing import Final, Self, TypeVar

from nanohook import errors
from nanohook.rules import inflate

MEMORY_BYTES: Final = 64 * 1024 * 1024
"""Held in memory at a time, of all bodies."""

_PREFIX: Final = "download-"
_MARK_BYTES: Final = 3
"""Show whether a body is compressed."""

T = TypeVar("T")


class Spool:
    """
    A folder and a bound of memory that bodies share. One process has a folder.

    Args:
        folder: Made if it is not there; what another process left in it is removed.
        memory_bytes: For all bodies together.

    Raises:
        StorageFailed: *folder* cannot be made or cleared.
    """

    def __init__(self, folder: pathlib.Path, *, memory_bytes: int = MEMORY_BYTES) -> None:
        self._folder = folder
        self._left_bytes = memory_bytes
        # Bodies are written to from several threads.
        self._lock = threading.Lock()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for leftover in folder.glob(f"{_PREFIX}*"):
                leftover.unlink(missing_ok=True)
        except OSError as exc:
            raise errors.StorageFailed(f"the folder for downloads cannot be used: {exc.strerror}") from exc

    @property
    def left_bytes(self) -> int:
        """How much more fits into memory."""
        return self._left_bytes

    def body(self, *, max_bytes: int) -> "Body":
        """Begin a body of at most *max_bytes*; use it as ``with``."""
        return Body(self, max_bytes=max_bytes)

    def take(self, size_bytes: int) -> bool:
        """Reserve memory; tell whether there was as much."""
        with self._lock:
            is_free = size_bytes <= self._left_bytes
            self._left_bytes -= size_bytes if is_free else 0
        return is_free

    def give_back(self, size_bytes: int) -> None:
        """Free what was reserved."""
        with self._lock:
            self._left_bytes += size_bytes

    def open(self) -> io.BufferedRandom:
        """
        Open a new file that nobody else sees.

        Raises:
            OSError: The disk refused.
        """
        return tempfile.TemporaryFile(prefix=_PREFIX, dir=self._folder)


class Body:
    """
    One body as it comes in, inflated if its bytes are compressed, whatever its label says.

    Args:
        spool: Whose memory and folder are used.
        max_bytes: Of the body, and of what it was inflated from.
    """

    def __init__(self, spool: Spool, *, max_bytes: int) -> None:
        self._spool = spool
        self._max_bytes = max_bytes
        self._begin()

    def _begin(self) -> None:
        self._inflater = inflate.Inflater(max_bytes=self._max_bytes)
        self._is_plain: bool | None = None
        self._held = io.BytesIO()
        self._held_bytes = 0
        self._file: io.BufferedRandom | None = None
        self.received_bytes = 0
        """As they came over the network."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        self.restart()

    def restart(self) -> None:
        """Forget everything, give the memory back."""
        if self._file is not None:
            # What could not be written is of no use any more, so that it fails again says nothing.
            with contextlib.suppress(OSError):
                self._file.close()
        self._spool.give_back(self._held_bytes)
        self._begin()

    async def add(self, piece: bytes) -> None:
        """
        Take the next *piece*.

        Raises:
            TooMuch: More than ``max_bytes``.
            Damaged: It is compressed, and broken.
            StorageFailed: The disk refused.
        """
        self.received_bytes += len(piece)
        if self.received_bytes > self._max_bytes:
            raise inflate.TooMuch
        if self._is_plain is None:
            self._is_plain = len(piece) >= _MARK_BYTES and not inflate.is_compressed(piece)
        if self._is_plain and self._file is None and self._spool.take(len(piece)):
            # Nearly every piece of nearly every body.
            self._held_bytes += len(piece)
            self._held.write(piece)
        else:
            await _in_thread(lambda: self._add(piece))

    async def finish(self) -> bytes | mmap.mmap:
        """
        Say that the body has ended.

        Returns:
            All of it; a mapped file where it did not fit into memory. It stays readable after the ``with``.

        Raises:
            TooMuch: More than ``max_bytes``.
            Damaged: It is compressed, and cut off.
            StorageFailed: The disk refused.
        """
        if self._is_plain and self._file is None:
            # Not copied: the buffer hands over what it holds.
            return self._held.getvalue()
        return await _in_thread(self._finish)

    def _add(self, piece: bytes) -> None:
        with _disk():
            for part in [piece] if self._is_plain else self._inflater.feed(piece):
                self._keep(part)

    def _finish(self) -> bytes | mmap.mmap:
        with _disk():
            for part in self._inflater.finish():
                self._keep(part)
            if self._file is None:
                return self._held.getvalue()
            self._file.flush()
            return mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)

    def _keep(self, piece: bytes) -> None:
        if self._file is None and self._spool.take(len(piece)):
            self._held_bytes += len(piece)
            self._held.write(piece)
            return
        if self._file is None:
            self._file = self._spool.open()
            self._file.write(self._held.getbuffer())
            self._held = io.BytesIO()
            self._spool.give_back(self._held_bytes)
            self._held_bytes = 0
        self._file.write(piece)


@contextlib.contextmanager
def _disk() -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise errors.StorageFailed(f"a download could not be kept while it came in: {exc.strerror}") from exc


async def _in_thread(work: Callable[[], T]) -> T:
    """Run *work* in a thread; who is cancelled waits for its end, because a thread cannot be stopped."""
    running = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait({running})
        raise
