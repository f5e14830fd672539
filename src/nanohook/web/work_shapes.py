"""What answers about many jobs, and about the work as a whole, look like; closed, as those of ``shapes``."""

from typing import Annotated, Literal

from pydantic import AwareDatetime, Field

from nanohook.rules.status import ImageJobStatus
from nanohook.web.shapes import Address, Count, EventId, Fault, Id, PageCursor, Shape


class FailedJob(Shape):
    """A job of a batch that ended without a picture."""

    job_id: Id
    error: Fault | None


class BatchLinks(Shape):
    """Where everything about a batch is."""

    self: Address
    cancel: Address
    events: Address
    """Of all one's jobs: `event_id` is where to start from."""


class Batch(Shape):
    """How the jobs of one request stand, deleted ones left out."""

    batch_id: Id
    counts: dict[ImageJobStatus, Count]
    credits: Count
    job_ids: list[Id]
    """In the order in which they were asked for."""
    failed: list[FailedJob]
    is_final: bool
    event_id: EventId
    links: BatchLinks


class Skipped(Shape):
    """A job that was not retried."""

    job_id: Id
    code: str
    """What it would be refused with alone: `may_be_paid`, `not_failed`, `insufficient_credits`, `not_found`, …"""


class Retried(Shape):
    """What came of retrying many."""

    retried: list[Id]
    skipped: list[Skipped]
    next_cursor: PageCursor


class RefusedJob(Shape):
    """A job that was left as it is."""

    job_id: Id
    code: str
    """What it would be refused with alone: `not_found`."""


class BulkResult(Shape):
    """What came of doing one thing with many jobs."""

    done: list[Id]
    """Those that are as they were asked to be, some of them since before."""
    refused: list[RefusedJob]


class Work(Shape):
    """Whether everybody's work goes on."""

    state: Literal["running", "paused", "draining", "drained", "blocked"]
    """`blocked`: NanoBanana refuses the account."""
    reason: Literal["paused", "no_credit", "bad_key"] | None
    since: AwareDatetime | None


class WholeWork(Work):
    """The same, and how much there is of it, of everybody's; for admins."""

    under_way: Count
    waiting: Count


class Spread(Shape):
    """Of seconds; null while there is nothing to tell it from."""

    p50: float | None
    p95: float | None


class Attention(Shape):
    """What an admin may have to look at: deliveries by effect, and results that came too late."""

    parked: Count
    unapplied: Count
    dead: Count
    unclaimed: Count


class Stats(Shape):
    """How much there is to do, and how it went."""

    counts: dict[ImageJobStatus, Count]
    waiting: Count
    """Tasks in line."""
    oldest_waiting_s: Annotated[float, Field(ge=0)] | None
    under_way: Count
    wait_s: Spread
    """In line, of the newest 200 finished jobs."""
    run_s: Spread
    """From the first submit to the end, of the same."""
    throughput_per_hour: Annotated[float, Field(ge=0)]
    work: WholeWork | Work
    """With its numbers where everybody's are asked for."""
    attention: Attention | None
    """For admins."""
