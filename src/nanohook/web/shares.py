"""Concurrency limits, for one person and for all people together: nobody slows the others down."""

from typing import Final

from nanohook.database import CONNECTIONS, Lane
from nanohook.presence import Presence
from nanohook.web import slots, time_share
from nanohook.web.incoming import Incoming
from nanohook.web.outgoing import Outgoing
from nanohook.web.slots import Slots
from nanohook.web.time_share import TimeShare
from nanohook.web.turns import Turns

OPENINGS: Final = 2 * CONNECTIONS[Lane.PAGE]
"""Streams that are being opened at once: some are read, what the others are sent is rendered meanwhile."""
MAX_OPENINGS_WAITING: Final = 10_000
"""As many streams as one process is made for: after a restart all of them come back within seconds."""


class Shares:
    """One of each for the whole process."""

    def __init__(self) -> None:
        self.turns: Final = {
            Lane.PAGE: Turns(CONNECTIONS[Lane.PAGE], name="lists"),
            Lane.SEARCH: Turns(CONNECTIONS[Lane.SEARCH], name="searches"),
        }
        """At reads that may be long, and at what is made of their rows."""
        present = Presence(time_share.OTHERS_S)
        self.loop_time: Final = TimeShare(present)
        """At the event loop, for requests of signed-in people and their pages; not for what goes out in pieces."""
        self.thread_time: Final = TimeShare(
            present, share_of_one=time_share.THREADS_SHARE_OF_ONE, lead_s=time_share.THREADS_LEAD_S
        )
        """At what threads do for uploads, searches and lists."""
        self.openings: Final = Turns(
            OPENINGS,
            name="streams",
            # Whoever waits has a place for the stream: a person has no more of these.
            max_waiting_of_one=MAX_OPENINGS_WAITING,
            max_waiting=MAX_OPENINGS_WAITING,
        )
        """At what a stream begins with, and at what its reader alone missed."""
        self.incoming: Final = Incoming()
        self.outgoing: Final = Outgoing()
        self.uploads: Final = Slots(of_one=slots.MOST_OF_ONE, of_all=slots.MOST_UPLOADS, name="uploads")
        self.storing: Final = Turns(slots.MOST_STORING, name="uploads")
        """At pictures that came in, which are in memory whole until they are stored."""
        self.batches: Final = Slots(of_one=slots.MOST_OF_ONE, of_all=slots.MOST_BATCHES, name="uploads")
        self.archives: Final = Slots(of_one=slots.ARCHIVES_OF_ONE, of_all=slots.MOST_ARCHIVES, name="archives")
