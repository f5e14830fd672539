"""
What the service's answers and events look like, for the document and for those who check against it.

The answers themselves are built as plain dictionaries (``rules.views``); these models say which fields those have.
A shape is closed: a field that nobody wrote down here is a fault.
"""

from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from nanohook.rules import words
from nanohook.rules.status import ImageJobStatus, Stage

Id = Annotated[str, Field(description="UUIDv7 as text; any other text is simply unknown.")]
Address = Annotated[str, Field(description="Root-relative address, signed where it is of a picture.")]
Count = Annotated[int, Field(ge=0)]
EventId = Annotated[int, Field(ge=0, description="Where a stream may start from.")]
FaultCode = Annotated[str, Field(json_schema_extra={"enum": sorted(words.FAULTS)})]
ContentType = Literal["image/jpeg", "image/png", "image/webp"]
Model = Literal["nano-banana", "nano-banana-pro", "nano-banana-2"]
Pixels = Annotated[int, Field(ge=1)]
Percent = Annotated[int, Field(ge=0, le=100)]
PageCursor = Annotated[str | None, Field(description="`cursor` of the next page; null on the last.")]
NumberedCursor = Annotated[int | None, Field(description="The same, a number.")]


class Shape(BaseModel):
    """Closed: no field beside those named."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class FieldProblem(Shape):
    """What is wrong with one field."""

    field: str
    message: str
    code: str = ""
    """Of a job of a batch that is refused: the word that it would be refused with alone."""


class Problem(Shape):
    """An error, as RFC 9457 has it."""

    type: str
    title: str
    status: Annotated[int, Field(ge=400, le=599)]
    detail: str
    code: str
    """Stable word for programs."""
    errors: list[FieldProblem] = []
    """The fields of a 422."""
    error: str = ""
    """`check-generation-status` alone: the sentence its callers know."""
    job_status: ImageJobStatus | None = None
    """`result` before there is one: where the job is."""


class Fault(Shape):
    """Why a job or one of its tasks failed."""

    code: FaultCode
    message: str
    advice: str
    retryable: bool
    """Trying the same again can help."""


class Small(Shape):
    """A picture of ours, of which the thumbnail may be seen."""

    thumbnail_url: Address
    width: Pixels
    height: Pixels
    content_type: ContentType
    bytes: Annotated[int, Field(ge=1)]


class Stored(Small):
    """A picture of ours."""

    url: Address


class Picture(Stored):
    """A finished picture of a job."""

    index: Count
    """Of the task that made it."""


class Unclaimed(Small):
    """A picture that came when its task had ended already; `…/accept-late` takes it, and so does a retry."""

    index: Count
    attempt: Count
    kept_until: AwareDatetime


class Options(Shape):
    """What was asked beside the prompt; empty until something was."""

    num_images: Annotated[int, Field(ge=1, le=4)] = 1
    aspect_ratio: str | None = None
    upstream_ratio: str | None = None
    """What NanoBanana is asked for."""
    resolution: str | None = None
    output_format: Literal["jpg", "png", "webp"] | None = None
    fit: Literal["cover", "contain", "stretch"] = "cover"
    use: Literal["original", "result"] = "original"


class TaskState(Shape):
    """One NanoBanana task of the present attempt."""

    index: Count
    task_id: str | None
    """NanoBanana's own id, opaque; null until it answered."""
    status: ImageJobStatus


class FailedTask(Shape):
    """A task of the present attempt that ended without a picture."""

    index: Count
    error: Fault | None


class Links(Shape):
    """Where everything about a job is."""

    self: Address
    status: Address
    result: Address
    events: Address
    cancel: Address
    retry: Address


