"""
What a job, its tasks and pictures are, and how they may move: pure functions over frozen values.

A move is planned here and written by ``flow``. Within an attempt a task only goes forward, so a late, repeated
or unknown word plans nothing.
"""

import enum
from collections.abc import Mapping, Sequence
from typing import Final

from nanohook.rules import downloads
from nanohook.rules.downloads import Candidate
from nanohook.rules.status import ImageJobStatus, Stage
from nanohook.values import frozen, replace


class Step(enum.StrEnum):
    """What the work loop does next for a task."""

    SUBMIT = "submit"
    ASK = "ask"
    FINISH = "finish"


@frozen
class Fault:
    """Why a task or job ended without a picture."""

    code: str
    """One of the contract's error codes, ``words.FAULTS``."""
    detail: str | None = None
    """What the other side said, for the log of the job; never shown as the message."""


@frozen
class Task:
    """One NanoBanana task of one attempt."""

    job_id: str
    attempt: int
    index: int
    owner_id: str
    task_id: str | None
    """NanoBanana's own id, opaque; ``None`` until it answered or called back."""
    stage: Stage
    progress: int
    fault: Fault | None
    step: Step | None
    """What is due, or ``None`` when nothing is."""
    due_at: int | None
    """When it is due, µs; while it is being done, the end of the lease."""
    claim: int
    """Counts the claims of this row; work done under an older one does not count."""
    tries: int
    """Failed tries of this step so far."""
    asks: int
    """``record-info`` answers so far."""
    submit_started_at: int | None
    accepted_at: int | None
    finish_since: int | None
    """When a result was first known, µs; finishing is given a day from here."""
    candidates: tuple[Candidate, ...]
    """Addresses of its result, in the order in which they were named."""
    suspect_deaths: int | None
    """How often the process died while this task alone was decoded; ``None``: nothing is suspected of it."""
    is_held: bool
    """Somebody is at its step now; changed by claims alone."""
    said: str | None
    """A final word of a callback that ``record-info`` has yet to confirm."""
    may_buy: bool
    """A retry allowed a new task if NanoBanana has none to show for this one."""

    @property
    def is_ended(self) -> bool:
        """Nothing more will happen to it."""
        return self.stage.is_final

    @property
    def takes_late(self) -> bool:
        """It is to take a result that is there already: nothing is bought or fetched for it."""
        return self.step is Step.FINISH and not self.candidates

    @property
    def has_result(self) -> bool:
        """Its result was told, and believed: what counts from now on is the patience of finishing."""
        return bool(self.candidates) and self.said is None

    @property
    def next_candidate(self) -> Candidate | None:
        """The address to try next; ``None``: there is none that is alive."""
        return downloads.next_of(self.candidates)

    @property
    def is_known_bought(self) -> bool:
        """NanoBanana has shown that it took the task: by its id, or by a result."""
        return self.task_id is not None or bool(self.candidates)


@frozen
class Stored:
    """A picture of ours: where its bytes and its thumbnail are, and what they are."""

    key: str
    thumbnail_key: str
    content_type: str
    width_px: int
    height_px: int
    size_bytes: int


@frozen
class ResultPicture:
    """A finished picture of a job."""

    index: int
    attempt: int
    stored: Stored


UNCLAIMED_FOR_US: Final = 7 * 24 * 3600 * 1_000_000
"""How long a picture waits to be taken."""


@frozen
class Unclaimed:
    """A picture that came when its task had ended: nobody waited for it any more."""

    job_id: str
    attempt: int
    index: int
    owner_id: str
    stored: Stored
    sha256: bytes
    created_at: int

    @property
    def kept_until(self) -> int:
        """When it goes, µs."""
        return self.created_at + UNCLAIMED_FOR_US


@frozen
class Job:
    """One request for images, from upload to a final status. Times are µs since the epoch, UTC."""

    id: str
    owner_id: str
    project_id: str | None
    source_job_id: str | None
    batch_id: str | None
    """The request of many jobs that it was part of."""
    original_id: str | None
    status: ImageJobStatus
    stage: Stage
    progress: int
    fault: Fault | None
    attempt: int
    """0 until something was asked for."""
    prompt: str | None
    transformation_type: str | None
    model: str | None
    options: Mapping[str, object]
    """What was asked beside the prompt: ``num_images aspect_ratio resolution output_format fit use``."""
    priority: str
    language: str
    metadata: Mapping[str, object]
    last_event_id: int
    created_at: int
    updated_at: int
    completed_at: int | None
    is_prompt_cut: bool = False
    """It is one of a list: of its prompt only the beginning is here."""

    @property
    def is_open(self) -> bool:
        """Something was asked for and has not ended."""
        return self.stage is not Stage.UPLOADED and not self.status.is_final

    @property
    def has_input(self) -> bool:
        """It starts from a picture, which NanoBanana must be able to fetch."""
        return self.original_id is not None or self.options.get("use") == "result"


def advance(task: Task, stage: Stage, *, progress: int | None = None, fault: Fault | None = None) -> Task | None:
    """
    Plan *task*'s move to *stage*.

    Args:
        task: As it is stored.
        stage: Where it shall go.
        progress: Percent within the stage; the stage's own when ``None``.
        fault: Why, for a move to FAILED or CANCELED.

    Returns:
        The task after the move, or ``None`` if that changes nothing: it has ended, or is already past that.
    """
    if task.is_ended:
        return None
    if stage.is_final:
        done = task.progress if stage.progress is None else stage.progress
        return replace(task, stage=stage, progress=done, fault=fault, step=None, due_at=None)
    asked = progress if progress is not None else stage.progress or 0
    percent = max(task.progress, asked)
    if stage.place < task.stage.place or (stage is task.stage and percent == task.progress):
        return None
    return replace(task, stage=stage, progress=percent)


def completed(task: Task) -> Task:
    """Plan that *task* has its picture, whether or not it had ended without one."""
    return replace(
        task,
        stage=Stage.COMPLETED,
        progress=Stage.COMPLETED.progress or 0,
        fault=None,
        step=None,
        due_at=None,
    )


def summarise(job: Job, tasks: Sequence[Task]) -> Job:
    """
    Tell what *job* is, seeing the *tasks* of its present attempt (at least one).

    Open as long as one task is: then it stands where the hindmost open task stands. ``COMPLETED`` with at
    least one picture, else canceled or failed with the error of the lowest index.
    """
    still_open = [task for task in tasks if not task.is_ended]
    if still_open:
        stage = min((task.stage for task in still_open), key=lambda stage: stage.place)
        percent = sum(task.progress for task in tasks) // len(tasks)
        return replace(job, stage=stage, status=stage.status, progress=percent, fault=None)
    if any(task.stage is Stage.COMPLETED for task in tasks):
        return replace(job, stage=Stage.COMPLETED, status=ImageJobStatus.COMPLETED, progress=100, fault=None)
    first = min(tasks, key=lambda task: task.index)
    stage = Stage.CANCELED if all(task.stage is Stage.CANCELED for task in tasks) else Stage.FAILED
    return replace(job, stage=stage, status=stage.status, fault=first.fault)


def shows_change(before: Job, after: Job) -> bool:
    """Tell whether people would see a difference: without one there is no event."""
    return (before.status, before.stage, before.progress, before.attempt) != (
        after.status,
        after.stage,
        after.progress,
        after.attempt,
    )
