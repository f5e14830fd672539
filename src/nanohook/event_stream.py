"""One open stream of events: what its reader was sent, and what is yet to come."""

import asyncio
from collections.abc import Callable, Collection, Coroutine, Iterable, MutableMapping
from typing import Any

from nanohook.rules import sse
from nanohook.stores.credentials import Credential
from nanohook.stores.events import Event

Message = MutableMapping[str, Any]
Send = Callable[[Message], Coroutine[Any, Any, None]]


class Stream:
    """One reader. Everything it was sent up to ``cursor`` has left our hands."""

    __slots__ = (
        "behind",
        "credential",
        "cursor",
        "ends_at",
        "heartbeat",
        "ids",
        "is_live",
        "is_over",
        "jobs",
        "opening",
        "sees",
        "send",
        "task",
    )

    def __init__(
        self,
        *,
        credential: Credential,
        sees: str | None,
        jobs: Collection[str] | None,
        waited_for: Collection[str],
        cursor: int,
        opening: Iterable[bytes],
        is_over: bool,
        heartbeat: bytes = sse.HEARTBEAT,
        send: Send,
    ) -> None:
        self.credential = credential
        """What its reader was let in by; whose place it takes."""
        self.sees = sees
        """Whose events it is sent; ``None``: everybody's."""
        self.jobs = None if jobs is None else tuple(jobs)
        """The jobs it is about; ``None``: all that it sees."""
        self.ids = frozenset(waited_for) if jobs is None or len(jobs) > 1 else None
        """Those of several jobs whose end is yet to be told; when none is left, the stream ends."""
        self.cursor = cursor
        self.opening = opening
        """What it begins with, in pieces; all that comes after ``cursor`` follows."""
        self.is_over = is_over
        """Nothing follows: it ends behind its opening."""
        self.heartbeat = heartbeat
        """What it is sent while nothing happens."""
        self.send = send
        self.is_live = False
        self.behind = False
        """While catching up: the hub passed an event that the pump may not have read."""
        self.ends_at = 0.0
        self.task: asyncio.Task[Any] | None = None
        """The request's: canceled to cut off a reader who does not even take the end."""

    def passed(self, event: Event) -> bool:
        """Note that *event* is sent; tell whether the stream has nothing more to say."""
        self.cursor = event.id
        if self.jobs is None or self.ids is None:
            return self.jobs is not None and event.is_last
        if event.is_last is (event.job_id in self.ids):
            self.ids = self.ids ^ {event.job_id}
        return not self.ids
