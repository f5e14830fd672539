"""Threads that do long work beside the event loop."""

import os
import sys
import threading
from typing import Final

NICENESS: Final = 5
"""They get a third of the time that those get who answer, and no less: a busy machine holds up nobody for long."""


def be_nice() -> None:
    """Let this thread yield to those that answer requests; the threads that it starts inherit it."""
    # Linux counts niceness by thread; elsewhere there is nothing to set.
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), os.nice(0) + NICENESS)