class Job(Shape):
    """One request for images, from upload to a final status."""

    job_id: Id
    project_id: Id | None
    batch_id: Id | None
    source_job_id: Id | None
    """The job whose original this one shares."""
    status: ImageJobStatus
    progress: Percent
    stage: Stage
    message: str
    error: Fault | None
    attempt: Count
    """0 until something was asked for."""
    prompt: str | None
    prompt_truncated: bool
    """It is longer: a list has its first 500 characters, `GET /api/images/{job_id}` the whole of it."""
    transformation_type: str | None
    model: Model | None
    options: Options
    priority: Literal["low", "normal", "high"]
    credits: Count
    original: Stored | None
    images: list[Picture]
    unclaimed: list[Unclaimed]
    failed_tasks: list[FailedTask]
    tasks: list[TaskState]
    metadata: dict[str, object]
    """Holds `nanobanana_task_id`, task 0's, once it is known."""
    created_at: AwareDatetime
    updated_at: AwareDatetime
    completed_at: AwareDatetime | None
    links: Links
    event_id: EventId


class ImageList(Shape):
    """A page of jobs, newest first."""

    images: list[Job]
    next_cursor: PageCursor
    event_id: int
    """Where a stream of all one's jobs goes on from this list."""


class Accepted(Shape):
    """A job was taken and goes on in the background."""

    job_id: Id
    status: ImageJobStatus
    progress: Percent
    attempt: Count
    credits: Count
    event_id: EventId
    links: Links


class Status(Shape):
    """How far a job is."""

    job_id: Id
    status: ImageJobStatus
    progress: Percent
    stage: Stage
    message: str
    error: Fault | None
    attempt: Count
    place: Count | None
    """In the line, while it waits."""
    estimated_wait_s: Annotated[float, Field(ge=0)] | None
    event_id: EventId
    updated_at: AwareDatetime


class Result(Shape):
    """The pictures of a completed job."""

    job_id: Id
    status: Literal[ImageJobStatus.COMPLETED]
    images: list[Picture]


class CheckProcessing(Shape):
    """`check-generation-status`: not done yet."""

    success: Literal[True]
    status: Literal["processing"]
    message: str


class CheckCompleted(Shape):
    """`check-generation-status`: done."""

    success: Literal[True]
    status: Literal["completed"]
    imageId: Id  # noqa: N815 - this route alone answers in camelCase
    transformedUrl: Address  # noqa: N815


class CheckFailed(Shape):
    """`check-generation-status`: ended without a picture."""

    success: Literal[False]
    status: Literal["failed"]
    message: str


class AttemptSummary(Shape):
    """One attempt of a job."""

    number: Annotated[int, Field(ge=1)]
    status: ImageJobStatus
    error_code: FaultCode | None
    created_at: AwareDatetime
    ended_at: AwareDatetime | None


class PastStatus(Shape):
    """A `status` event of a job's history."""

    id: EventId
    name: Literal["status"]
    at: AwareDatetime
    status: ImageJobStatus
    stage: Stage
    progress: Percent
    message: str
    attempt: Count
    error: Fault | None
    images: list[Picture]


class PastDeletion(Shape):
    """A `deleted` event of a job's history, seen once it is restored."""

    id: EventId
    name: Literal["deleted"]
    images: list[Picture]


class History(Shape):
    """Everything that happened to a job."""

    job_id: Id
    attempts: list[AttemptSummary]
    events: list[PastStatus | PastDeletion]
    next_cursor: NumberedCursor


class StatusEvent(Shape):
    """`event: status`: a job is now like this."""

    job_id: Id
    status: ImageJobStatus
    progress: Percent
    stage: Stage
    message: str
    attempt: Count
    images: list[Picture]
    error: Fault | None
    at: AwareDatetime


class DeletedEvent(Shape):
    """`event: deleted`: the job is gone."""

    job_id: Id


class ResetEvent(Shape):
    """`event: reset`: what was missed cannot be told, the present state follows."""


class ReadyEvent(Shape):
    """`event: ready`: all events behind its id follow. Begins a stream of all jobs, which sends no states."""


class HeartbeatEvent(Shape):
    """`event: heartbeat`: the stream is alive; has no id."""


class Alive(Shape):
    """The process answers."""

    status: Literal["ok"]


class Ready(Shape):
    """The service can take callbacks."""

    status: Literal["ready"]
    clock_jumped_s: float | None = None
    """By how much the wall clock was set in the last ten minutes; below 0: back. Absent while it was not."""
