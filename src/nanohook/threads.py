"""Threads that do long work beside the event loop."""

import os
import sys
import threading
from typing import Final

NICENESS: Final = 5
"""
A third of the weight of those that answer (335 to 1,024). Not less: such a thread may hold the interpreter, and is
waited for then, and on a busy machine people wait for their pictures. Source: sched(7), ``sched_prio_to_weight``.
"""


def be_nice() -> None:
    """Let this thread yield to those that answer requests; the threads that it starts inherit it."""
    # Linux counts niceness by thread; elsewhere there is nothing to set.
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), os.nice(0) + NICENESS)
