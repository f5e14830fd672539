"""Where this service is reached: from the internet, as a tunnel may change it, and on this machine."""

import contextlib
import pathlib
from collections.abc import Iterator
from typing import Final

_FILE: Final = "address"


class PublicAddress:
    """
    The public address of now; everybody who needs it reads it here, at the moment of use.

    Args:
        url: Without its last slash; ``None``: nobody reaches this service from outside.
        may_come: A tunnel is looked for, and may bring one at any time.
    """

    __slots__ = ("may_come", "url")

    def __init__(self, url: str | None = None, *, may_come: bool = False) -> None:
        self.url = url
        self.may_come = may_come


@contextlib.contextmanager
def told(data_dir: pathlib.Path, local_url: str | None) -> Iterator[None]:
    """Leave in the data dir where its service listens on this machine, for commands that run beside it."""
    path = data_dir / _FILE
    if local_url is not None:
        path.write_text(local_url)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def port_of(local_url: str) -> int:
    """Tell the port in an address of this machine."""
    return int(local_url.rpartition(":")[2])


def last_told(data_dir: pathlib.Path) -> str | None:
    """
    Read where the data dir's service listens.

    After a crash it is where it did: whoever asks there finds out. ``None`` if it was stopped in order.
    """
    try:
        return (data_dir / _FILE).read_text().strip() or None
    except (OSError, UnicodeDecodeError):
        return None
