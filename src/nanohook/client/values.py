"""
What the service's answers say, as values.

Fields have the wire's names. Those that a newer service adds are ignored; one without a default must be there.
"""

import dataclasses
import datetime as dt
import enum
from collections.abc import Mapping


class ImageJobStatus(enum.StrEnum):
    """What a job is."""

    PENDING = "PENDING"
    INITIALIZING = "INITIALIZING"
    GENERATING = "GENERATING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELED = "CANCELED"

    @property
    def is_final(self) -> bool:
        """Whether only a retry, or accepting a late result, leads out of it."""
        return self in {self.COMPLETED, self.FAILED, self.CANCELED}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """One stored picture: an original, or what was made of it."""

    index: int = 0
    """Which of the job's pictures; 0 for an original."""
    url: str = dataclasses.field(repr=False)
    """Root-relative and signed: opens for whoever holds it, for a day at least."""
    thumbnail_url: str = dataclasses.field(repr=False)
    width: int
    height: int
    content_type: str
    bytes: int


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Unclaimed:
    """A picture that nobody waited for any more; the whole of it is for who takes it."""

    index: int
    thumbnail_url: str = dataclasses.field(repr=False)
    width: int
    height: int
    kept_until: dt.datetime


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """Why a job or a task failed."""

    code: str
    """Stable word for programs: ``content_policy``, ``deadline``, ``unknown_outcome``…"""
    message: str
    advice: str
    retryable: bool
    """Trying the same again can help."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """One picture that was asked of NanoBanana."""

    index: int
    task_id: str | None
    """``None`` until NanoBanana has taken it."""
    status: ImageJobStatus


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class FailedTask:
    """A picture that was asked for and not made."""

    index: int
    error: Fault | None


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _State:
    """What every answer about a job tells."""

    job_id: str
    status: ImageJobStatus
    progress: int
    """Percent done."""
    stage: str
    """The step it is at; a newer service may have others."""
    message: str
    """What it is doing, or why it failed, for people."""
    error: Fault | None
    attempt: int
    """0 until something was asked for; every retry is the next."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Event(_State):
    """What a stream tells when something changed."""

    images: tuple[Picture, ...]
    at: dt.datetime


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class RefusedJob:
    """A job that was left as it is."""

    job_id: str
    code: str
    """What it would be refused with alone: ``not_found``."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class BulkResult:
    """What came of doing one thing with many jobs."""

    done: tuple[str, ...]
    """Ids of those that are as they were asked to be, some of them since before."""
    refused: tuple[RefusedJob, ...]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Standing(_State):
    """How far a job is."""

    place: int | None
    """In the line of those that wait."""
    estimated_wait_s: float | None
    event_id: int
    updated_at: dt.datetime


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Job(_State):
    """One request for pictures, or a picture for which nothing was asked yet."""

    project_id: str | None
    batch_id: str | None
    source_job_id: str | None
    """The job whose original it shares."""
    prompt: str | None
    prompt_truncated: bool = False
    """It is longer: the client's ``job`` has the whole of it."""
    transformation_type: str | None
    model: str | None
    options: Mapping[str, object]
    priority: str
    credits: int | None
    original: Picture | None
    """``None``: made from text alone."""
    images: tuple[Picture, ...]
    unclaimed: tuple[Unclaimed, ...] = ()
    """Pictures that came when the job had ended; `Client.accept_late` takes them."""
    failed_tasks: tuple[FailedTask, ...]
    tasks: tuple[Task, ...]
    """Of the present attempt."""
    metadata: Mapping[str, object]
    created_at: dt.datetime
    updated_at: dt.datetime
    completed_at: dt.datetime | None
    event_id: int


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Accepted:
    """A job that was taken and goes on in the background."""

    job_id: str
    status: ImageJobStatus
    progress: int
    credits: int | None


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """A completed job's pictures."""

    job_id: str
    status: ImageJobStatus
    images: tuple[Picture, ...]
