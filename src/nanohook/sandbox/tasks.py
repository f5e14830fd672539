"""The look-alike's memory: its tasks, their pictures and the credit of its one account, all bounded."""

import asyncio
import dataclasses
import datetime as dt
import enum
import uuid
from typing import Any

from nanohook.sandbox import options, orders

MAX_TASKS = 10_000
MAX_PICTURE_BYTES = 200_000_000


class Flag(enum.IntEnum):
    """The vendor's ``successFlag``."""

    GENERATING = 0
    DONE = 1
    NOT_CREATED = 2
    FAILED = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Picture:
    """A result."""

    content: bytes = dataclasses.field(repr=False)
    media_type: str
    suffix: str
    """Ending of its name, without the dot."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Failure:
    """Why there is no result."""

    flag: Flag
    code: int
    message: str


@dataclasses.dataclass(kw_only=True, eq=False)
class Task:
    """One task, from its submit on; changed only by the table and the worker."""

    task_id: str
    """32 lower-case hex characters."""

    order: orders.Order
    behaviour: options.Behaviour
    base_url: str
    """Where the submitter reached this look-alike: results are linked from there."""

    created_at: dt.datetime
    completed_at: dt.datetime | None = None
    outcome: Picture | Failure | None = None
    """``None`` while generating."""

    name: str | None = None
    """Of the picture, below ``/r/``."""

    fetches: int = 0
    """How often its picture was asked for."""

    callbacks_sent: int = 0
    """Every attempt, repeats and duplicates too; progress apart."""

    callback_status: int | None = None
    """HTTP status of the last attempt; ``None``: none yet, or it got no answer."""

    callback_took_s: float | None = None
    """How long the last attempt's answer took; ``None``: it got none."""

    called: asyncio.Event = dataclasses.field(default_factory=asyncio.Event, repr=False)
    """Set after the first attempt, or when it is clear that there will be none."""

    ended: asyncio.Event = dataclasses.field(default_factory=asyncio.Event, repr=False)
    """Set when nothing more will be sent."""

    running: asyncio.Task[None] | None = dataclasses.field(default=None, repr=False)

    @property
    def params(self) -> dict[str, Any]:
        """The submit's body."""
        return self.order.params

    @property
    def flag(self) -> Flag:
        """The vendor's ``successFlag`` at this moment."""
        if self.outcome is None:
            return Flag.GENERATING
        return self.outcome.flag if isinstance(self.outcome, Failure) else Flag.DONE

    @property
    def result_url(self) -> str | None:
        """Absolute address of the picture."""
        return f"{self.base_url}/r/{self.name}" if self.name else None


class Table:
    """
    Every task that is remembered, oldest first.

    Args:
        credit: What the account holds.
        max_tasks: The oldest is forgotten, and stopped, beyond it.
        max_picture_bytes: The oldest picture is forgotten beyond it.
    """

    def __init__(
        self, *, credit: int, max_tasks: int = MAX_TASKS, max_picture_bytes: int = MAX_PICTURE_BYTES
    ) -> None:
        self.by_id: dict[str, Task] = {}
        self.submitted = 0
        """Tasks accepted so far, forgotten ones too."""

        self.credit = credit
        self._max_tasks = max_tasks
        self._max_picture_bytes = max_picture_bytes
        self._pictures: dict[str, int] = {}
        self._picture_bytes = 0

    def pay(self, price: int) -> bool:
        """Take *price* from the account; ``False``, and nothing taken, if it holds less."""
        if self.credit < price:
            return False
        self.credit -= price
        return True

    def add(self, order: orders.Order, behaviour: options.Behaviour, *, base_url: str) -> Task:
        """Remember a new task."""
        task = Task(
            task_id=uuid.uuid4().hex,
            order=order,
            behaviour=behaviour,
            base_url=base_url,
            created_at=dt.datetime.now(dt.UTC),
        )
        self.by_id[task.task_id] = task
        self.submitted += 1
        while len(self.by_id) > self._max_tasks:
            self._forget(next(iter(self.by_id)))
        return task

    def finish(self, task: Task, outcome: Picture | Failure, *, shared: bool = False) -> None:
        """
        Give *task* its outcome.

        Args:
            task: One that is generating.
            outcome: A picture gets an address.
            shared: The bytes are held elsewhere anyway and do not count.
        """
        task.completed_at = dt.datetime.now(dt.UTC)
        task.outcome = outcome
        if isinstance(outcome, Picture):
            task.name = f"{task.task_id}_{int(task.completed_at.timestamp())}.{outcome.suffix}"
            if not shared and task.task_id in self.by_id:
                self._keep(task.task_id, len(outcome.content))

    def picture(self, name: str) -> tuple[Task, Picture] | None:
        """Find a result, and whose it is, by the last part of its address."""
        task = self.by_id.get(name.partition("_")[0])
        if task is None or task.name != name or not isinstance(task.outcome, Picture):
            return None
        return (task, task.outcome) if task.outcome.content else None

    def _keep(self, task_id: str, size_bytes: int) -> None:
        self._pictures[task_id] = size_bytes
        self._picture_bytes += size_bytes
        while self._picture_bytes > self._max_picture_bytes:
            oldest = next(iter(self._pictures))
            self._picture_bytes -= self._pictures.pop(oldest)
            task = self.by_id[oldest]
            if isinstance(task.outcome, Picture):
                # Its address stays told by record-info and answers 404, as an expired one does.
                task.outcome = dataclasses.replace(task.outcome, content=b"")

    def _forget(self, task_id: str) -> None:
        task = self.by_id.pop(task_id)
        self._picture_bytes -= self._pictures.pop(task_id, 0)
        if task.running is not None:
            task.running.cancel()
