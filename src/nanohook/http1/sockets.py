"""Socket options: how long a client may leave us without a word, and how much the kernel keeps for it."""

import asyncio
import socket
from typing import Final

ANSWER_UNACKED_MS: Final = 5 * 60_000
"""For a reader that stops for a while: a download that is paused, a lid that is closed. It may go on then."""
STREAM_UNACKED_MS: Final = 30_000
"""For a stream: its reader reads always, and takes a place of its person until it is known to be gone."""
STREAM_SEND_BUFFER_BYTES: Final = 64 * 1024
"""Asked of the kernel for what a stream's reader has not acknowledged; it takes twice, with its bookkeeping."""
_UNSENT_BYTES: Final = 16 * 1024


def set_for_all(listener: socket.socket) -> None:
    """Set what every accepted connection inherits."""
    # Not every event loop sets it: without it the second half of an answer waits 40 ms for an ACK.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        # A client that stops reading would swallow megabytes in the kernel, and could never be closed.
        listener.setsockopt(socket.IPPROTO_TCP, getattr(socket, "TCP_NOTSENT_LOWAT", 25), _UNSENT_BYTES)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, ANSWER_UNACKED_MS)


def set_for_stream(transport: asyncio.Transport) -> None:
    """Set what differs for a connection whose answer is a stream; it ends with that."""
    connected: socket.socket | None = transport.get_extra_info("socket")
    if connected is None:
        return
    # By itself it grows to megabytes, for whoever reads fast once and then is gone.
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, STREAM_SEND_BUFFER_BYTES)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, STREAM_UNACKED_MS)
