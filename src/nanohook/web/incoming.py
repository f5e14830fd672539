"""Callbacks on their way in whose bodies are not whole yet: bounded in bytes, since strangers may begin them."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Final

from nanohook import errors

MAX_BYTES: Final = 32 * 1024 * 1024
_COME_BACK_S: Final = 2


class Incoming:
    """Counts the bytes that came of unfinished bodies; on the event loop alone."""

    def __init__(self) -> None:
        self.size_bytes = 0
        """Of everybody together."""

    @contextlib.contextmanager
    def body(self) -> Iterator[Callable[[int], None]]:
        """
        Count one body within the block: call what is yielded with the size that it has come to.

        Raises:
            Unavailable: From that call: all together are too large. A body that came whole was never counted.
        """
        counted_bytes = 0

        def count(size_bytes: int) -> None:
            nonlocal counted_bytes
            more_bytes = size_bytes - counted_bytes
            if more_bytes and self.size_bytes + more_bytes > MAX_BYTES:
                raise errors.Unavailable("too many callbacks come in slowly", retry_after_s=_COME_BACK_S)
            self.size_bytes += more_bytes
            counted_bytes = size_bytes

        try:
            yield count
        finally:
            self.size_bytes -= counted_bytes
