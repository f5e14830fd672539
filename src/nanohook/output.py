"""
Writing to standard output and error without ever waiting for whoever reads them.

A pipe, a socket or a terminal takes so much ahead of its reader, then a write waits: for ever, if nobody reads. In
an event loop everything else would wait too. Here what finds no room is dropped, and counted.
"""

import contextlib
import functools
import io
import os
import select
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from typing import IO, Final, TextIO, cast

_PIPE_BUF: Final = getattr(select, "PIPE_BUF", 512)
"""Bytes that a writable pipe takes whole. Source: POSIX, limits.h and poll()."""


class Output(io.RawIOBase):
    """
    What *stream* writes to, through a descriptor of our own; closing it leaves the stream as it is.

    Every text put into it arrives whole, or is counted. Nothing is an error: whoever reads may be slow or gone,
    the disk full, or the stream closed before the process began.
    """

    def __init__(self, stream: TextIO | None) -> None:
        super().__init__()
        self.dropped = 0
        """Texts that did not arrive whole."""
        self._is_torn = False
        # Reentrant: a finalizer may write within a write.
        self._lock = threading.RLock()
        self._write: Callable[[bytes], int] = _nowhere
        self._release: Callable[[], None] | None = None
        # There is none, or none of the system's: a test's, for one.
        with contextlib.suppress(OSError, ValueError, AttributeError):
            self._write, self._release = _opened(stream.fileno())  # type: ignore[union-attr]

    def put(self, text: bytes) -> bool:
        """Write *text*, which is one line or several; tells whether it was taken whole."""
        with self._lock:
            # What was cut off has no end of its line: this is not its rest.
            whole = rest = b"\n" + text if self._is_torn else text
            try:
                while rest:
                    rest = rest[self._write(rest) :]
            except OSError:
                self._is_torn |= len(rest) < len(whole)
                self.dropped += 1
                return False
            self._is_torn = False
            return True

    def writable(self) -> bool:
        return True

    def write(self, text: bytes | bytearray | memoryview, /) -> int:  # type: ignore[override]  # what print gives it
        """Put *text*, as a file does; it counts as written in any case."""
        taken = bytes(text)
        self.put(taken)
        return len(taken)

    def close(self) -> None:
        with self._lock:
            release, self._release, self._write = self._release, None, _nowhere
        if release is not None:
            release()
        super().close()


def occupy_closed() -> None:
    """
    Open the null device in the place of each standard stream that the process was started without.

    The next file or connection would get its number, and whatever some library writes there; libuv aborts then.
    """
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free


@contextlib.contextmanager
def printing(*, stdout: Output, stderr: Output) -> Iterator[None]:
    """Let ``print``, warnings and tracebacks write to *stdout* and *stderr* within the block."""
    # By the line, each one write.
    out, err = (
        io.TextIOWrapper(cast("IO[bytes]", each), encoding="utf-8", errors="backslashreplace", line_buffering=True)
        for each in (stdout, stderr)
    )
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            yield
        finally:
            for each in (out, err):
                each.detach()


def _opened(fd: int) -> tuple[Callable[[bytes], int], Callable[[], None]]:
    """Open the file behind *fd* once more; tells how to write to it without waiting, and how to close it."""
    kind = os.fstat(fd).st_mode
    is_waiting = stat.S_ISFIFO(kind) or os.isatty(fd)
    if is_waiting:
        # O_NONBLOCK belongs to an open file, and this one is shared with other processes: set there, it would
        # break their writes. Opened anew the file is ours alone. Source: libuv, uv_tty_init.
        with contextlib.suppress(OSError):
            own = os.open(f"/dev/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
            if not os.get_blocking(own):
                return functools.partial(os.write, own), functools.partial(os.close, own)
            os.close(own)
    own = os.dup(fd)
    if is_waiting:
        # It belongs to another user, or the system has no such names.
        poll = select.poll()
        poll.register(own, select.POLLOUT)
        return functools.partial(_write_if_ready, own, poll), functools.partial(os.close, own)
    if stat.S_ISSOCK(kind):
        sender = socket.socket(fileno=own)
        return functools.partial(_send, sender), sender.close
    # A file takes what it is given.
    return functools.partial(os.write, own), functools.partial(os.close, own)


def _send(sender: socket.socket, text: bytes) -> int:
    return sender.send(text, socket.MSG_DONTWAIT)


def _write_if_ready(fd: int, poll: "select.poll", text: bytes) -> int:
    if not poll.poll(0):
        raise BlockingIOError
    return os.write(fd, text[:_PIPE_BUF])


def _nowhere(_text: bytes) -> int:
    raise BrokenPipeError
